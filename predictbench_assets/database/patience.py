"""Limits on the wait for a server's answer.

TCP notices a peer that is dead, not one that takes everything and never answers: a pooler that hangs, a server that was
stopped. So each answer is waited for here, for a limited time.
"""

import math
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from predictbench_assets.settings import DB_TIMEOUT_SECONDS

_AFTER_SILENCE = 10.0
_AT_THE_END = 3.0

_Result = TypeVar("_Result")


class Patience:
    """The time for each answer of one server, shared by the connections to it.

    One that did not answer in time is given little until it does: what is tried after it (the same again, a note of the
    failure) is as likely to wait in vain.

    Args:
        limit: name of the setting, for the error's text.
    """

    def __init__(self, seconds: float = DB_TIMEOUT_SECONDS, limit: str = "DB_TIMEOUT_SECONDS") -> None:
        self._seconds, self._limit = seconds, limit
        self._silent = 0.0
        self._end = math.inf

    @property
    def seconds(self) -> float:
        """Limit of the next answer."""
        seconds = min(self._seconds, _AFTER_SILENCE) if self._silent else self._seconds
        return max(0.0, min(seconds, self._end - time.monotonic()))

    def hurry(self) -> None:
        """Wait a few seconds more in all: this process was asked to end."""
        self._end = min(self._end, time.monotonic() + _AT_THE_END)

    def answered(self) -> None:
        """Take note of an answer."""
        self._silent = 0.0

    def exhausted(self) -> psycopg.OperationalError:
        """The error for an answer that did not come in time."""
        if time.monotonic() >= self._end:
            return psycopg.OperationalError(f"the server did not answer in the {_AT_THE_END:g} s that were left")
        self._silent += self.seconds
        return psycopg.OperationalError(
            f"the server has not answered for {self._silent:g} s ({self._limit}): it hangs, is slow, or waits for the "
            "lock of another session"
        )


class PatientConnection(psycopg.Connection[Any]):
    """A connection of the driver that is closed when an answer does not come in time."""

    patience = Patience()
    """Limits of this engine alone."""

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        """Wait for one answer; interrupted by a signal, the connection is closed.

        Raises:
            psycopg.OperationalError: it did not come in time.
        """
        try:
            result = super().wait(gen, interval, self.patience.seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise self.patience.exhausted() from None
        except Exception:
            raise
        except BaseException:
            # A signal. The answer may still come, so nothing else can be sent here; an attempt (to roll back, to
            # give the connection back) would raise an error in the place of the signal.
            self.pgconn.finish()
            raise
        self.patience.answered()
        return result
