"""The page as files: what is in it, what its links lead to, and what replaces what."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from sqlalchemy import Engine, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseRefused
from predictbench_assets.site.build import MARKER, FolderNotOurs, PageUnwritable, ReportSummary, write_report
from predictbench_assets.site.data import markets
from predictbench_assets.site.names import page_name
from predictbench_assets_tests.kit.handmade_boards import board
from predictbench_assets_tests.kit.planted_page import EXPERIMENTS, FIRST, HOSTILE, SpecialMarket, plant, planted_board

LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
FEW = (EXPERIMENTS[0], EXPERIMENTS[1], EXPERIMENTS[5])


@dataclass
class Page(HTMLParser):
    """What a page holds and asks for."""

    text: str = ""
    links: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """Links that are no recommendation: those of forecasts' reasons."""
    loads: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    scripts: int = 0
    tags: set[str] = field(default_factory=set)
    handlers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "href" and tag == "a":
                unsure = ("rel", "nofollow noopener noreferrer") in attrs
                (self.sources if unsure else self.links).append(value or "")
            elif name in ("src", "srcset", "data", "poster", "action") or (name == "href" and tag == "link"):
                self.loads.append(value or "")
            elif name == "id":
                self.ids.append(value or "")
            elif name.startswith("on"):
                self.handlers.append(name)
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def pages(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.html")


def write(engine: Engine, folder: Path, now: datetime, **how: Any) -> Path:
    """A page of few experiments."""
    known = {"as_of": now} | how
    return write_report(engine, folder, **known, now=now, leaderboard=planted_board(known["as_of"], FEW)).folder


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_outside(planted_report: ReportSummary) -> None:
    found = list(pages(planted_report.folder))
    assert len(found) == planted_report.files - len(("css", "js", "leaderboard.json", MARKER))
    assert planted_report.bytes == sum(
        path.stat().st_size for path in planted_report.folder.rglob("*") if path.is_file()
    )
    for path in found:
        page = read(path)
        assert len(page.ids) == len(set(page.ids)), path
        assert LICENCE in page.links
        for link in page.links:
            if link.startswith("#"):
                assert link[1:] in page.ids
            elif link != LICENCE and not link.startswith("https://polymarket.com/event/"):
                assert (path.parent / unquote(link)).is_file(), (path, link)
        for loaded in page.loads:
            assert loaded.startswith("data:") or (path.parent / loaded).is_file(), (path, loaded)


def test_the_front_page_stands_alone(planted_report: ReportSummary) -> None:
    page = read(planted_report.index)
    assert [one for one in page.loads if not one.startswith("data:")] == []
    for one in EXPERIMENTS:
        assert one.name in page.text
    for said in ("Negative controls", "price echo", "provisional", "What is left out", "How to read this", "Coherence"):
        assert said in page.text
    assert planted_report.leaderboard_hash in page.text
    assert "closes early" in page.text, "why markets were left out is counted in the runs"


def test_the_front_page_says_which_days_are_stored(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=9, markets=2, chosen=FEW)
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM predictbench.processing_runs WHERE run_date IN ('2026-09-03', '2026-09-05')")
        )
    index = (write(engine, tmp_path / "whole", now) / "index.html").read_text(encoding="utf-8")
    assert 'aria-label="September 2026. 7 days ahead: live 1-2, 4, 6-9; absent 3, 5."' in index
    assert "From 2026-09-01 to 2026-09-09" in index
    earlier = write(engine, tmp_path / "earlier", now, as_of=now - timedelta(days=5))
    assert "From 2026-09-01 to 2026-09-04" in read(earlier / "index.html").text


def test_every_page_of_a_sandboxes_data_is_called_simulated_and_none_links_to_polymarket(
    engine: Engine, tmp_path: Path
) -> None:
    now = plant(engine, days=9, markets=2, chosen=FEW)
    real = write(engine, tmp_path / "real", now)
    assert not [path for path in pages(real) if "Simulated" in read(path).text]
    with engine.begin() as connection:
        connection.execute(text("UPDATE predictbench.processing_runs SET exchange = 'localhost'"))
    made_up = write(engine, tmp_path / "made up", now)
    found = list(pages(made_up))
    assert len(found) > 5
    for path in found:
        page = read(path)
        assert page.text.count("Simulated.") == 1, path
        assert not [link for link in page.links if "polymarket" in link], path
    assert json.loads((made_up / MARKER).read_text())["simulated"] is True


def test_words_of_others_stay_words(planted_report: ReportSummary) -> None:
    for path in pages(planted_report.folder):
        page = read(path)
        assert page.scripts == 1, path
        assert not page.tags & {"img", "b", "u"}, path
        assert page.handlers == [], path
        written = path.read_text(encoding="utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", written), path
        assert not re.search("<title>[^<]*[\u202a-\u202e\u2066-\u2069]", written), path
    assert "\u202eevil" in read(planted_report.folder / "markets" / "900001.html").text
    [evil] = [one for one in HOSTILE if one.market_id and "evil" in one.market_id]
    path = planted_report.folder / "markets" / f"{page_name(evil.market_id or '')}.html"
    page = read(path)
    assert evil.question in page.text
    assert 'Line "two" & {{ 7 * 7 }}' in page.text
    assert "https://polymarket.com/event/..%2Fx%22onmouseover%3D%22a" in page.links
    for number in ("900001", "900002", "900003"):
        assert (planted_report.folder / "markets" / f"{number}.html").is_file()
    assert read(planted_report.folder / "markets" / "900003.html").text.count("{{ 7 * 7 }}") >= 1


def test_reasons_are_shown_with_their_sources_and_only_plain_addresses_are_links(planted_report: ReportSummary) -> None:
    [evil] = [one for one in HOSTILE if one.market_id and "evil" in one.market_id]
    page = read(planted_report.folder / "markets" / f"{page_name(evil.market_id or '')}.html")
    paid = [one.name for one in EXPERIMENTS if one.cost]
    assert page.sources == ["https://news.example/a?b=1&c=2#d"] * len(paid)
    for name in paid:
        assert f"Why {name} says so" in page.text
    for said in (
        '</blockquote></details><script>document.title = "owned"',
        "\\u202eevil\\u202c \\u200bhid\\U000e0041den",
    ):
        assert page.text.count(said) == len(paid)
    assert "It names 40 sources, the first 10 of them" in page.text
    assert page.text.count("cites a market's price: not counted") == len(paid)
    assert not [link for link in page.links if "news.example" in link or "javascript" in link]


def test_a_long_reason_is_cut_with_a_note_and_lines_without_words_are_not_kept(planted_report: ReportSummary) -> None:
    long, empty = (read(planted_report.folder / "markets" / f"{number}.html") for number in ("900002", "900003"))
    assert "Cut: the first 4,000 of 100,000 characters." in long.text
    assert "x" * 4_000 in long.text
    assert "x" * 5_001 not in long.text
    assert long.sources == []
    assert "\n" * 100 not in empty.text
    assert "cites a market's price" not in empty.text
    plain = next((planted_report.folder / "markets").glob("5*.html"))
    assert "Why" not in read(plain).text


def test_an_experiments_page_has_its_calls_by_status_tokens_and_spread(planted_report: ReportSummary) -> None:
    page = read(next((planted_report.folder / "experiments").glob("deep*")))
    text = re.sub(r"\s+", " ", page.text)
    # On the first day six answered, two refused and a truncated call at $0.005, and three unknown ones at $0.02; on
    # each of nine others six forecasts at $0.0274.
    assert "cost$1.58 " in text
    for said in ("answered6", "refused2", "truncated1", "failed4", "unknown3"):
        assert said in text, said
    assert "Together: $0.060, which is in the cost above" in text
    assert "9,000 (3,600 from a cache)" in text
    assert "They differ by 2.0" in text
    free = read(next((planted_report.folder / "experiments").glob("contrarian*")))
    assert "What it took" not in free.text


def test_the_board_has_costs_in_their_currencies_and_the_picture_its_frontier(planted_report: ReportSummary) -> None:
    page = planted_report.index.read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", read(planted_report.index).text)
    # 0.0274 over an edge of 0.007; 0.0014 over one of 0.002.
    assert "$0.027$8.22 a day$3.91 a point won" in text
    assert "$0.0014$0.42 a day$0.70 a point wonmore than that" in text
    assert "0.0020 EUR0.60 EUR a day" in text
    assert "\N{EN DASH} a point won" not in text
    assert "their cost is not known in dollars: noisy_neighbour 2.1.0." in text
    described, *_ = re.findall(r'aria-label="(Mean edge over the market price against the cost[^"]*)"', page)[:2]
    assert (
        "contrarian 1.0.0 at no cost, edge -0.0030; coin_polisher 1.0.0 at $0.0014, edge +0.0020, efficient"
        in described
    )


def test_a_market_has_its_question_rules_quotes_forecasts_outcome_and_scores(engine: Engine, tmp_path: Path) -> None:
    market = SpecialMarket(
        "Will the bridge open?", market_id="77", rules="Opens by noon.", slug="bridge", event_title="Bridges"
    )
    now = plant(engine, days=9, markets=1, special=(market,))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE predictbench.processed_markets SET price = 0.4, bid = 0.39 WHERE market_id = '77'")
        )
        connection.execute(
            text(
                "UPDATE predictbench.resolution_observations SET outcome = 1, payout = '[1, 0]' WHERE market_id = '77'"
            )
        )
    folder = write(engine, tmp_path / "report", now)
    page = read(folder / "markets" / "77.html")
    said = " ".join(page.text.split())
    for words in ("Will the bridge open?", "Opens by noon.", "Settled: Yes.", "bid 0.390", "Bridges", "12,346 USDC"):
        assert words in said
    assert "https://polymarket.com/event/bridge" in page.links
    # `uniform` said one half: (0.5 - 1)^2, and the price (0.4 - 1)^2.
    assert re.search(r"uniform 1\.0\.0 control .{0,40}50\.0\s% .{0,20}UTC 0\.2500 ?0\.6931 ?\+0\.1100", said)


def test_the_page_of_an_experiment_has_its_results_and_its_best_and_worst_markets(
    planted_report: ReportSummary,
) -> None:
    page = read(planted_report.folder / "experiments" / f"{page_name('deep_thinker', '1.0.0')}.html")
    for words in (
        "Reads the news",
        "sees: search",
        "Its best markets",
        "Its worst markets",
        "Calibration",
        "Edge by price",
    ):
        assert words in page.text
    assert any(link.startswith("../markets/") for link in page.links)


def test_versions_are_never_mixed(engine: Engine, tmp_path: Path) -> None:
    both = (*EXPERIMENTS, EXPERIMENTS[1].__class__("deep_thinker", 0.2, version="2.0.0"))
    now = plant(engine, days=2, markets=2)
    folder = write_report(engine, tmp_path / "report", now=now, leaderboard=planted_board(now, both)).folder
    page = read(folder / "experiments" / f"{page_name('deep_thinker', '1.0.0')}.html")
    assert f"{page_name('deep_thinker', '2.0.0')}.html" in page.links


def test_what_was_not_known_then_is_not_on_the_page(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=12, markets=4)
    # Noon of the third day: three runs, nothing settled.
    then = datetime.combine(FIRST + timedelta(days=2), datetime.min.time(), UTC) + timedelta(hours=12)
    folder = tmp_path / "report"
    write(engine, folder, now, as_of=then)
    days = sorted(path.stem for path in (folder / "cohorts").iterdir())
    assert days == [f"{FIRST + timedelta(days=day)}-w7" for day in range(3)]
    for path in (folder / "markets").iterdir():
        assert "Not settled yet" in read(path).text
    assert "As known on 2026-09-03 12:00 UTC. Made 2026-09-13 09:00 UTC" in read(folder / "index.html").text


def test_late_forecasts_and_those_stored_later_do_not_count_on_the_page_of_a_market(
    engine: Engine, tmp_path: Path
) -> None:
    now = plant(engine, days=1, markets=0, special=(SpecialMarket("Will it?", market_id="5"),), chosen=FEW)
    changes = {
        # Before the freeze window is over, and at the very close of the market.
        FEW[1].name: "forecast_at = m.close_time, stored_at = m.close_time",
        FEW[2].name: "stored_at = now() + interval '100 years'",
    }
    with engine.begin() as connection:
        connection.execute(text("UPDATE predictbench.processed_markets SET close_time = captured_at + interval '2h'"))
        for name, change in changes.items():
            statement = f"""UPDATE predictbench.experiment_results r SET {change} FROM predictbench.processed_markets m,
                predictbench.experiment_runs a JOIN predictbench.experiments e USING (experiment_id)
                WHERE m.processed_market_id = r.processed_market_id AND a.experiment_run_id = r.experiment_run_id
                AND e.name = :name"""
            connection.execute(text(statement), {"name": name})
    [market] = markets(engine, now, ["5"])
    [capture] = market.captures
    assert {one.experiment: one.timely for one in capture.forecasts} == {FEW[0].name: True, FEW[1].name: False}
    folder = write(engine, tmp_path / "report", now)
    assert FEW[2].name not in read(folder / "markets" / "5.html").text


def change_results(engine: Engine, experiment: str, change: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(f"""UPDATE predictbench.experiment_results r SET {change}
                FROM predictbench.experiment_runs a JOIN predictbench.experiments e USING (experiment_id),
                predictbench.processed_markets m
                WHERE a.experiment_run_id = r.experiment_run_id AND m.processed_market_id = r.processed_market_id
                AND e.name = '{experiment}'""")
        )


def words(path: Path) -> str:
    return " ".join(read(path).text.split())


def test_a_late_experiment_has_its_chart_and_the_reason_on_its_page(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=12, markets=10, open_days=2)
    late, timely = "coin_polisher", "deep_thinker"
    change_results(engine, late, "forecast_at = forecast_at + interval '2 days'")

    folder = write_report(engine, tmp_path / "report", now=now).folder / "experiments"

    said = words(folder / f"{page_name(late, '1.0.0')}.html")
    assert "Every forecast of it (120) came too late to count: more than 24 hours after" in said
    assert "7 days ahead, backfill board" in said
    assert "Edge over time" in said
    assert "svg" in read(folder / f"{page_name(late, '1.0.0')}.html").tags
    html = (folder / f"{page_name(late, '1.0.0')}.html").read_text(encoding="utf-8")
    assert re.findall(r'<th scope="row">(core|full|backfill)</th>', html) == ["backfill"], "no board without a number"
    other = words(folder / f"{page_name(timely, '1.0.0')}.html")
    assert "too late to count" not in other
    assert "7 days ahead, core board" in other


def test_pages_say_why_there_is_no_forecast(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=12, markets=10, open_days=2, special=(SpecialMarket("Will it?", market_id="5"),))
    failing, skipping = "coin_polisher", "deep_thinker"
    none = "probability = NULL, forecast_at = NULL"
    change_results(engine, failing, f"status = 'failed', reason = format('KeyError: <b>%s</b>', m.market_id), {none}")
    change_results(engine, skipping, f"status = 'skipped', reason = 'no price', {none}")

    folder = write_report(engine, tmp_path / "report", now=now).folder

    said = words(folder / "experiments" / f"{page_name(failing, '1.0.0')}.html")
    assert "It has made no forecast yet, so it is on no board. The reasons are below." in said
    # Of its newest five runs, counted together; the first day, with eleven markets, is not among them.
    assert re.search(r"KeyError: <b>\d+</b> \(and alike\) ?failed ?50", said)
    assert re.search("no price ?skipped ?50", words(folder / "experiments" / f"{page_name(skipping, '1.0.0')}.html"))
    market = folder / "markets" / "5.html"
    assert re.search("failed ?KeyError: <b>5</b>", words(market))
    assert re.search("skipped ?no price", words(market))
    assert "b" not in read(market).tags


def test_what_a_hand_has_spoilt_costs_no_page(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=1, markets=0, special=(SpecialMarket("Will it?", market_id="5"),))
    with engine.begin() as connection:
        connection.execute(text("""UPDATE predictbench.processed_contracts SET metadata = '{"index": "x"}'"""))
        connection.execute(
            text("""UPDATE predictbench.processing_runs SET excluded_by_reason = '{"liquidity": [], "other": 3}'""")
        )
    folder = write(engine, tmp_path / "report", now)
    assert "Will it?" in read(folder / "markets" / "5.html").text
    assert "1 unreadable counts" in read(folder / "index.html").text


def test_pages_of_markets_can_be_limited_to_the_newest_days(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=4, markets=3)
    since = date(2026, 9, 4)
    folder = write(engine, tmp_path / "report", now, markets_since=since)
    assert [path.stem for path in (folder / "cohorts").iterdir()] == ["2026-09-04-w7"]
    assert 1 <= len(list((folder / "markets").iterdir())) <= 3


def test_rules_that_were_archived_are_said_to_be(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=1, markets=0, special=(SpecialMarket("Will it?", market_id="5"),))
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO predictbench.archives (archive_id, uri, sha256, rows, made_at)"
                " VALUES ('00000000-0000-0000-0000-000000000001', 's3://a', 'x', 1, now())"
            )
        )
        connection.execute(
            text(
                "UPDATE predictbench.processed_markets SET raw_snapshot = NULL,"
                " raw_archive_id = '00000000-0000-0000-0000-000000000001'"
            )
        )
    folder = write(engine, tmp_path / "report", now)
    assert "The rules are in the archive" in read(folder / "markets" / "5.html").text


def test_a_benchmark_that_has_not_begun_has_a_page_that_says_so(engine: Engine, tmp_path: Path) -> None:
    now = datetime(2026, 9, 1, tzinfo=UTC)
    folder = write_report(engine, tmp_path / "report", now=now, leaderboard=board(as_of=now)).folder
    said = read(folder / "index.html").text
    assert "has not begun" in said
    assert "No day is stored yet" in said


def test_the_same_moment_gives_the_same_bytes(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=3, markets=3)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write(engine, folder, now)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1]


def test_the_zone_and_the_style_that_the_database_is_set_to_change_no_byte(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=2, markets=3)
    write(engine, tmp_path / "one", now)
    with engine.begin() as connection:
        for setting in (
            *("timezone = 'Asia/Tokyo'", "datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'"),
            *("search_path = 'nowhere'", "standard_conforming_strings = off", "bytea_output = 'escape'"),
        ):
            connection.execute(text(f"ALTER DATABASE {engine.url.database} SET {setting}"))
    engine.dispose()
    write(make_engine(engine.url, pool_size=0), tmp_path / "two", now)
    pages = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(pages) > 10
    for page in pages:
        assert (tmp_path / "one" / page).read_bytes() == (tmp_path / "two" / page).read_bytes(), page


def test_a_second_page_replaces_the_first_whole_and_leaves_nothing_beside_it(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=1, markets=2)
    folder = tmp_path / "deep" / "report"
    write(engine, folder, now)
    (folder / "markets" / "stale.html").write_text("old")
    write(engine, folder, now + timedelta(days=1))
    assert not (folder / "markets" / "stale.html").exists()
    assert json.loads((folder / MARKER).read_text())["made_at"] == (now + timedelta(days=1)).isoformat()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_of_somebody_elses_is_not_replaced(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderNotOurs, match="--output"):
        write_report(engine, tmp_path, now=datetime(2026, 9, 1, tzinfo=UTC), leaderboard=board())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(FolderNotOurs, match="is a file"):
        write_report(engine, tmp_path / "thesis.tex", now=datetime(2026, 9, 1, tzinfo=UTC), leaderboard=board())


def test_a_place_that_takes_no_page_is_named(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PageUnwritable, match="file/report"):
        write_report(engine, tmp_path / "file" / "report", now=datetime(2026, 9, 1, tzinfo=UTC), leaderboard=board())


def test_a_report_that_fails_leaves_the_page_that_was_there(engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=1, markets=1)
    folder = tmp_path / "report"
    write(engine, folder, now)
    before = (folder / MARKER).read_bytes()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictbench.processed_contracts RENAME TO elsewhere"))
    with pytest.raises(DatabaseRefused):
        write(engine, folder, now)
    assert (folder / MARKER).read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


def test_the_real_board_of_real_forecasts(engine: Engine, tmp_path: Path) -> None:
    """Nothing handed over: forecasts are loaded, the boards are built and shown."""
    now = plant(engine, days=24, markets=25, open_days=8)
    written = write_report(engine, tmp_path / "report", now=now)
    said = " ".join(read(written.index).text.split())
    assert "markets frozen600" in said
    assert "Something is wrong" not in said
    assert "Edge over time" in said
    built = json.loads((written.folder / "leaderboard.json").read_text())
    assert {row["experiment"] for row in built["rows"]} == {one.name for one in EXPERIMENTS}
