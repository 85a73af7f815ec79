"""The frozen snapshot: a day's rows exactly as the exchange sent them, each with the quote read at the same time, and
with the price of a day before.

A snapshot is a staged file that is written once and never changed; a refresh writes another. Everything downstream
is computed from it, so that a run can be repeated long after the exchange has moved on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from predictbench_assets.exchanges.exchange import Capture
from predictbench_assets.exchanges.json_text import DECODE_ERRORS, json_members
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagingArea

SNAPSHOT = Schema("raw_markets", 2, upgrade=lambda row: row)
"""The second version has the price of a day before in some quotes; rows without one are as they were."""


class _SnapshotRow(msgspec.Struct):
    row: msgspec.Raw
    quote: dict[str, Any] | None = None


def freeze_snapshot(
    area: StagingArea, key: RunKey, captured: Capture, *, exchange: str, dagster_run_id: str
) -> StagedFile:
    """Publish what was captured under a name of its own, so that a refresh overwrites nothing."""
    recheck = None if captured.recheck is None else msgspec.to_builtins(captured.recheck)
    meta: Mapping[str, Any] = {
        "captured_at": captured.captured_at.isoformat(),
        "exchange": exchange,
        "dagster_run_id": dagster_run_id,
        "received_sha256": captured.sha256,
        "received_bytes": captured.received_bytes,
        "api": captured.stats.as_dict(),
        "recheck": recheck,
        "quotes": captured.quotes.count,
        "rows_by_source": captured.rows_by_source,
        "quotes_available": captured.quotes.available,
        "quotes_reason": captured.quotes.reason,
        "past_prices": captured.past_prices.count,
        "past_prices_asked": captured.past_prices.available,
        "past_prices_reason": captured.past_prices.reason,
    }
    name = f"snapshots/{key.slug}/{captured.captured_at:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
    return area.publish(name, SNAPSHOT, meta, (_line(row.raw, row.quote) for row in captured.rows))


def snapshot_rows(snapshot: StagedFile) -> Iterator[tuple[bytes, Quote | None]]:
    """The rows of a snapshot, as received, with their quotes."""
    decode = msgspec.json.Decoder(_SnapshotRow).decode
    for line in snapshot.lines():
        try:
            staged = decode(line)
        except DECODE_ERRORS:
            # A row may be legal JSON that the strict parser refuses; its rejection needs its bytes.
            yield dict(json_members(line))["row"], None
            continue
        yield bytes(staged.row), None if staged.quote is None else Quote.model_validate(staged.quote)


def _line(row: bytes, quote: Quote | None) -> bytes:
    # A key of its own only where there is a price, so that rows without one are what they always were.
    absent = {"day_ago"} if quote is not None and quote.day_ago is None else None
    encoded = b"null" if quote is None else quote.model_dump_json(exclude=absent).encode()
    return b'{"quote":' + encoded + b',"row":' + row + b"}"
