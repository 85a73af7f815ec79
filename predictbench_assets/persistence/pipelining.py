"""Many transactions in one round trip, each with its own answer.

psycopg's own pipeline waits at every sync, which is a round trip a transaction. Here everything is sent first, over
libpq's non-blocking interface, and the answers are read as they come.
"""

import select
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from predictbench_assets.database.errors import error_kind
from predictbench_assets.database.patience import PatientConnection


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with `$n` placeholders; parameters are text in the server's notation, with their types' oids."""

    sql: bytes
    parameters: Sequence[bytes | None] = ()
    oids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's reason for rolling a transaction back."""

    sqlstate: str
    message: str
    constraint: str | None


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """Result of one transaction: the first row of its last statement, or why it was rolled back."""

    row: tuple[bytes | None, ...] | None
    refusal: Refusal | None


def run_transactions(
    connection: PatientConnection, transactions: Sequence[Sequence[Statement]]
) -> list[TransactionResult]:
    """Run each group of statements as a transaction of its own; one that fails does not touch the others.

    The connection must be idle and in autocommit. After any exception it must be thrown away.

    Raises:
        psycopg.OperationalError: the connection broke or fell silent; some of the transactions may have committed.
    """
    begin_transactions(connection, transactions)
    results = collect_results(connection, len(transactions))
    connection.pgconn.exit_pipeline_mode()
    return results


def begin_transactions(connection: PatientConnection, transactions: Sequence[Sequence[Statement]]) -> None:
    """Send transactions behind those under way, if any; returns when the server has taken everything.

    The connection stays in pipeline mode until all are collected and the caller leaves it.
    """
    server = connection.pgconn
    server.enter_pipeline_mode()  # no harm when it is in it already
    for statements in transactions:
        for statement in statements:
            server.send_query_params(statement.sql, statement.parameters, param_types=statement.oids)
        server.pipeline_sync()
    while server.flush():
        _wait(connection, writing=True)


def collect_results(connection: PatientConnection, number: int) -> list[TransactionResult]:
    """Wait for the answers to that many transactions, in the order they were sent."""
    results: list[TransactionResult] = []
    row, refusal = None, None
    while len(results) < number:
        if connection.pgconn.is_busy():
            try:
                _wait(connection)
            except psycopg.OperationalError as error:
                raise _last_words(refusal) or error from None
            continue
        result = connection.pgconn.get_result()
        if result is None:  # the end of one statement's results
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            results.append(TransactionResult(None if refusal else row, refusal))
            row, refusal = None, None
        elif result.status == ExecStatus.TUPLES_OK:
            row = _first_row(result)
        elif result.status == ExecStatus.FATAL_ERROR:
            refusal = _refusal(result)
    return results


def _wait(connection: PatientConnection, *, writing: bool = False) -> None:
    """Wait for the socket, reading what it has: a server that cannot answer would stop listening."""
    ready, readable = _ready(connection.pgconn.socket, connection.patience.seconds, writing)
    if not ready:
        raise connection.patience.exhausted()
    connection.patience.answered()
    if readable:
        connection.pgconn.consume_input()


def _ready(socket: int, seconds: float, writing: bool) -> tuple[bool, bool]:
    """Wait for a socket; returns if anything happened in time, and if there is something to read (or its end)."""
    if not hasattr(select, "poll"):  # Windows
        reading, writable, _ = select.select([socket], [socket] if writing else [], [], seconds)
        return bool(reading or writable), bool(reading)
    poll = select.poll()
    poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
    events = poll.poll(seconds * 1000)
    return bool(events), bool(events) and bool(events[0][1] & ~select.POLLOUT)


def _last_words(refusal: Refusal | None) -> psycopg.Error | None:
    """The last notice of a connection that broke, if that was why: a pooler's time-out, an administrator's command."""
    if refusal is None or error_kind(refusal.sqlstate) != "unavailable":
        return None
    try:
        return psycopg.errors.lookup(refusal.sqlstate)(refusal.message)
    except KeyError:  # a pooler's own invention
        return psycopg.OperationalError(refusal.message)


def _first_row(result: PGresult) -> tuple[bytes | None, ...] | None:
    if result.ntuples == 0:
        return None
    return tuple(result.get_value(0, column) for column in range(result.nfields))


def _refusal(result: PGresult) -> Refusal:
    def field(code: DiagnosticField) -> str | None:
        value = result.error_field(code)
        return value.decode("utf-8", "replace") if value is not None else None

    state = field(DiagnosticField.SQLSTATE)
    if state is None:  # libpq's own: the connection is gone
        raise psycopg.OperationalError(result.error_message.decode("utf-8", "replace").strip())
    return Refusal(state, field(DiagnosticField.MESSAGE_PRIMARY) or "", field(DiagnosticField.CONSTRAINT_NAME))
