"""The frozen snapshot: a day's rows exactly as the exchange sent them, each with the quote read at the same time, and
with the price of a day before.

A snapshot is a staged file that is written once and never changed; a refresh writes another. Everything downstream
is computed from it, so that a run can be repeated long after the exchange has moved on.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from predictbench_assets.exchanges.exchange import Capture, CapturedRow
from predictbench_assets.exchanges.json_text import (
    DECODE_ERRORS,
    UnreadableJson,
    json_members,
    object_members,
    scalar_text,
)
from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagingArea

SNAPSHOT = Schema("raw_markets", 3, oldest=1)
"""The second version has the price of a day before in some quotes, the third the market's id beside each row."""

_IDS_SINCE = 3


class _SnapshotRow(msgspec.Struct):
    row: msgspec.Raw
    quote: dict[str, Any] | None = None
    market_id: str | None = None


def freeze_snapshot(
    area: StagingArea, key: RunKey, captured: Capture, *, exchange: str, dagster_run_id: str
) -> StagedFile:
    """Publish what was captured under a name of its own, so that a refresh overwrites nothing."""
    header = SnapshotHeader(
        captured_at=captured.captured_at,
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
    """The rows of a snapshot, as they were captured."""
    decode = msgspec.json.Decoder(_SnapshotRow).decode
    for line in snapshot.lines():
        try:
            staged = decode(line)
        except DECODE_ERRORS:
            # A row may be legal JSON that the strict parser refuses; its rejection needs its bytes.
            members = dict(json_members(line))
            raw, quote, market_id = members["row"], None, scalar_text(members.get("market_id"))
        else:
            raw, market_id = bytes(staged.row), staged.market_id
            quote = None if staged.quote is None else Quote.model_validate(staged.quote)
        if snapshot.version < _IDS_SINCE:
            market_id = _id_in(raw)
        yield CapturedRow(market_id, raw, quote)


def _id_in(raw: bytes) -> str | None:
    """The id that stands in a row itself, as in all rows from before ids were staged beside them."""
    try:
        return scalar_text(object_members(raw).get("id"))
    except UnreadableJson:
        return None


def _line(row: CapturedRow) -> bytes:
    # A key of its own only where there is a price, so that rows without one are what they always were.
    absent = {"day_ago"} if row.quote is not None and row.quote.day_ago is None else None
    quote = b"null" if row.quote is None else row.quote.model_dump_json(exclude=absent).encode()
    return b'{"market_id":' + msgspec.json.encode(row.market_id) + b',"quote":' + quote + b',"row":' + row.raw + b"}"
