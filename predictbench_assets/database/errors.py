"""Classification of database errors: someone has to act, trying again may help, or these very rows are to blame.

Only the server's own verdict on the data (SQLSTATE classes 22, 23, 54 and 21000) is ever blamed on a market. A lost
connection, a deadlock or a server out of room is no evidence against the rows that were on their way.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from predictbench_assets.failures import PermanentError, TransientError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

ErrorKind = Literal["data", "unavailable", "refused"]

# 54: a value too large for an index, or nested too deep for the server's parser.
_DATA_CLASSES = ("22", "23", "54")
# 26, 34: a pooler gave half of what was sent together to another session; nothing of ours has a name there.
_UNAVAILABLE_CLASSES = ("08", "26", "34", "40", "53", "57", "58", "XX")
_UNAVAILABLE_STATES = ("25P02", "25P03", "55P03")  # the transaction or the lock was taken from us
_FULL_HOUSE = "too many connections"
_REFUSED_AT_THE_DOOR = (
    *("authentication failed", "no password supplied", 'role "', 'database "'),
    *("Tenant or user not found", "tenant/user", "no such user", "no such database"),  # poolers
)


class DatabaseUnavailable(TransientError):
    """The database could not be reached, or stopped answering; no row is to blame."""


class DatabaseRefused(PermanentError):
    """A refusal by the database: a missing table or right, a wrong password."""


class DatabaseUnsuitable(DatabaseRefused):
    """The database is reached, and set up so that what is stored would come back changed."""


@dataclass(frozen=True)
class Backoff:
    """Policy of trying again when the database is unavailable (about a minute by default).

    Args:
        attempts: tries in all.
        first: seconds before the second attempt; doubles each time, with as much jitter.
        longest: no pause is longer, in seconds.
        within: no attempt is begun later than so many seconds after the first one.
    """

    attempts: int = 8
    first: float = 0.5
    longest: float = 15.0
    within: float = 180.0

    def run(self, action: Callable[[], _Result]) -> _Result:
        """The action's result; only `DatabaseUnavailable` is tried again, and raised when it persists."""
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts) | stop_after_delay(self.within),
            wait=wait_exponential(multiplier=self.first, max=self.longest) + wait_random(0, self.first),
            retry=retry_if_exception_type(DatabaseUnavailable),
            before_sleep=before_sleep_log(_log, logging.WARNING),
            reraise=True,
        )
        return retrying(action)


BRIEF = Backoff(attempts=4, first=0.25, longest=2.0)
"""Policy of single short transactions, where a person or a failure hook is waiting."""

ONCE = Backoff(attempts=1)
"""Policy where the answer that the database is not there is as good as any."""


def error_kind(sqlstate: str | None) -> ErrorKind:
    """Classify a SQLSTATE; None stands for a connection that broke before any could be sent."""
    if sqlstate is None:
        return "unavailable"
    if sqlstate == "21000" or sqlstate[:2] in _DATA_CLASSES:
        return "data"
    if sqlstate[:2] in _UNAVAILABLE_CLASSES or sqlstate in _UNAVAILABLE_STATES:
        return "unavailable"
    return "refused"


ADDRESS = "predictbench_address"
"""The execution option of an engine that names what its address was given by, where that is no setting."""

_SETTINGS = "SUPABASE_DB_URL (for migrations SUPABASE_MIGRATION_DB_URL) or DATABASE_URL"


@contextmanager
def classified(engine: Engine | None = None) -> Iterator[None]:
    """Turn the driver's errors into ours.

    Args:
        engine: engine in use, if its address may be given by something else than a setting; see `ADDRESS`.

    Raises:
        DatabaseUnavailable: trying again may help.
        DatabaseRefused: it will not; the text has the server's own words.
    """
    address = str(engine.get_execution_options().get(ADDRESS, _SETTINGS)) if engine is not None else _SETTINGS
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("no free database connection in time: raise DB_POOL_MAX_SIZE.") from error
    except DBAPIError as error:
        raise _ours(error.orig if isinstance(error.orig, psycopg.Error) else None, str(error.orig), address) from error
    except psycopg.Error as error:
        raise _ours(error, str(error), address) from error


def in_transaction(engine: Engine, work: Callable[[Connection], _Result], backoff: Backoff = BRIEF) -> _Result:
    """Run `work` in a transaction of its own, whole again from the start when the database was unavailable.

    Behind a transaction-mode pooler a session may have a time-out that another client left there. The first try takes
    that chance, the others set limits of their own: a round trip that is hardly ever spent.
    """
    tries = 0

    def attempt() -> _Result:
        nonlocal tries
        tries += 1
        with classified(engine), engine.begin() as connection:
            if tries > 1:
                connection.execute(_LIMITS)
            return work(connection)

    return backoff.run(attempt)


_LIMITS = text("SELECT set_config('statement_timeout', '60s', true), set_config('lock_timeout', '30s', true)")


def cause_of_absence(state: str | None, address: str = _SETTINGS) -> str:
    """Hint for someone who reads of an unavailable database; empty where its own words have it."""
    if state is None:
        status = " `predictbench db status` says which one is used." if address == _SETTINGS else ""
        return f". Is the server of {address} up?{status}"
    if state == "57014":
        return ": a statement_timeout of the role, the server or another client of the pooler cut it, or a person did"
    if state == "55P03":
        return ": another session is at work on the same tables or rows"
    if state in ("08P01", "26000", "34000"):
        return ": words of the pooler between us and the server, or of a connection that it broke"
    return ""


def _ours(error: psycopg.Error | None, words: str, address: str) -> DatabaseUnavailable | DatabaseRefused:
    state = error.sqlstate if error is not None else None
    if state is None and any(sign in words for sign in _REFUSED_AT_THE_DOOR) and _FULL_HOUSE not in words:
        state = "28000"  # libpq hands on the words of a failed connection, not its SQLSTATE
    message = words.strip().splitlines()[0] if words.strip() else "the connection broke"
    if error is not None and state is None and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DatabaseRefused(f"the database driver refused: {message}")
    if error_kind(state) == "unavailable":
        return DatabaseUnavailable(f"the database is not available: {message}{cause_of_absence(state, address)}")
    return DatabaseRefused(f"the database refused ({state}): {message}. {advice(state, address)}")


def advice(state: str | None, address: str = _SETTINGS) -> str:
    """Advice for a refusal."""
    if state in ("42P01", "42703", "3F000"):
        return "Its schema is older than this code: run `predictbench db upgrade`."
    if state is not None and state.startswith("28"):
        return f"Check user, password and database in {address}."
    if state == "42501":
        return f"Give the role of {address} its rights on the schema: migrations/roles.sql does."
    if state == "25006":
        return (
            "It takes no writes: a replica, a project that its provider made read-only (a full disk), or a setting "
            "that another client of the pooler left behind."
        )
    return "This is a fault in Predictbench; please report it with the text above."
