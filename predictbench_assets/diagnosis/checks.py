"""Checks that run side by side, each with its own time limit, so that a part that hangs or breaks hides no other."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from predictbench_assets.failures import PredictbenchError

Level = Literal["ok", "warn", "fail", "skip"]

LIMIT_S = 15.0
"""Seconds that a check may take: all begin at once, so this bounds the whole."""

_CLEANING_UP_S = 5.0
_LONGEST = 400


@dataclass(frozen=True)
class Finding:
    """Result of a check, and for a warning or a failure the command or setting that mends it."""

    level: Level
    name: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """One part of a deployment, and its check.

    `run` may raise anything; that is a failure of the check alone. With `leaves_traces` it is given a moment to clean
    up behind it when the others are given up.
    """

    name: str
    run: Callable[[], Iterable[Finding]]
    leaves_traces: bool = False


def run_checks(checks: Sequence[Check], *, limit_s: float = LIMIT_S) -> Iterator[list[Finding]]:
    """Run all checks at once, and hand out the findings of each in the order of the checks.

    A check without an answer in time is a failure; it is left behind in its thread, which ends with the process.
    """
    deadline = time.monotonic() + limit_s
    begun = [_Begun(check) for check in checks]
    try:
        for one in begun:
            yield one.findings(deadline, limit_s)
    except BaseException:  # an interrupt, or the reader has enough
        for one in begun:
            if one.check.leaves_traces:
                one.thread.join(_CLEANING_UP_S)
        raise


class _Begun:
    """A check under way, in a thread that a process does not wait for."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self._found: list[Finding] | None = None
        self.thread = threading.Thread(target=self._run, name=f"doctor-{check.name}", daemon=True)
        self.thread.start()

    def findings(self, deadline: float, limit_s: float) -> list[Finding]:
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self._found is None:
            text = f"no answer within {limit_s:g} s"
            return [Finding("fail", self.check.name, text, "check the network, and the address in the settings")]
        return self._found

    def _run(self) -> None:
        try:
            self._found = list(self.check.run())
        except PredictbenchError as error:
            self._found = [failed(self.check.name, error)]
        except Exception as error:  # a library may raise anything for an unforeseen setting
            self._found = [failed(self.check.name, error, "check the settings of this part: `predictbench config`")]


def failed(name: str, error: BaseException, fix: str = "") -> Finding:
    """Finding for an error; our own errors name what mends them."""
    message = " ".join(str(error).split()) or type(error).__name__
    text = message if isinstance(error, PredictbenchError) else f"{type(error).__name__}: {message}"
    return Finding("fail", name, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…", fix)


def megabytes(size: float) -> str:
    """Bytes as plans for databases count them: 1,024 kilobytes each, and no other unit."""
    return f"{size / 1024 / 1024:,.1f} MB"


def clock_finding(name: str, found: timedelta | None, *, warn: timedelta, fail: timedelta) -> Finding:
    """Compare two clocks; None is a clock that is not known."""
    if found is None:
        return Finding("skip", name, "the other side does not tell the time")
    seconds = abs(found).total_seconds()
    if seconds <= warn.total_seconds():
        return Finding("ok", name, f"agrees with ours within {warn.total_seconds():g} s")
    which = "behind" if found > timedelta(0) else "ahead of"
    return Finding(
        "fail" if seconds > fail.total_seconds() else "warn",
        name,
        f"this machine's clock is {seconds:.0f} s {which} it",
        "set the clock: `timedatectl set-ntp true`, or the host's own way",
    )
