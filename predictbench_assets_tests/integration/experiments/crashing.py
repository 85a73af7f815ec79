"""Experiments that end their process, as the market's id says."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from predictbench_assets.experiments import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Market,
    PipelineContext,
    RunMetadata,
)

HALF_A_GIGABYTE = 2**29


class Crashing(Experiment):
    """Does what the id of the market names before the dash."""

    name = "crashing"
    version = "1"
    description = "Ends its process for some markets."
    requires = ("before",)
    calls = 0

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Answer, or not."""
        self.calls += 1
        match market.market_id.partition("-")[0]:
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "abort":
                os.abort()
            case "memory":
                resource.setrlimit(resource.RLIMIT_AS, (HALF_A_GIGABYTE, HALF_A_GIGABYTE))
                ctypes.CDLL(None).memset(ctypes.CDLL(None).malloc(2 * HALF_A_GIGABYTE), 1, 2 * HALF_A_GIGABYTE)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stopped":
                os.kill(os.getpid(), signal.SIGTERM)
            case "children":  # one that outlives it and holds its pipes
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
                os._exit(4)
            case "innocent" if self.calls > 1:  # what another call left behind
                os._exit(6)
            case "raises":
                raise ValueError("no luck today: s3cret")
            case "skips":
                raise ExperimentSkip("not today")
            case "asks":
                before = context.required["before"].probability
                found = {"settled": len(list(context.history())), "counts": dict(context.settled_counts())}
                context.logger.warning("asked about %s", market.market_id)
                stored = context.artifact("note.txt", market.market_id.encode())
                return ExperimentResult.binary(before, payload=found, artifact_uri=stored)
        return ExperimentResult.binary(0.5, payload={"draw": context.rng.random(), "of": len(context.cohort)})


class CrashingAsync(Crashing):
    """The same, in a coroutine."""

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # type: ignore[override]
        """Wait a moment first."""
        await asyncio.sleep(0)
        return super().run(market, context)


class CrashingEvents(Experiment):
    """Ends its process for each event that has a market of an odd number."""

    name = "crashing_events"
    version = "1"
    description = "Ends its process for some events."

    def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Answer for all of them, or for none."""
        if any(int(market.market_id) % 2 for market in markets):
            os._exit(5)
        return {market.market_id: ExperimentResult.binary(0.5) for market in markets}


class CrashingCohort(CrashingEvents):
    """Ends its process if any market of the cohort has an odd number."""

    name = "crashing_cohort"
    unit = "cohort"
    run_cohort = CrashingEvents.run_event


class Hanging(Experiment):
    """Keeps the interpreter's lock for one market, so that no thread of its process gets on."""

    name = "hanging"
    version = "1"
    description = "Hangs entirely for one market."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Wait without letting anybody else run."""
        if market.market_id == "hangs":
            ctypes.PyDLL(None).sleep(600)
        return ExperimentResult.binary(0.5)


class NotThere(Experiment):
    """Can be made in the process that imported it first only."""

    name = "not_there"
    version = "1"
    description = "Needs something that there is one of."

    def __init__(self) -> None:
        if "CRASHING_ONE" in os.environ:
            raise RuntimeError("the model is in use")

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Answer."""
        return ExperimentResult.binary(0.5)


class Valued(Experiment):
    """One of several instances; ends its process for one market."""

    version = "1"
    description = "Answers with the value that it was made with."

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value
        self.lock = threading.Lock()  # nothing that could be sent to another process

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Answer, or not."""
        if market.market_id == "exit":
            os._exit(3)
        return ExperimentResult.binary(self.value)


class Opened(Valued):
    """Writes down when it is opened and closed."""

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:
        """Note both, and fail where that is asked for."""
        if "CRASHING_CLOSED" in os.environ:
            raise RuntimeError("the shop is closed")
        self._note("opened")
        self.client: float | None = self.value
        try:
            yield
        finally:
            self.client = None
            self._note("closed")

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Answer by what was opened."""
        assert self.client == self.value
        return super().run(market, context)

    def _note(self, what: str) -> None:
        with Path(os.environ["CRASHING_NOTES"]).open("a") as notes:
            notes.write(f"{os.getpid()} {what}\n")


class Informed(Crashing):
    """Says what it sees of the order book, of the week, and of its own past."""

    name = "informed"
    requires = ()
    market_data = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Say it."""
        past = [one.probability for one in context.settled_forecasts(self.name)]
        bids = None if context.book is None else context.book.bids
        prices = [price for _, price in context.price_history]
        return ExperimentResult.binary(0.5, payload={"bids": bids, "prices": prices, "past": past})


def opened() -> list[Opened]:
    """One of them."""
    return [Opened("opened", 0.25)]


def valued() -> list[Valued]:
    """Two of them."""
    return [Valued("valued_low", 0.25), Valued("valued_high", 0.75)]
