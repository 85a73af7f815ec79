"""Experiments that note what is done to them, wait, or fail, as their environment says."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    RetriableError,
)
from predictbench_assets.experiments.research.leaks import leaked
from predictbench_assets.markets.market import Market

CALLS = "TEST_CALLS"
"""Names the file that gets a line for each call."""
GATE = "TEST_GATE"
"""Names the file that has to exist before an answer is given."""
WAIT = "TEST_WAIT_SECONDS"
KILLS = "TEST_KILLS"
"""Names the file that is not there until a process has been killed."""


class Noted(Experiment):
    """Notes every call."""

    name = "noted"
    version = "1"
    description = "Notes every call in a file."
    max_concurrency = 2

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Note the market, and answer by its id."""
        if path := os.environ.get(CALLS):
            line = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(line, f"{market.market_id}\n".encode())
            os.close(line)
            time.sleep(0.005)
        return ExperimentResult.binary(int(market.market_id) % 100 / 100, payload={"draw": context.rng.random()})


class KillsOnce(Noted):
    """Notes every call, and takes its process with it at the tenth, once."""

    name = "kills_once"

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Note the market, and perhaps be killed after it."""
        result = super().run(market, context)
        killed, noted = os.environ.get(KILLS), os.environ.get(CALLS)
        if killed and noted and not Path(killed).exists() and len(Path(noted).read_text().split()) > 10:
            Path(killed).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class OfBooks(Experiment):
    """Reads the order book, market by market."""

    name = "of_books"
    version = "1"
    description = "Counts the levels of the order book."
    market_data = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Tell how many levels and prices there were."""
        levels = 0 if context.book is None else len(context.book.bids)
        return ExperimentResult.binary(0.5, payload={"levels": levels, "prices": len(context.price_history)})


class Trained(Experiment):
    """Has learned from texts of up to a day."""

    name = "trained"
    version = "1"
    description = "Pretends to have been trained until 10 February 2026."
    information = "blind"
    knowledge_cutoff = date(2026, 2, 10)

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Say the same of every market."""
        return ExperimentResult.binary(0.4)


class Gated(Experiment):
    """Waits for a file."""

    name = "gated"
    version = "1"
    description = "Answers once a file is there."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Say that it has begun, then wait."""
        if path := os.environ.get(GATE):
            Path(f"{path}.reached").touch()
            while not Path(path).exists():
                time.sleep(0.02)
        return ExperimentResult.binary(0.5)


class Cancelled(Experiment):
    """Is cancelled, with its run, while it is asked the first time."""

    name = "cancelled"
    version = "1"
    description = "Does what a test says at the first question."
    max_concurrency = 1
    asked: ClassVar[list[str]] = []
    cancel: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Count the question."""
        time.sleep(0.02)
        self.asked.append(market.market_id)
        if len(self.asked) == 1:
            self.cancel()
        return ExperimentResult.binary(0.5)


class Later(Experiment):
    """Comes to the registry later than the others."""

    name = "later"
    version = "1"
    description = "Was added a week after the day."
    requires = ("baseline_snapshot",)

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Half of what the baseline said."""
        return ExperimentResult.binary(context.required["baseline_snapshot"].probability / 2)


class FailsForAll(Experiment):
    """Never succeeds."""

    name = "fails_for_all"
    version = "1"
    description = "Fails for every market."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Fail."""
        raise ValueError(f"no forecast of {market.market_id} today")


class MandatoryFailsForAll(FailsForAll):
    """Never succeeds, and must."""

    name = "mandatory_fails_for_all"
    mandatory = True


class MandatoryFailsForSome(FailsForAll):
    """Succeeds for three markets of four, and must."""

    name = "mandatory_fails_for_some"
    mandatory = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Fail for each fourth id."""
        if int(market.market_id) % 4 == 0:
            return super().run(market, context)
        return ExperimentResult.binary(0.5)


class EventsFail(Experiment):
    """Answers for events, and fails for those with an odd number of markets."""

    name = "events_fail"
    version = "1"
    description = "Fails for some events, skips others."

    def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Log a line for each market, and fail or skip."""
        for market in markets:
            contexts[market.market_id].logger.warning("looked at %s", market.market_id)
        if len(markets) % 2:
            raise RetriableError(f"the model of {len(markets)} markets was busy with {os.environ['TEST_SECRET']}")
        return {market.market_id: ExperimentSkip(f"{len(markets)} markets are even") for market in markets}


class Segfaults(Experiment):
    """Takes its process with it."""

    name = "segfaults"
    version = "1"
    description = "Crashes for each fifth market."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Read where nothing is."""
        if int(market.market_id) % 5 == 0:
            ctypes.string_at(0)
        return ExperimentResult.binary(0.5)


class Slow(Experiment):
    """Waits, as a forecaster that asks somebody else does."""

    name = "slow_1"
    version = "1"
    description = "Waits."
    max_concurrency = 64

    @property
    def config(self) -> Mapping[str, Any]:
        """What decides the forecasts: the name alone."""
        return {"name": self.name}

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Wait."""
        time.sleep(float(os.environ[WAIT]))
        return ExperimentResult.binary(0.5)


class Slow2(Slow):
    """Another."""

    name = "slow_2"


class Slow3(Slow):
    """Another."""

    name = "slow_3"


class Slow4(Slow):
    """Another."""

    name = "slow_4"


class Reader(Experiment):
    """Forecasts what it has read, and for some markets says that it has seen a price."""

    name = "reader"
    version = "1"
    description = "Reads the sources of another experiment."
    information = "search_blind"
    requires = ("news",)

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Tell how many sources there were."""
        sources = context.required["news"].payload["sources"]
        cites = int(market.market_id) % 2 == 0
        rationale = "Kalshi prices it at 62%." if cites else "It is likely."
        payload = {"rationale": rationale, "sources": len(sources), "leaked": leaked(rationale)}
        return ExperimentResult.binary(0.9 if sources else 0.5, payload=payload)
