"""The frozen snapshot: a day's rows exactly as the exchange sent them, each with the quote read at the same time, and
with the price of a day before.

A snapshot is a staged file that is written once and never changed; a refresh writes another. Everything downstream
is computed from it, so that a run can be repeated long after the exchange has moved on.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec

from predictbench_assets.exchanges.exchange import Capture, CapturedRow, Exchange
from predictbench_assets.exchanges.json_text import (
    DECODE_ERRORS,
    UnreadableJson,
    json_members,
    object_members,
    scalar_text,
)
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.ingestion.registry import SnapshotRecord, SnapshotRegistry
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import Began, RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagedFileBroken, StagedFileMissing, StagingArea

SNAPSHOT = Schema("raw_markets", 3, oldest=1)
"""The second version has the price of a day before in some quotes, the third the market's id beside each row."""

_IDS_SINCE = 3

_log = logging.getLogger(__name__)


class NoSnapshot(PermanentError):
    """No snapshot is frozen for the partition, and its day is over."""


class SnapshotDamaged(PermanentError):
    """The file of the snapshot that counts is gone, cannot be read, or is another one than was registered."""


class NothingListed(TransientError):
    """The exchange lists no market at all for a whole day: more often its trouble than the truth."""


class RefreshRefused(PermanentError):
    """A new snapshot would take forecasts off the board that are not about to be made again."""


class _SnapshotRow(msgspec.Struct):
    row: msgspec.Raw
    quote: dict[str, Any] | None = None
    market_id: str | None = None


@dataclass(frozen=True)
class FrozenSnapshot:
    """The snapshot that a run is computed from."""

    file: StagedFile
    reused: bool
    """True where it was stored before."""


def freeze(
    exchange: Exchange,
    area: StagingArea,
    registry: SnapshotRegistry,
    key: RunKey,
    *,
    today: date,
    dagster_run_id: str,
    began: Began | None = None,
    refresh: bool = False,
    allow_empty: bool = False,
    as_of: datetime | None = None,
    answered: Callable[[], bool] = lambda: True,
    warn: Callable[[str], None] = _log.warning,
) -> FrozenSnapshot:
    """The stored snapshot of a run, whatever the date; where there is none, a new one, on the run date only.

    Once the day is over, the newest snapshot that a check refused is better than none, and where there is none either
    one may be reconstructed. A captured snapshot is never replaced by a reconstruction, nor the other way round. One
    whose file is gone before anything was stored of it is captured again on its day: nobody need lose the day for it.

    Args:
        today: in UTC.
        began: the beginning of the Dagster run, see `open_lease`.
        refresh: capture a new one although one is stored.
        allow_empty: believe a listing without any market.
        as_of: the instant to reconstruct where the day is over and nothing is stored; None to refuse such a day.
        answered: asks whether forecasts of the run are stored, which answer to the snapshot that counts.
        warn: called with a sentence about each thing that is missing.

    Raises:
        NoSnapshot: the day of the run is not today, and nothing is stored or a refresh was asked for.
        SnapshotDamaged: the file of the stored snapshot cannot be used.
        NothingListed: the exchange lists no market at all.
        PredictbenchError: the listing could not be read to its end, or the snapshot could not be registered.
    """
    record = None if refresh else registry.snapshot(key)
    if record is None and not refresh and key.run_date != today:
        record = registry.refused_snapshot(key)
        if record is not None and record.as_of is not None and as_of is not None:
            record = None  # what was reconstructed can be so again, unlike what was captured
        if record is not None:
            warn(f"read again, after it was refused ({record.refused}): {record.uri}")
            registry.register(record, dagster_run_id, began)
    if record is not None:
        try:
            return FrozenSnapshot(open_registered(area, record, today), reused=True)
        except SnapshotDamaged as error:
            if not isinstance(error.__cause__, StagedFileMissing) or key.run_date != today or answered():
                raise
            warn(f"{record.uri} is gone, and no forecast that answers to it is stored: the day is captured again")
    if key.run_date < today and as_of is not None and not refresh:
        captured = _ahead.pop((key, as_of), None) or asyncio.run(exchange.reconstruct(key.start, key.end, as_of))
    else:
        _refuse_other_days(key, today, refresh=refresh)
        captured = asyncio.run(exchange.capture(key.start, key.end))
    if not captured.rows and not allow_empty:
        if captured.left_out:
            raise NothingListed(
                f"of the {sum(captured.left_out.values()):,} markets that are listed for {key.target_date} none can be "
                f"reconstructed as of {captured.as_of} ({_counted(captured.left_out)}): nothing was frozen. If there "
                "truly was none, run it with --allow-empty."
            )
        raise NothingListed(
            f"the exchange lists no market that closes on {key.target_date}: nothing was frozen, and the next try asks "
            "again. If that day truly has none, run it with --allow-empty, or name its window in ALLOW_EMPTY_WINDOWS."
        )
    for warning in captured.warnings:
        warn(warning)
    if captured.left_out:
        _log.info("listed now and not of %s: %s", key, _counted(captured.left_out))
    snapshot = freeze_snapshot(area, key, captured, exchange=exchange.host, dagster_run_id=dagster_run_id)
    registry.register(_record(key, snapshot), dagster_run_id, began)
    return FrozenSnapshot(snapshot, reused=False)


def reconstruct_ahead(exchange: Exchange, key: RunKey, as_of: datetime) -> None:
    """Reconstruct a partition for a `freeze` of this process that comes soon, in a thread beside other work.

    Raises: as `Exchange.reconstruct`.
    """
    _ahead[key, as_of] = asyncio.run(exchange.reconstruct(key.start, key.end, as_of))
    while len(_ahead) > 2:  # the run at work may not have taken its own yet; an older one failed before it could
        del _ahead[next(iter(_ahead))]


_ahead: dict[tuple[RunKey, datetime], Capture] = {}
"""What was reconstructed ahead, until it is frozen: the oldest first, two at most."""


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def open_registered(area: StagingArea, record: SnapshotRecord, today: date) -> StagedFile:
    """The staged file of a registered snapshot.

    Raises:
        SnapshotDamaged: it is gone, cannot be read, or is another one than was registered.
    """
    try:
        snapshot = area.open_uri(record.uri, SNAPSHOT)
    except (StagedFileMissing, StagedFileBroken) as error:
        raise damaged(record.key, str(error), today) from error
    if snapshot.sha256 != record.content_hash:
        registered = record.content_hash[:12]
        raise damaged(record.key, f"{record.uri} holds other rows ({snapshot.sha256[:12]}, not {registered}).", today)
    return snapshot


def damaged(key: RunKey, problem: str, today: date) -> SnapshotDamaged:
    """Error for a snapshot whose file cannot be used, with the way out."""
    way_out = "Put the file back"
    if key.run_date == today:
        way_out += ", or capture a new snapshot today with --refresh"
    return SnapshotDamaged(f"the snapshot of {key} cannot be used: {problem} {way_out}.")


def refuse_losses(key: RunKey, forecasters: Set[str], *, registered: Set[str], unselected: Set[str]) -> None:
    """Stop a refresh that not all who have forecasts of the day take part in: boards count what answers to it.

    Args:
        forecasters: experiments with stored forecasts of the run.
        registered: experiments that this code has.
        unselected: experiments that this run leaves out.

    Raises:
        RefreshRefused: with a way out for each of them.
    """
    ways_out = {
        "leave --experiment out, so that they run again too": sorted(forecasters & unselected),
        "add them to PROCESSING_EXPERIMENTS again": sorted(forecasters - registered),
    }
    lost = [f"{', '.join(names)} ({way_out})" for way_out, names in ways_out.items() if names]
    if lost:
        raise RefreshRefused(
            f"a refresh of {key} is refused: it would take these experiments off the board, whose forecasts answer to "
            f"the snapshot that is stored: {'; '.join(lost)}."
        )


def _refuse_other_days(key: RunKey, today: date, *, refresh: bool) -> None:
    if key.run_date == today:
        return
    if refresh:
        raise NoSnapshot(
            f"a refresh of {key} is refused: its snapshot is of {key.run_date}, today is {today} (UTC), "
            "and prices of a past day cannot be captured. Run it without --refresh to use the stored snapshot."
        )
    if key.run_date > today:
        raise NoSnapshot(f"{key} is of the future: today is {today} (UTC).")
    raise NoSnapshot(
        f"no snapshot is stored for {key} and its day is over: today is {today} (UTC), and what the exchange shows "
        "now is not what it showed then. If the snapshot was staged elsewhere, point STAGING_URI and the database "
        "settings there; a missed day cannot be captured later, but PAST_SNAPSHOTS=reconstruct has one put together of "
        "what can still be known."
    )


def _record(key: RunKey, snapshot: StagedFile) -> SnapshotRecord:
    header = snapshot.header(SnapshotHeader)
    return SnapshotRecord(
        key=key,
        captured_at=header.captured_at,
        sha256=header.received_sha256,
        content_hash=snapshot.sha256,
        rows=snapshot.rows,
        bytes=header.received_bytes,
        uri=snapshot.uri,
        exchange=header.exchange,
        quotes_source=header.quotes_source,
        as_of=header.as_of,
        api=header.api.as_dict(),
    )


def freeze_snapshot(
    area: StagingArea, key: RunKey, captured: Capture, *, exchange: str, dagster_run_id: str
) -> StagedFile:
    """Publish what was captured under a name of its own, so that a refresh overwrites nothing."""
    header = SnapshotHeader(
        captured_at=captured.captured_at,
        as_of=captured.as_of,
        text_as_of=captured.text_as_of,
        left_out=dict(captured.left_out),
        exchange=exchange,
        dagster_run_id=dagster_run_id,
        received_sha256=captured.sha256,
        received_bytes=captured.received_bytes,
        api=captured.stats.rounded(),
        recheck=captured.recheck,
        quotes=captured.quotes.count,
        quotes_available=captured.quotes.available,
        quotes_reason=captured.quotes.reason,
        rows_by_source=captured.rows_by_source,
        past_prices=captured.past_prices.count,
        past_prices_asked=captured.past_prices.available,
        past_prices_reason=captured.past_prices.reason,
    )
    name = f"snapshots/{key.slug}/{captured.captured_at:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
    return area.publish(name, SNAPSHOT, header, map(_line, captured.rows))


def snapshot_rows(snapshot: StagedFile) -> Iterator[CapturedRow]:
    """The rows of a snapshot, as they were captured.

    Raises:
        StagedFileMissing, StagedFileBroken: the file is gone, or not what was frozen.
    """
    for market_id, raw, quote in _staged_rows(snapshot):
        yield CapturedRow(market_id, raw, None if quote is None else Quote.model_validate(quote))


def raw_rows(snapshot: StagedFile) -> Iterator[tuple[str | None, bytes]]:
    """The id and the bytes of each row of a snapshot, for who needs no quotes.

    Raises:
        StagedFileMissing, StagedFileBroken: as `snapshot_rows`.
    """
    return ((market_id, raw) for market_id, raw, _ in _staged_rows(snapshot))


def _staged_rows(snapshot: StagedFile) -> Iterator[tuple[str | None, bytes, dict[str, Any] | None]]:
    decode = msgspec.json.Decoder(_SnapshotRow).decode
    for line in snapshot.lines():
        try:
            staged = decode(line)
        except DECODE_ERRORS:
            # A row may be legal JSON that the strict parser refuses; its rejection needs its bytes.
            try:
                members = dict(json_members(line))
                raw, quote, market_id = members["row"], None, scalar_text(members.get("market_id"))
            except (UnreadableJson, KeyError) as error:
                raise StagedFileBroken(
                    f"{snapshot.uri} holds a line that is no row: it was damaged after it was written."
                ) from error
        else:
            raw, quote, market_id = bytes(staged.row), staged.quote, staged.market_id
        if snapshot.version < _IDS_SINCE:
            market_id = _id_in(raw)
        yield market_id, raw, quote


def _absent(quote: Quote) -> set[str]:
    return {name for name in ("day_ago", "midpoint") if getattr(quote, name) is None}


def _id_in(raw: bytes) -> str | None:
    """The id that stands in a row itself, as in all rows from before ids were staged beside them."""
    try:
        return scalar_text(object_members(raw).get("id"))
    except UnreadableJson:
        return None


def _line(row: CapturedRow) -> bytes:
    # A key of its own only where there is a price, so that rows without one are what they always were.
    quote = b"null" if row.quote is None else row.quote.model_dump_json(exclude=_absent(row.quote)).encode()
    return b'{"market_id":' + msgspec.json.encode(row.market_id) + b',"quote":' + quote + b',"row":' + row.raw + b"}"
