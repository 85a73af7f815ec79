"""The floor of `bench_scale.py`: a day's bytes fetched one request after another, and its rows by bare COPY.

No answer is looked at beyond cursors and tokens, nothing is checked or forecast, no run could be repeated.
Usage: floor_daily.py RUN_DATE WINDOW_DAYS FOLDER, where the folder has a file of binary COPY for each table.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import psycopg

from predictbench_assets.exchanges.polymarket.client import (
    HISTORIES_PER_REQUEST,
    LARGEST_PAGE,
    LISTING,
    PRICE_HISTORY,
    PRICES,
    QUOTES_PER_REQUEST,
    listing_params,
)
from predictbench_assets.exchanges.polymarket.price_history import history_request, past_span
from predictbench_assets.exchanges.polymarket.quotes import prices_request
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings

TABLES = ("events", "processed_markets", "processed_contracts", "experiment_results")


class _Row(msgspec.Struct):
    clobTokenIds: str = "[]"  # noqa: N815 - the API's


class _Page(msgspec.Struct):
    markets: list[_Row]
    next_cursor: str | None = None


def main() -> None:
    """Fetch, then copy."""
    settings = load_settings()
    key, folder = RunKey(date.fromisoformat(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[3])
    gamma = HTTPConnection(urlsplit(settings.polymarket_base_url).netloc)
    tokens = [tokens[0] for row in listing(gamma, key) if (tokens := json.loads(row.clobTokenIds))]
    clob = HTTPConnection(urlsplit(settings.polymarket_clob_url).netloc)
    prefix = urlsplit(settings.polymarket_clob_url).path
    for batch in batches(tokens, QUOTES_PER_REQUEST):
        answer(clob, "POST", f"{prefix}{PRICES}", prices_request(batch))
    span = past_span(datetime.now(UTC))
    for batch in batches(tokens, HISTORIES_PER_REQUEST):
        answer(clob, "POST", f"{prefix}{PRICE_HISTORY}", history_request(batch, *span))
    url = settings.writer_url
    assert url is not None
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        for table in TABLES:
            with cursor.copy(f"COPY predictbench.{table} FROM STDIN (FORMAT binary)") as copy:
                copy.write((folder / table).read_bytes())


def listing(gamma: HTTPConnection, key: RunKey) -> Iterator[_Row]:
    """The day's rows, of one chain of pages."""
    cursor: str | None = None
    while True:
        query = urlencode(listing_params(key.start, key.end, LARGEST_PAGE, cursor))
        page = msgspec.json.decode(answer(gamma, "GET", f"{LISTING}?{query}"), type=_Page)
        yield from page.markets
        cursor = page.next_cursor
        if cursor is None:
            return


def batches(tokens: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The tokens in groups."""
    return (tokens[start : start + size] for start in range(0, len(tokens), size))


def answer(host: HTTPConnection, method: str, path: str, body: Any = None) -> bytes:
    """The body of an answer."""
    sent = None if body is None else json.dumps(body)
    host.request(method, path, sent, {"Content-Type": "application/json", "Accept-Encoding": "identity"})
    response = host.getresponse()
    content = response.read()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status} {content[:200]!r}")
    return content


if __name__ == "__main__":
    main()
