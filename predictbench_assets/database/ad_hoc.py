"""SQL that a person types: one statement at a time, read-only unless asked otherwise, its rows as Postgres prints them.

Reading has two barriers. The transaction is read-only, and since the server is sent one statement at a time, none can
end it and go on writing behind it. And the role is `predictbench_reader`: on the embedded server the one that logs in,
so that no statement can take more rights than it has; on another server if the address's role may become it.
"""

import json
import re
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import psycopg
from psycopg import pq
from sqlalchemy import URL, Connection, text

from predictbench_assets.database.connection import database_url
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import BRIEF, classified, in_transaction
from predictbench_assets.database.patience import Patience, PatientConnection
from predictbench_assets.database.privileges import READER, grants_sql
from predictbench_assets.database.schema import SCHEMA
from predictbench_assets.failures import PermanentError
from predictbench_assets.settings import Settings

_BOOLEAN = 16
_JSON = (_BOOLEAN, 114, 3802)
"""The oids of what Postgres prints as JSON does: truth values and JSON itself."""
_NUMBERS = (20, 21, 23, 26, 700, 701, 1700)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SHOWN_OF_A_LINE = 66
"""Characters of a line of SQL that are shown with an error."""

_READ_ONLY = ("25006", "42501")
"""SQLSTATEs of a statement that writes, refused by the transaction or for want of a right."""

_NO_TABLE = "42P01"

# Strings, names and comments may contain a semicolon; one within parentheses belongs to a rule.
_LEXEME = re.compile(
    r"""(?s)(?<![\w$])[eE]'(?:[^'\\]|''|\\.)*'?|'[^']*'?|"[^"]*"?|--[^\n]*|/\*|[;()]"""
    r"""|(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)"""
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

_MAY_READ = f"""
    SELECT coalesce(bool_or(has_schema_privilege(pg_roles.oid, pg_namespace.oid, 'USAGE')), false) AS enters,
           coalesce(bool_or(pg_has_role(current_user, pg_roles.oid, 'MEMBER')), false) AS member
    FROM pg_roles, pg_namespace WHERE rolname = '{READER}' AND nspname = '{SCHEMA}'
"""  # noqa: S608 - names of ours
_MAKE_READER = f"""
    DO $$
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('{READER}'));
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
            CREATE ROLE {READER} LOGIN;
        END IF;
        ALTER ROLE {READER} SET default_transaction_read_only = on;
        IF to_regnamespace('{SCHEMA}') IS NOT NULL THEN
            GRANT USAGE ON SCHEMA {SCHEMA} TO {READER};
        END IF;
    END $$
"""


class SqlError(PermanentError):
    """A statement that the server refused; the text points at the place."""


@dataclass(frozen=True)
class Answer:
    """Answer of the server to one statement. Its rows are read before the next statement is sent."""

    columns: Sequence[str]
    types: Sequence[int]
    """The oid of each column's type."""
    rows: Iterator[tuple[str | None, ...]]
    command: str
    """Effect of a statement that returns no rows, such as `INSERT 0 3`."""


def reading_url(settings: Settings) -> URL:
    """The database, for reading: of the embedded server as its reader, who is made if need be.

    Raises:
        DatabaseUnavailable: it cannot be reached.
    """
    url = database_url(settings)
    if settings.writer_url is not None:
        return url

    def work(connection: Connection) -> None:
        if not connection.execute(text(_MAY_READ)).one().enters:
            connection.execute(text(_MAKE_READER))
            connection.execute(text(grants_sql()))

    in_transaction(make_engine(url, pool_size=0), work, BRIEF)
    return url.set(username=READER)


def answers(url: URL, sql: str, *, write: bool = False, patience: Patience | None = None) -> Iterator[Answer]:
    """Run statements in order, in one transaction, and yield what each returns.

    Args:
        url: as whom; see `reading_url`.
        sql: statements, separated by semicolons.
        write: keep what they change, if all succeed; one alone runs as it is, so that it may be VACUUM.
        patience: limits of the wait for each answer.

    Raises:
        SqlError: the server refused one; nothing of this transaction is kept.
        DatabaseUnavailable: the server cannot be reached.
    """
    with classified():
        pooled = make_engine(url, pool_size=0, patience=patience).raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, PatientConnection)
    try:
        connection.autocommit = True
        statements = split_statements(sql)
        if not write:
            _begin_reading(connection)
        elif len(statements) > 1:
            connection.execute("BEGIN")
        for number, statement in enumerate(statements, 1):
            place = f"statement {number} of {len(statements)}: " if len(statements) > 1 else ""
            if write:
                yield from _answered(connection, statement, place)
                continue
            connection.execute("SAVEPOINT statement")
            yield from _answered(connection, statement, place, cancel=True)
            _require_reading(connection, place)
        if connection.info.transaction_status == pq.TransactionStatus.INTRANS and write:
            connection.execute("COMMIT")
    except psycopg.Error as error:
        raise SqlError(str(error).strip()) from error
    except KeyboardInterrupt:
        connection.cancel_safe(timeout=5)
        raise
    finally:
        connection.close()
        pooled.invalidate()


def split_statements(sql: str) -> list[str]:
    """The statements of a text, without the semicolons between them; what has nothing but comments is none."""
    statements, begin, at, depth, blank = [], 0, 0, 0, True
    while (found := _LEXEME.search(sql, at)) is not None:
        lexeme = found.group()
        comment = lexeme.startswith(("--", "/*"))
        blank = blank and not sql[at : found.start()].strip() and (comment or lexeme == ";")
        at = _comment_end(sql, found.end()) if lexeme == "/*" else found.end()
        depth = max(depth + (lexeme == "(") - (lexeme == ")"), 0)
        if lexeme == ";" and depth == 0:
            if not blank:
                statements.append(sql[begin : found.start()].strip())
            begin, blank = at, True
    if not blank or sql[at:].strip():
        statements.append(sql[begin:].strip())
    return statements


def as_json(text: str | None, oid: int) -> str:
    """A value as JSON, by its column's type: a number, a truth value, JSON itself, or text.

    Numbers and JSON are what Postgres printed, so that no digit is lost, however many there are.
    """
    if text is None:
        return "null"
    if oid in _JSON:  # on one line; what is not ASCII can only be within its strings
        line = text.replace("\n", " ").replace("\r", " ")
        return _NOT_ASCII.sub(lambda found: json.dumps(found.group())[1:-1], line)
    # NaN and Infinity have no form in JSON.
    return text if oid in _NUMBERS and _NUMBER.fullmatch(text) else json.dumps(text)


def distinct(names: Sequence[str]) -> list[str]:
    """The names of columns, those that are there already with a number: `id`, `id_2`."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        taken = {*found, *names}
        found.append(name if name not in found else next(one for one in numbered if one not in taken))
    return found


def _comment_end(sql: str, at: int) -> int:
    """End of a comment that has begun: comments nest."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(sql, at)) is not None:
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return len(sql) if depth else at


def _begin_reading(connection: psycopg.Connection) -> None:
    # After its first query no transaction can be made to write any more.
    connection.execute("BEGIN READ ONLY")
    found = connection.execute(_MAY_READ).fetchone()
    if found == (True, True):
        connection.execute(f"SET LOCAL ROLE {READER}")


def _require_reading(connection: psycopg.Connection, place: str) -> None:
    """Go on after a statement, unless it ended the transaction that keeps the next one from writing."""
    if connection.info.transaction_status == pq.TransactionStatus.INERROR:  # it was cancelled: enough rows were read
        connection.execute("ROLLBACK TO SAVEPOINT statement")
    if connection.info.transaction_status != pq.TransactionStatus.INTRANS:
        raise SqlError(f"{place}it ended the read-only transaction; nothing after it was run. Use --write to write.")
    if connection.execute("SHOW transaction_read_only").fetchone() != ("on",):
        raise SqlError(f"{place}it made the transaction one that writes; nothing after it was run. Use --write.")


def _answered(connection: PatientConnection, statement: str, place: str, *, cancel: bool = False) -> Iterator[Answer]:
    """Send one statement, and yield its answer; with `cancel`, what the caller does not read is not computed."""
    server = connection.pgconn
    # With the extended protocol the server takes exactly one statement, whatever we took for one.
    server.send_query_params(statement.encode(errors="surrogateescape"), None)
    server.set_single_row_mode()
    first = _next_result(connection)
    if first is None:
        raise SqlError(f"{place}the server closed the connection")
    if first.status == pq.ExecStatus.FATAL_ERROR:
        raise SqlError(place + _explained(first, statement))
    if first.status not in (pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise SqlError(f"{place}COPY from and to a client is psql's: see --format, or `predictbench export`")
    columns = [(first.fname(index) or b"").decode(errors="replace") for index in range(first.nfields)]
    types = [first.ftype(index) for index in range(first.nfields)]
    rows = _rows(connection, first, types, place, statement)
    yield Answer(columns, types, rows, (first.command_status or b"").decode(errors="replace") if not columns else "")
    if cancel and server.transaction_status == pq.TransactionStatus.ACTIVE:
        connection.cancel_safe(timeout=10)
    while _next_result(connection) is not None:
        pass


def _rows(
    connection: PatientConnection,
    result: "pq.abc.PGresult | None",
    types: Sequence[int],
    place: str,
    statement: str,
) -> Iterator[tuple[str | None, ...]]:
    while result is not None:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise SqlError(place + _explained(result, statement))
        for row in range(result.ntuples):
            yield tuple(_text(result.get_value(row, index), oid) for index, oid in enumerate(types))
        result = _next_result(connection)


def _text(value: bytes | None, oid: int) -> str | None:
    if value is None:
        return None
    return {b"t": "true", b"f": "false"}[value] if oid == _BOOLEAN else value.decode(errors="replace")


def _next_result(connection: PatientConnection) -> "pq.abc.PGresult | None":
    """The next result, waited for so that Ctrl-C is heard."""
    server, patience = connection.pgconn, connection.patience
    while server.flush():
        if not any(select.select([], [server.socket], [], patience.seconds)):
            raise patience.exhausted()
    while server.is_busy():
        if not any(select.select([server.socket], [], [], patience.seconds)):
            raise patience.exhausted()
        server.consume_input()
    return server.get_result()


def _explained(result: pq.abc.PGresult, statement: str) -> str:
    """An error as psql shows it: the message, its line of SQL with a mark below the place, detail and hint."""

    def field(name: pq.DiagnosticField) -> str:
        return (result.error_field(name) or b"").decode(errors="replace").strip()

    lines = [field(pq.DiagnosticField.MESSAGE_PRIMARY) or "the server closed the connection"]
    if position := field(pq.DiagnosticField.STATEMENT_POSITION):
        lines += _place(statement, int(position) - 1)
    for name, kind in (("Detail", pq.DiagnosticField.MESSAGE_DETAIL), ("Hint", pq.DiagnosticField.MESSAGE_HINT)):
        if message := field(kind):
            lines.append(f"{name}: {message}")
    if field(pq.DiagnosticField.SQLSTATE) == _NO_TABLE and f"{SCHEMA}." not in lines[0]:
        lines.append(f"The tables are in the schema {SCHEMA}: {SCHEMA}.processed_markets, for example.")
    if field(pq.DiagnosticField.SQLSTATE) in _READ_ONLY:
        lines.append("Statements are run to read; with --write they run as the role of the database's own address.")
    return "\n".join(lines)


def _place(statement: str, at: int) -> list[str]:
    """The line of a statement with that character, cut to what is around it, and a mark below it."""
    begin = statement.rfind("\n", 0, at) + 1
    line = statement[begin:].split("\n", 1)[0].replace("\t", " ")
    column = at - begin
    cut = max(0, column - _SHOWN_OF_A_LINE // 2) if len(line) > _SHOWN_OF_A_LINE else 0
    before, after = "..." if cut else "", "..." if len(line) > cut + _SHOWN_OF_A_LINE else ""
    shown = f"{before}{line[cut : cut + _SHOWN_OF_A_LINE]}{after}"
    return [f"  {shown}", f"  {' ' * (len(before) + column - cut)}^"]
