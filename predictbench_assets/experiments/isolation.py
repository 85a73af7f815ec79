"""Processes of their own for an experiment that crashes, so that only the market at fault is lost.

All calls share one process. When it dies, each call that was under way is made again, one at a time, in another: one
that a fresh process does not survive either is at fault. Not done where nothing has crashed: the cohort has to be given
to the process, and what the experiment asks for goes through a pipe (see `isolated` for the other end).
"""

import asyncio
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.calls import LEAVE_S
from predictbench_assets.experiments.contexts import Artifacts, History, HistoryCounts, SettledForecasts
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.records import CallScope
from predictbench_assets.experiments.model_calls.store import CallStore
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment, RunMetadata
from predictbench_assets.markets.market import Market

DEATHS_LIMIT: Final = 64
"""Processes of one experiment that may die before it is given up."""

_START_S: Final = 120.0
"""Seconds that a process may take to import the experiment and to be ready."""

_GRACE_S: Final = 15.0
"""Seconds that a process may be late to report a call over its limit: one that hangs entirely is killed."""

_STOPS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_DRAIN_S: Final = 1.0
_ANSWERING_THREADS: Final = 8

_MAIN: Final = (
    "import sys; sys.path[:] = {path!r}; from predictbench_assets.experiments import isolated; isolated.main()"
)


@dataclass(frozen=True)
class Setup:
    """All that a process needs to make calls; what has to come from the database is asked for."""

    remake: Callable[[], Experiment]
    """Factory of the experiment in the process."""
    markets: tuple[Market, ...]
    run: RunMetadata
    clock: Clock
    required: Mapping[str, Sequence[bytes]]
    """The encoded outcomes of the required experiments, by name."""
    limit_s: float
    log_level: int
    is_opened: bool
    """True if the experiment has something to close."""
    has_history: bool
    has_history_counts: bool
    has_settled_forecasts: bool
    market_data: Mapping[str, bytes]
    """Encoded market data by market id, for an experiment that asks for it."""
    has_artifacts: bool
    ledger: tuple[CallScope, Allowance] | None
    """Scope and allowance of its paid calls; None where it makes none."""


class Served:
    """Answers to the questions of a process, by name."""

    def __init__(
        self,
        history: History | None,
        history_counts: HistoryCounts | None,
        settled_forecasts: SettledForecasts | None,
        artifacts: Artifacts | None,
        calls: CallStore | None,
        redact: Callable[[str], str],
        log: Callable[[int, str, Mapping[str, object]], None],
    ) -> None:
        self._history, self._history_counts, self._artifacts = history, history_counts, artifacts
        self._calls = calls
        self._settled_forecasts = settled_forecasts
        self.redact, self.log = redact, log

    def history(self, as_of: datetime) -> tuple[Any, ...]:
        """The settled markets as of an instant."""
        assert self._history is not None
        return tuple(self._history(as_of))

    def history_counts(self, as_of: datetime) -> dict[str, Any]:
        """The same in short."""
        assert self._history_counts is not None
        return dict(self._history_counts(as_of))

    def settled_forecasts(self, name: str, as_of: datetime) -> tuple[Any, ...]:
        """The earlier forecasts of an experiment as of an instant."""
        assert self._settled_forecasts is not None
        return tuple(self._settled_forecasts(name, as_of))

    def artifact(self, path: str, content: bytes) -> str:
        """Store an artifact, and return its address."""
        assert self._artifacts is not None
        return self._artifacts(path, content)

    def calls(self, name: str, *arguments: Any) -> Any:
        """The answer of the store of paid calls: its method of that name."""
        return getattr(self._calls, name)(*arguments)


@dataclass(frozen=True)
class Crash:
    """The end of the process that made a call, in place of an answer."""

    reason: str
    retriable: bool = False
    """True if something else than the call ended it."""


class Isolated:
    """A caller whose calls are made in processes that may die.

    Args:
        setup: setup of every process.
        served: answers to their requests.
        deaths_limit: so many may die before the experiment is given up.
    """

    def __init__(self, setup: Setup, served: Served, *, deaths_limit: int = DEATHS_LIMIT) -> None:
        self._setup, self._served, self._deaths_limit = setup, served, deaths_limit
        self._shared: _Process | None = None
        self._alone: _Process | None = None
        self._starting, self._trying = asyncio.Lock(), asyncio.Lock()
        self._refused: str | None = None
        self.calls = 0
        self.deaths = 0
        """Processes that ended by themselves."""

    @property
    def given_up(self) -> str | None:
        """The reason why no further call is made; None as long as calls are made."""
        if self._refused is None and self.deaths >= self._deaths_limit:
            return f"the experiment crashes, {self.deaths} processes of it have ended"
        return self._refused

    @property
    def overdue(self) -> int:
        """Calls of the shared process that are still running past their limit."""
        return 0 if self._shared is None else self._shared.overdue

    async def call(self, market_ids: Sequence[str], limit_s: float) -> list[Outcome] | Crash:
        """Make one call, of one market or of several, with the others of this experiment."""
        self.calls += 1
        async with self._starting:
            if self._shared is None or self._shared.ended is not None:
                self._shared = await self._started()
        answer = await self._shared.call(market_ids, limit_s)
        if isinstance(answer, Crash):
            async with self._trying:
                return await self._call_alone(market_ids, limit_s)
        return answer

    async def close(self) -> None:
        """End the processes."""
        for process in (self._shared, self._alone):
            if process is not None:
                await asyncio.to_thread(process.close)

    async def _call_alone(self, market_ids: Sequence[str], limit_s: float) -> list[Outcome] | Crash:
        """Make a call while no other is made in its process; one that made another before is no proof."""
        while self.given_up is None:
            fresh = self._alone is None or self._alone.ended is not None
            process = self._alone = await self._started() if fresh else self._alone
            assert process is not None
            answer = await process.call(market_ids, limit_s)
            if not isinstance(answer, Crash):
                return answer
            if not process.was_ready:
                self._refused = f"the experiment cannot be run in a process of its own: {answer.reason}"
            elif fresh:
                return answer
        return Crash(f"not tried: {self.given_up}", retriable=True)

    async def _started(self) -> "_Process":
        process = _Process(self._served, self._died)
        await asyncio.to_thread(process.start, self._setup)
        return process

    def _died(self) -> None:
        self.deaths += 1


class _Process:
    """One process, and the calls that are under way in it."""

    def __init__(self, served: Served, died: Callable[[], None]) -> None:
        self._served, self._died = served, died
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._calls: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._numbers = itertools.count()
        self._writing = threading.Lock()
        self._answering = ThreadPoolExecutor(_ANSWERING_THREADS, thread_name_prefix="isolated")
        self._closed = False
        self._hung: str | None = None
        self._refusal: str | None = None
        self._end: asyncio.Future[Crash] = self._loop.create_future()
        self.overdue = 0

    @property
    def ended(self) -> Crash | None:
        """End of the process; None while it is alive."""
        return self._end.result() if self._end.done() else None

    @property
    def was_ready(self) -> bool:
        """True if it came as far as to make calls."""
        return self._ready.done()

    def start(self, setup: Setup) -> None:
        """Start it, and hand over what it needs."""
        self._is_opened = setup.is_opened
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", _MAIN.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a signal of the terminal is for this process, which ends that one
        )
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        self._watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        self._watcher.start()
        self._send(setup)

    async def call(self, market_ids: Sequence[str], limit_s: float) -> list[Outcome] | Crash:
        """Make a call in it."""
        await self._first_of(self._ready, within=_START_S)
        if not self._ready.done() and not self._end.done():
            self._kill(f"was not ready within {_START_S:g} s")
        number, answer = next(self._numbers), self._loop.create_future()
        self._calls[number] = answer
        try:
            await asyncio.to_thread(self._send, ("call", number, list(market_ids)))
            await self._first_of(answer, within=limit_s + _GRACE_S)
            if not answer.done() and not self._end.done():
                self._kill(f"gave no answer within {limit_s:g} s, and did not let itself be interrupted")
                await self._first_of(answer)
        finally:
            del self._calls[number]
        return answer.result() if answer.done() else self._end.result()

    async def _first_of(self, future: "asyncio.Future[Any]", *, within: float | None = None) -> None:
        """Wait until this is done, or the process has ended."""
        both: set[asyncio.Future[Any]] = {future, self._end}
        await asyncio.wait(both, timeout=within, return_when=asyncio.FIRST_COMPLETED)

    def close(self) -> None:
        """End it, whatever it is at; an experiment that opened something may close it first."""
        self._closed = True
        if self._is_opened and self._ready.done():
            self._close_input()  # the other end closes the experiment, and itself
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_S + _DRAIN_S)
        self._process.kill()
        self._watcher.join(2 * _DRAIN_S)
        self._answering.shutdown(wait=False, cancel_futures=True)

    def _kill(self, why: str) -> None:
        self._hung = self._hung or why
        self._process.kill()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        with self._writing, suppress(OSError, ValueError):  # it is dead, which is seen elsewhere
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with self._writing, suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        """Take what it sends, until it is dead."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe, suppress(Exception):  # a dying process may leave half a message
            while True:
                kind, *message = pickle.load(pipe)  # noqa: S301 - it could do all that here as well
                match kind:
                    case "ask":
                        self._answering.submit(self._answer, *message)
                    case "log":
                        with suppress(Exception):  # a handler's trouble costs the line
                            self._served.log(*message)
                    case "refused":
                        (self._refusal,) = message
                    case _:
                        self._loop.call_soon_threadsafe(self._take, kind, *message)

    def _take(self, kind: str, number: int = 0, lines: Sequence[bytes] = (), overdue: int = 0) -> None:
        if kind == "ready":
            self._ready.set_result(None)
        elif (answer := self._calls.get(number)) is not None and not answer.done():
            answer.set_result([Outcome.decode(line) for line in lines])
            self.overdue = overdue

    def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            answer, good = getattr(self._served, name)(*arguments), True
        except Exception as error:
            answer, good = f"{type(error).__name__}: {error}", False
        self._send(("answer", number, good, answer))

    def _watch(self, reader: threading.Thread) -> None:
        """Wait for its end, and end what it started: that would hold the pipe open."""
        code = self._process.wait()
        if hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        reader.join(_DRAIN_S)
        self._close_input()
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._see_end, code)

    def _see_end(self, code: int) -> None:
        stopped = -code in _STOPS
        if not self._closed and not stopped:
            self._died()
        how = self._hung or self._refusal or f"ended with {_how(code)}"
        self._end.set_result(Crash(f"the process that forecast it {how}", retriable=stopped or self._hung is not None))


def _how(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name} (out of memory?)" if name == "SIGKILL" else name
    return f"signal {-code}"
