"""The store of paid calls: rows in the database, and whole requests and answers in segments beside the artifacts.

A row is there before its request goes out. What came back is in a segment before anybody uses it, and then in the row;
a process that dies in between leaves the answer in the segment, where the next one finds it.
"""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import Connection, Engine, and_, bindparam, func, insert, select, text, update

from predictbench_assets.database.errors import Backoff, in_transaction
from predictbench_assets.database.schema import model_calls
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.records import (
    Call,
    CallScope,
    Claim,
    Reply,
    Settled,
    answered,
)
from predictbench_assets.experiments.segments import Segment, segment, sizes
from predictbench_assets.failures import TransientError
from predictbench_assets.runs import RunKey
from predictbench_assets.secrecy import Redact, redacted_json
from predictbench_assets.staging import StagingArea

_logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtext('predictbench model calls'))")
_SPENT = text("""
    SELECT experiment, coalesce(sum(CASE status WHEN 'unknown' THEN reserved_cost ELSE cost END), 0) AS usd,
        coalesce(sum(coalesce(input_tokens + output_tokens, reserved_tokens)) FILTER (WHERE status <> 'failed'), 0)
            AS tokens,
        count(*) AS calls
    FROM predictbench.model_calls
    WHERE asked_at >= date_trunc('day', CAST(:at AS timestamptz), 'UTC')
        AND asked_at < date_trunc('day', CAST(:at AS timestamptz), 'UTC') + interval '1 day'
    GROUP BY experiment
""")
_PACE = text("""
    SELECT count(*) AS calls, extract(epoch FROM min(claimed_at) - clock_timestamp()) + :span AS room_in
    FROM predictbench.model_calls
    WHERE provider = :provider AND claimed_at > clock_timestamp() - make_interval(secs => :span)
""")
_IS_OVER = text("clock_timestamp() >= claimed_at + (expires_at - asked_at)")
"""True of a row whose asker has had its time, by the server's clock, since those of two hosts may differ."""

_IN_BATCH: Final = and_(
    model_calls.c.batch_id.is_not(None), model_calls.c.status == "unknown", model_calls.c.reason.is_(None)
)
"""True of a row in a batch that is not collected: one that `Call.is_awaited`."""

_PATIENT: Final = Backoff(attempts=7, longest=5.0, within=30.0)
"""Policy of the ledger's transactions: nobody watches them, and a database may have to be started again."""

_NULL: Final = msgspec.Raw(b"null")
_SPAN_S: Final = 10.0
"""Seconds that a limit by the minute is averaged over, where it allows one request in them."""

_SHORTEST_WAIT_S: Final = 0.05

NOT_ASKED: Final = "only answers that were paid for before are taken"
"""The reason of a call that `AnsweredCalls` does not allow."""

_LONGEST_TEXT: Final = 2_000
"""Characters of a provider's word that a column takes; the whole is in the transcript."""

_OUTCOME: Final = (
    *("status", "reason", "model_returned", "response_id", "finish_reason", "input_tokens", "cached_tokens"),
    *("output_tokens", "reasoning_tokens", "cost", "answered_at", "transcript_uri", "transcript_line"),
)


_WORDS: Final = ("reason", "response_id", "finish_reason", "model_returned")
"""Columns with a provider's words."""


class TranscriptUnwritable(TransientError):
    """An answer that was paid for could not be made durable; the experiment stops rather than pay for more."""


class CallStore(Protocol):
    """The store as the desk sees it; sync, and called from several threads."""

    def earlier(self) -> list[Call]:
        """The calls of this scope that were made before."""

    def now(self, call: Call) -> Call:
        """The call as it stands now; one whose answer came before its process died is settled with it."""

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:
        """Store the intents that are allowed, all in one transaction; an answer for each."""

    def settle(self, settled: Sequence[Settled]) -> None:
        """Make outcomes durable, what came back first."""

    def submitted(self, intent: str, batch_id: str) -> None:
        """Give the calls of a batch that was claimed under an intent the provider's id of it."""

    def reply(self, call_id: UUID) -> Reply | None:
        """What came back; None where no transcript has it."""

    def close(self) -> None:
        """End it."""


class PaidCalls:
    """The store of one experiment on one snapshot.

    Args:
        engine: opens the database, at the first call.
        area: place of the transcripts.
        scope: experiment and snapshot.
        writer_id: names the transcripts of this attempt.
        redact: takes secrets out of them.
    """

    def __init__(
        self, engine: Callable[[], Engine], area: StagingArea, scope: CallScope, writer_id: str, redact: Redact
    ) -> None:
        self._engine, self._area, self._scope, self._redact = engine, area, scope, redact
        slug = RunKey(scope.run_date, scope.window_days).slug
        name = f"{scope.version}_{scope.snapshot_hash[:16]}_{scope.config_hash[:16]}"
        self._folder = f"artifacts/{slug}/{scope.experiment}/calls/{name}"
        self._segment: Segment = segment(area, f"{self._folder}/{writer_id}-{uuid4().hex[:8]}")
        self._lock = threading.Lock()
        self._places: dict[UUID, _Place] = {}
        self._read: dict[str, tuple[int, int]] = {}

    def earlier(self) -> list[Call]:
        """The calls of this scope that were made before."""
        wanted = [model_calls.c[name] == value for name, value in msgspec.structs.asdict(self._scope).items()]
        calls = self._rows(*wanted)
        if any(call.status == "unknown" for call in calls):
            self._look()
        return self._recovered(calls)

    def now(self, call: Call) -> Call:
        """The call as it stands now; one whose answer came before its process died is settled with it."""
        wanted = model_calls.c.call_id == call.call_id
        found = next(iter(self._rows(wanted)), None)
        if found is not None and found.may_be_under_way and not self._rows(wanted, _IS_OVER):
            return found
        self._look()
        [found] = self._recovered([call if found is None else found])
        return msgspec.structs.replace(found, expires_at=found.asked_at)

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:
        """Store the intents that are allowed, all in one transaction; an answer for each.

        Raises:
            DatabaseUnavailable: nothing is stored, so nothing may be asked.
        """
        tries = itertools.count()
        return in_transaction(
            self._engine(),
            lambda connection: _claim(connection, calls, allowance, again=next(tries) > 0),
            _PATIENT,
        )

    def settle(self, settled: Sequence[Settled]) -> None:
        """Make outcomes durable, what came back first.

        Raises:
            TranscriptUnwritable: the place of the transcripts takes nothing.
            DatabaseUnavailable: the transcripts have them; the next attempt settles the rows.
        """
        lines = [self._line(one) for one in settled]
        try:
            with self._lock:
                name, first = self._segment.write(lines)
        except Exception as error:  # an object store raises what it likes
            raise TranscriptUnwritable(
                f"the record of paid calls at {self._area.uri(self._folder)} cannot be written "
                f"({type(error).__name__}: {error}): check the space and the rights of the place that STAGING_URI "
                "names, then run again"
            ) from error
        uri = self._area.uri(name)
        self._update(
            [
                msgspec.structs.replace(one.call, transcript_uri=uri, transcript_line=first + number)
                for number, one in enumerate(settled)
            ]
        )

    def submitted(self, intent: str, batch_id: str) -> None:
        """Give the calls of a batch that was claimed under an intent the provider's id of it.

        Raises:
            DatabaseUnavailable: the next attempt looks for it at the provider.
        """
        ours = (model_calls.c[name] == value for name, value in msgspec.structs.asdict(self._scope).items())
        statement = update(model_calls).where(model_calls.c.batch_id == intent, *ours).values(batch_id=batch_id)
        in_transaction(self._engine(), lambda connection: connection.execute(statement))

    def reply(self, call_id: UUID) -> Reply | None:
        """What came back; None where no transcript has it."""
        if call_id not in self._places:
            self._look()
        return self._read_reply(call_id)

    def _look(self) -> None:
        with self._lock:
            self._look_for_more()

    def _read_reply(self, call_id: UUID) -> Reply | None:
        if (place := self._places.get(call_id)) is None:
            return None
        line = self._area.fs.cat_file(self._area.path(place.name), start=place.start, end=place.end)
        return msgspec.json.decode(line, type=_Line).reply

    def close(self) -> None:
        """Close the transcripts of this attempt."""
        with self._lock:
            self._segment.close()

    def _line(self, settled: Settled) -> bytes:
        line = _encoded(_Line(settled.call.call_id, settled.call, settled.content, settled.reply))
        if self._redact(plain := line.decode()) == plain:
            return line
        return msgspec.json.encode(redacted_json(msgspec.json.decode(line), self._redact))

    def _recovered(self, calls: Sequence[Call]) -> list[Call]:
        """The calls, those settled that are not, and whose process has left the answer in a transcript."""
        settled: dict[UUID, Call] = {}
        for call in calls:
            reply = self._read_reply(call.call_id) if call.status == "unknown" else None
            if reply is not None:
                place = self._places[call.call_id]
                uri = self._area.uri(place.name)
                settled[call.call_id] = msgspec.structs.replace(
                    answered(call, reply), transcript_uri=uri, transcript_line=place.line
                )
        if settled:
            self._update(list(settled.values()))
        return [settled.get(call.call_id, call) for call in calls]

    def _look_for_more(self) -> None:
        """Note where the answers are that transcripts have had added to them since the last look."""
        for name, size in sizes(self._area, self._folder):
            start, line = self._read.get(name, (0, 0))
            if size <= start:
                continue
            # A line at a time: a day's answers do not fit into memory beside each other.
            with self._area.fs.open(self._area.path(name), "rb", size=size) as file:
                file.seek(start)
                for one in file:
                    if not one.endswith(b"\n"):  # its writer is at it, or dead
                        break
                    try:
                        if (found := msgspec.json.decode(one, type=_Answered)).reply != _NULL:
                            self._places[found.call_id] = _Place(name, start, start + len(one), line)
                    except msgspec.MsgspecError:
                        _logger.warning("the transcript %s has a torn line, which no answer is taken from", name)
                    start, line = start + len(one), line + 1
            self._read[name] = (start, line)

    def _update(self, calls: Sequence[Call]) -> None:
        rows = [{"id": call.call_id, **{name: getattr(call, name) for name in _OUTCOME}} for call in calls]
        for row in rows:
            for column in _WORDS:
                row[column] = _storable(row[column], self._redact)
        statement = update(model_calls).where(model_calls.c.call_id == bindparam("id"))
        statement = statement.values({name: bindparam(name) for name in _OUTCOME})
        in_transaction(self._engine(), lambda connection: connection.execute(statement, rows), _PATIENT)

    def _rows(self, *wanted: Any) -> list[Call]:
        query = select(*(model_calls.c[name] for name in Call.__struct_fields__)).where(*wanted)
        query = query.order_by(model_calls.c.attempt)
        rows = in_transaction(self._engine(), lambda connection: connection.execute(query).all(), _PATIENT)
        return [Call(**row._mapping) for row in rows]


class AnsweredCalls(PaidCalls):
    """The store where only what was paid for before is taken: nothing is asked anew, and nothing is written."""

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:  # noqa: ARG002 - as the store's
        """Allow none."""
        return [Claim(over_budget=NOT_ASKED)] * len(calls)

    def _update(self, calls: Sequence[Call]) -> None:
        """Leave the rows as they are: the next run settles them."""


def windows_in_batches(connection: Connection, run_date: date) -> set[int]:
    """The windows of a day of which calls are part of a batch that is not collected."""
    calls = model_calls.c
    query = select(calls.window_days).distinct()
    return set(connection.execute(query.where(calls.run_date == run_date, _IN_BATCH)).scalars())


def waiting_in_batches(connection: Connection, key: RunKey) -> dict[CallScope, int]:
    """Calls of a run that are part of a batch which is not collected, counted by whom they were made for."""
    calls = model_calls.c
    scope = [calls[name] for name in CallScope.__struct_fields__]
    query = select(*scope, func.count()).group_by(*scope)
    query = query.where(calls.run_date == key.run_date, calls.window_days == key.window_days, _IN_BATCH)
    return {
        CallScope(**dict(zip(CallScope.__struct_fields__, row, strict=False))): row[-1]
        for row in connection.execute(query)
    }


class _Place(NamedTuple):
    """Place of an answer: a file, where its line begins and ends in it, and the line's number."""

    name: str
    start: int
    end: int
    line: int


class _Answered(msgspec.Struct, frozen=True):
    """As much of a line as tells whether it has an answer."""

    call_id: UUID
    reply: msgspec.Raw = _NULL


class _Line(msgspec.Struct, frozen=True):
    """A line of a transcript."""

    call_id: UUID
    call: Any
    request: Any
    reply: Reply | None = None


def _encoded(line: _Line) -> bytes:
    """The line as JSON, whatever a provider has sent."""
    try:
        return msgspec.json.encode(line)
    except (ValueError, TypeError, OverflowError, RecursionError):  # half a character, for one
        plain = json.loads(json.dumps(msgspec.to_builtins(line), default=str))
        return msgspec.json.encode(redacted_json(plain, lambda text: text.encode(errors="replace").decode()))


def _storable(text: str | None, redact: Callable[[str], str]) -> str | None:
    """A provider's word as a column takes it."""
    if text is None:
        return None
    plain = redact(text).encode(errors="replace").decode().replace("\0", "?")
    return " ".join(plain.split())[:_LONGEST_TEXT]


def _claim(connection: Connection, calls: Sequence[Call], allowance: Allowance, *, again: bool) -> list[Claim]:
    """Store intents; `again` where the transaction may have been made before, and its answer was lost."""
    connection.execute(_ONE_AT_A_TIME)
    query = select(*(model_calls.c[name] for name in Call.__struct_fields__))
    found = connection.execute(query.where(model_calls.c.call_id.in_([call.call_id for call in calls])))
    taken = {row.call_id: Call(**row._mapping) for row in found}
    ledger = _Ledger(connection, calls[0], allowance)
    paces = {provider: _Pace(connection, provider, allowance) for provider in {call.provider for call in calls}}
    claims, granted = [], []
    for call in calls:
        pace = paces[call.provider]
        if (row := taken.get(call.call_id)) is not None:
            is_ours = again and (row.owner, row.asked_at) == (call.owner, call.asked_at)
            claims.append(Claim() if is_ours else Claim(taken=row))
        elif (problem := ledger.problem(call)) is not None:
            claims.append(Claim(over_budget=problem))
        elif (wait_s := pace.wait_s()) > 0:
            claims.append(Claim(wait_s=wait_s))
        else:
            ledger.reserve(call)
            pace.take()
            granted.append(msgspec.structs.asdict(call))
            claims.append(Claim())
    if granted:
        connection.execute(insert(model_calls), granted)
    return claims


def spent_on_day(engine: Engine, at: datetime) -> dict[str, Decimal]:
    """Dollars by experiment that the requests of a day of UTC count for, those of unknown outcome as reserved."""
    rows = in_transaction(engine, lambda connection: connection.execute(_SPENT, {"at": at}).all())
    return {row.experiment: row.usd for row in rows}


class _Ledger:
    """Sums of a day, against what is allowed."""

    def __init__(self, connection: Connection, call: Call, allowance: Allowance) -> None:
        self._allowance = allowance
        self._usd = self._usd_of_all = Decimal(0)
        self._tokens = self._calls = 0
        limits = (allowance.usd_per_day, allowance.tokens_per_day, allowance.calls_per_day)
        if any(limit is not None for limit in (*limits, allowance.usd_per_day_of_all)):
            for row in connection.execute(_SPENT, {"at": call.asked_at}):
                self._usd_of_all += row.usd
                if row.experiment == call.experiment:
                    self._usd, self._tokens, self._calls = row.usd, row.tokens, row.calls

    def problem(self, call: Call) -> str | None:
        """The budget that does not cover a call, in words; None where all do."""
        allowed, cost, tokens = self._allowance, call.reserved_cost or Decimal(0), call.reserved_tokens or 0
        if call.reserved_cost is None and (allowed.usd_per_day is not None or allowed.usd_per_day_of_all is not None):
            return f"no price is known of {call.model_asked}, so no budget in dollars can be kept"
        for limit, spent, more, setting in (
            (allowed.usd_per_day, self._usd, cost, f"usd_per_day of {call.experiment}"),
            (allowed.usd_per_day_of_all, self._usd_of_all, cost, "MODEL_USD_PER_DAY"),
        ):
            if limit is not None and spent + more > limit:
                left = max(limit - spent, Decimal(0))
                return f"{setting} = {limit} leaves ${left:.4f}, and a call may cost ${more:.4f}"
        for bound, used, further, setting in (
            (allowed.tokens_per_day, self._tokens, tokens, "tokens_per_day"),
            (allowed.calls_per_day, self._calls, 1, "calls_per_day"),
        ):
            if bound is not None and used + further > bound:
                over = max(bound - used, 0)
                return f"{setting} of {call.experiment} = {bound:,} leaves {over:,}, and a call may take {further:,}"
        return None

    def reserve(self, call: Call) -> None:
        """Count a call at the most that it can take."""
        self._usd += call.reserved_cost or 0
        self._usd_of_all += call.reserved_cost or 0
        self._tokens += call.reserved_tokens or 0
        self._calls += 1


class _Pace:
    """Requests to a provider in the last seconds, of everybody."""

    def __init__(self, connection: Connection, provider: str, allowance: Allowance) -> None:
        self._room: int | None = None
        self._room_in = 0.0
        if allowance.requests_per_minute is not None:
            span = max(_SPAN_S, 60.0 / allowance.requests_per_minute)
            most = max(1, int(allowance.requests_per_minute * span / 60.0))
            row = connection.execute(_PACE, {"provider": provider, "span": span}).one()
            self._room = most - row.calls
            self._room_in = span if row.room_in is None else float(row.room_in)

    def wait_s(self) -> float:
        """Seconds until another request may go out; 0 for now."""
        return max(self._room_in, _SHORTEST_WAIT_S) if self._room is not None and self._room <= 0 else 0.0

    def take(self) -> None:
        """Count a request."""
        if self._room is not None:
            self._room -= 1
