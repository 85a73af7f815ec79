"""A reconstructed day from the exchange to the page: what was planted of a later day is found in nothing of it."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import zstandard
from sqlalchemy import text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.site.build import write_report
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, MakeRun
from predictbench_assets_tests.kit.later_knowledge import MARKER, LaterKnowledge

TELLER = "predictbench_assets_tests.integration.daily_run.teller:Teller"
LATER = NOW + timedelta(days=40)
"""By then nearly everything is settled."""


def test_what_became_known_later_is_in_nothing_of_a_reconstructed_day(make_run: MakeRun) -> None:
    exchange = LaterKnowledge(World(markets_per_day=25))
    daily = make_run(World(markets_per_day=5), PROCESSING_EXPERIMENTS=f"{BASELINE},{TELLER},{TELLER}OfBooks")
    ops = {"raw_markets": {"reconstruct": True}, "normalized_markets": {"debug_artifacts": True}}
    with serve(exchange, now=LATER) as server:
        addresses = {"POLYMARKET_BASE_URL": server.base_url, "POLYMARKET_CLOB_URL": server.clob_url}
        ran = daily.here(ops=ops, PREDICTBENCH_NOW=LATER.isoformat(), **addresses)
    assert ran.exit_code == 0, ran.said["reason"]
    assert ran.metadata("raw_markets")["reconstructed"] is True
    assert ran.said["processed_markets"] >= 20
    told = {name: ran.said["experiments"][name] for name in ("teller", "teller_of_books")}
    assert told["teller"]["completed"] == ran.said["processed_markets"]
    assert told["teller_of_books"]["skipped"] == ran.said["processed_markets"], "books of today are not those of then"
    engine = make_engine(daily.database_url, pool_size=0)
    write_report(engine, daily.folder / "home" / "page", now=LATER)

    assert len(exchange.markers) > 1_000
    assert all(MARKER.search(marker) for marker in exchange.markers)
    read = 0
    for place, content in everything(daily):
        read += 1
        if "/listings/" in place:  # kept before a day is made of it: by its closing it is seen who was open when
            content = re.sub(r'"closed_at":"[^"]*"', "", content)
        found = {exchange.markers.get(marker, marker) for marker in MARKER.findall(content)}
        assert not found, f"{place} knows {sorted(found)[:5]}"
    assert read > 20
    assert any("description" in content for _, content in everything(daily)), "texts are kept, and can be found so"


def everything(daily: DailyRun) -> Iterator[tuple[str, str]]:
    """The name and the text of every file of the run, unpacked, and of every table."""
    for file in sorted(path for path in (daily.folder / "home").rglob("*") if path.is_file()):
        yield str(file), unpacked(file)
    engine = make_engine(daily.database_url, pool_size=0)
    with engine.connect() as connection:
        tables = connection.execute(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'predictbench'")
        ).scalars()
        for table in list(tables):
            rows = connection.execute(text(f"SELECT to_jsonb(t)::text FROM predictbench.{table} t")).scalars()
            yield table, "\n".join(rows)


def unpacked(file: Path) -> str:
    if file.suffix != ".zst":
        return file.read_bytes().decode(errors="replace")
    with file.open("rb") as raw:
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read().decode()
