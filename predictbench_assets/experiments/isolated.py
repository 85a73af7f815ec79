"""The process in which the calls of an experiment that crashes are made: the other end of `isolation`."""

import asyncio
import faulthandler
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import IO, Any, cast
from uuid import UUID

from predictbench_assets.experiments.calls import LEAVE_S, Caller
from predictbench_assets.experiments.contexts import Contexts, LogLines
from predictbench_assets.experiments.isolation import Setup
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.model_calls.records import Call, Claim, Reply, Settled
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.runner import Attempt
from predictbench_assets.experiments.source import ExperimentSource
from predictbench_assets.markets.market import Market

_SLACK_S = 0.5


def main() -> None:
    """Make the calls that are asked for on standard input, until it is closed."""
    faulthandler.enable(all_threads=False)  # the log has the line of a crash
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silent, 0)
    os.dup2(2, 1)  # what an experiment prints is no message
    link = _Link(incoming, outgoing)
    try:
        setup: Setup = pickle.load(incoming)  # noqa: S301 - of the process that started this one
        experiment = setup.remake()
    except BaseException as error:
        link.send("refused", f"could not make the experiment: {type(error).__name__}: {error}")
        sys.exit(1)
    asyncio.run(_serve(link, setup, experiment))


class _Link:
    """The pipes to the process that started this one, and the questions that it has not answered yet."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._writing = threading.Lock()
        self._numbers = itertools.count()
        self._questions: dict[int, Future[Any]] = {}

    def send(self, kind: str, *message: object) -> None:
        """Send a message."""
        content = pickle.dumps((kind, *message))
        with self._writing:
            self._outgoing.write(content)
            self._outgoing.flush()

    def ask(self, name: str, *arguments: object) -> Any:
        """Ask that process, and wait for its answer.

        Raises:
            RuntimeError: it could not answer; the text has the reason.
        """
        number, answer = next(self._numbers), Future[Any]()
        self._questions[number] = answer
        self.send("ask", number, name, arguments)
        return answer.result()

    def read(self, on_call: Callable[[int, list[str]], object], on_end: Callable[[], object]) -> None:
        """Take what that process sends, and end with it: `on_end` has a few seconds to close the experiment."""
        try:
            while True:
                kind, number, *message = pickle.load(self._incoming)  # noqa: S301 - as above
                if kind == "call":
                    on_call(number, *message)
                    continue
                good, value = message
                question = self._questions.pop(number)
                if good:
                    question.set_result(value)
                else:
                    question.set_exception(RuntimeError(value))
        finally:
            on_end()
            time.sleep(LEAVE_S + _SLACK_S)
            os._exit(0)


class _Lines(LogLines):
    """Log lines that go to that process, which has the loggers."""

    def __init__(self, link: _Link, level: int) -> None:
        logger = logging.Logger("isolated", level)
        super().__init__(logger)
        self._link = link

    def log(self, level: int, text: str, fields: Mapping[str, object]) -> None:
        """Send a line."""
        self._link.send("log", level, text, dict(fields))


class _Calls:
    """The store of paid calls, which that process has."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def earlier(self) -> list[Call]:
        return cast(list[Call], self._link.ask("calls", "earlier"))

    def now(self, call: Call) -> Call:
        return cast(Call, self._link.ask("calls", "now", call))

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:
        return cast(list[Claim], self._link.ask("calls", "claim", calls, allowance))

    def settle(self, settled: Sequence[Settled]) -> None:
        self._link.ask("calls", "settle", settled)

    def submitted(self, intent: str, batch_id: str) -> None:
        self._link.ask("calls", "submitted", intent, batch_id)

    def reply(self, call_id: UUID) -> Reply | None:
        return cast(Reply | None, self._link.ask("calls", "reply", call_id))

    def close(self) -> None:
        """Do nothing: that process closes it."""


async def _serve(link: _Link, setup: Setup, experiment: Experiment) -> None:
    """Make calls, as many at once as are asked for."""
    lines, source = _Lines(link, setup.log_level), ExperimentSource(experiment)

    def redact(text: str) -> str:
        return str(link.ask("redact", text))

    def history(as_of: datetime) -> Any:
        return link.ask("history", as_of)

    def history_counts(as_of: datetime) -> Any:
        return link.ask("history_counts", as_of)

    def settled_forecasts(name: str, as_of: datetime) -> Any:
        return link.ask("settled_forecasts", name, as_of)

    def artifacts(path: str, content: bytes) -> str:
        return str(link.ask("artifact", path, content))

    attempt = Attempt(
        experiment=experiment,
        contexts=Contexts(
            experiment,
            setup.markets,
            run=setup.run,
            clock=setup.clock,
            history=history if setup.has_history else None,
            history_counts=history_counts if setup.has_history_counts else None,
            settled_forecasts=settled_forecasts if setup.has_settled_forecasts else None,
            market_data=setup.market_data,
            artifacts=artifacts if setup.has_artifacts else None,
            ledger=None if setup.ledger is None else Ledger(_Calls(link), *setup.ledger),
            lines=lines,
            redact=redact,
        ),
        required={
            name: {one.market_id: one for one in map(Outcome.decode, encoded)}
            for name, encoded in setup.required.items()
        },
        clock=setup.clock,
        journal=None,
        limit_s=setup.limit_s,
        until=None,
        redact=redact,
        progress=None,
        total=len(setup.markets),
        lines=lines,
        source=source,
        digest=source.digest(),
    )
    markets = {market.market_id: market for market in setup.markets}
    loop, calls = asyncio.get_running_loop(), _UnderWay(link, attempt)

    def on_call(number: int, market_ids: Sequence[str]) -> None:
        unit = tuple(markets[market_id] for market_id in market_ids)
        asyncio.run_coroutine_threadsafe(calls.make(number, unit), loop)

    ended = asyncio.Event()

    def on_end() -> None:
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=link.read, args=(on_call, on_end), daemon=True).start()
    async with attempt.opened():
        if attempt.refused is not None:
            link.send("refused", f"could not open the experiment: {attempt.refused[0]}")
            os._exit(1)
        link.send("ready")
        await ended.wait()
    os._exit(0)


class _UnderWay:
    """The calls under way, each with a thread that it leaves to a later one."""

    def __init__(self, link: _Link, attempt: Attempt) -> None:
        self._link, self._attempt = link, attempt
        self._free: list[Caller] = []

    async def make(self, number: int, unit: tuple[Market, ...]) -> None:
        """Make one, and send what came of it."""
        name = f"{self._attempt.experiment.name}-{number}"
        caller = self._free.pop() if self._free else Caller(name, self._attempt.overdue)
        outcomes = await self._attempt.call(caller, unit)
        self._free.append(caller)
        self._link.send("outcomes", number, [outcome.encode() for outcome in outcomes], len(self._attempt.overdue))
