"""Days that nobody captured, reconstructed after the fact: settled, scored, and marked wherever they are shown."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, text

from predictbench_assets.database.connection import make_engine
from predictbench_assets.dataset.export import export_tables
from predictbench_assets.dataset.frames.benchmark import open_benchmark
from predictbench_assets.dataset.manifest import read_manifest
from predictbench_assets.dataset.question_set import ReconstructedRun, export_question_set
from predictbench_assets.dataset.release import make_release
from predictbench_assets.experiments.outside.forms import read_submission
from predictbench_assets.launch.submission import SubmissionRefused, check_submission
from predictbench_assets.persistence.stored_runs import run_states
from predictbench_assets.reporting.backfill import BackfillLine, BackfillSummary
from predictbench_assets.reporting.boards import as_markdown
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.resolution.ledger import pending_markets
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets.settings import Settings
from predictbench_assets.site.build import write_report
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, NOW, DailyRun, MakeRun, Ran
from predictbench_assets_tests.kit.sweeps import Swept

DAYS = (RunKey(date(2026, 2, 10), 3), RunKey(date(2026, 2, 11), 3))
CONTROL = "predictbench_assets.experiments.builtin.controls:UniformExperiment"


@dataclass(frozen=True)
class Played:
    """The days, run and swept."""

    daily: DailyRun
    engine: Engine
    world: World
    runs: tuple[Ran, ...]


@pytest.fixture(scope="module")
def played(make_run: MakeRun) -> Iterator[Played]:
    """Both days, run weeks later, and one sweep."""
    world = World(markets_per_day=40)
    daily = make_run(world, PROCESSING_EXPERIMENTS=f"{BASELINE},{CONTROL},{EXPERIMENT}:Trained")
    runs = tuple(daily.here(key, {"raw_markets": {"reconstruct": True}}) for key in DAYS)
    assert [one.exit_code for one in runs] == [0, 0]
    engine = make_engine(daily.database_url)
    with engine.begin() as connection:  # so that the page shows each of them, whatever the sample has drawn
        connection.execute(text("UPDATE predictbench.processed_markets SET core = true"))
    Swept(engine, daily.sandbox, world).again()
    score_settled(engine, NOW + timedelta(minutes=1))
    yield Played(daily, engine, world, runs)
    engine.dispose()


def test_they_are_settled_and_scored_on_the_backfill_board_alone(played: Played) -> None:
    stored = int(played.daily.rows("SELECT count(*) FROM predictbench.processed_markets")[0][0])
    scored = int(played.daily.rows("SELECT count(*) FROM predictbench.experiment_scores")[0][0])
    assert scored > stored > 20
    board = rebuild_leaderboard(played.engine, NOW + timedelta(hours=1))
    whole = {one.experiment: one for one in board.rows if one.is_whole}
    assert {(one.board, one.reconstructed) for one in board.rows} == {("backfill", True)}
    assert set(whole) == {"baseline_snapshot", "uniform", "trained"}
    assert whole["baseline_snapshot"].mean_edge == 0.0
    assert whole["uniform"].n_markets == whole["uniform"].n_board - whole["uniform"].n_splits > 20
    assert all(one.reconstructed for one in board.cohorts)


def test_who_may_know_the_answer_is_counted(played: Played) -> None:
    board = rebuild_leaderboard(played.engine, NOW + timedelta(hours=1))
    rows = {one.experiment: one for one in board.rows if one.is_whole}
    [first] = [one.n_markets for one in board.edges if (one.experiment, one.run_date) == ("trained", DAYS[0].run_date)]
    assert 0 < rows["trained"].n_may_know == first < rows["trained"].n_markets
    assert "may_know_the_answer" in rows["trained"].flags
    assert rows["uniform"].n_may_know == 0
    assert f"may know the answer of {first}" in as_markdown(board, list(rows.values()))


def test_a_market_counts_as_open_at_the_hour_of_the_run(played: Played) -> None:
    """Not at the crawl of weeks later: a close of after that hour is believed, and forecasts count up to it."""
    ids = [row[0] for row in played.daily.rows("SELECT DISTINCT market_id FROM predictbench.processed_markets")]
    assert {one.open_at for one in pending_markets(played.engine, ids)} == {key.at(time(7)) for key in DAYS}
    assert played.daily.rows(
        "SELECT count(*) FROM predictbench.resolution_observations WHERE closed_time IS NULL AND state = 'final'"
    ) == [(0,)]


def test_the_calendar_has_them_as_reconstructed(played: Played) -> None:
    states = run_states(played.engine, NOW + timedelta(hours=1))
    assert {key: (one.status, one.reconstructed) for key, one in states.items()} == dict.fromkeys(
        DAYS, ("completed", True)
    )


def test_the_run_says_both_instants_and_what_was_left_out(played: Played) -> None:
    ran = played.runs[0]
    t, now = DAYS[0].at(time(7)).isoformat(), NOW.isoformat()
    snapshot = ran.said["snapshot"]
    assert (snapshot["as_of"], snapshot["captured_at"]) == (t.replace("+00:00", "Z"), now.replace("+00:00", "Z"))
    assert snapshot["left_out"] == ran.metadata("raw_markets")["left_out"]
    assert sum(snapshot["left_out"].values()) > 0
    told = ran.metadata("persisted_run")
    assert (told["reconstructed"], told["as_of"], told["captured_at"]) == (True, t, now)
    assert f"| reconstructed | as of {t}, captured {now}: on the backfill board alone |" in told["summary"]
    assert all(reason in told["summary"] for reason in snapshot["left_out"])
    line = BackfillLine.ran(RunSummary.model_validate(ran.said), exit_code=0, now=NOW + timedelta(days=9))
    table = BackfillSummary(runs=(line,)).to_markdown()
    assert "| stored | reconstructed |" in table
    assert "put together afterwards" in table
    assert "too late to count" not in table


def test_the_page_marks_them_wherever_they_are(played: Played, tmp_path: Path) -> None:
    write_report(played.engine, tmp_path / "page", now=NOW + timedelta(hours=1))
    page = {path.parent.name: path.read_text() for path in (tmp_path / "page").rglob("*.html")}
    both = "As of 2026-02-10 07:00 UTC, captured 2026-03-02 07:00 UTC"
    assert "all that has settled was put together afterwards" in page["page"]
    assert "<dt>markets reconstructed</dt>" in page["page"]
    assert page["page"].count('<span class="chip">reconstructed</span>') == len(DAYS)
    assert 'may know the answer</span><span class="interval">of' in page["page"]
    assert "Marked “may know the answer”" in page["page"]
    assert "Backfill board, reconstructed markets" in page["page"]
    assert "forecasts of reconstructed markets alone" in page["experiments"]
    for kind in ("cohorts", "markets"):
        pages = [path.read_text() for path in (tmp_path / "page" / kind).iterdir()]
        assert all('<span class="chip">reconstructed</span>' in one for one in pages)
        assert any(both in one for one in pages)
        # Of one of the two days, whose markets have nearly all settled.
        assert any(">may know the answer<" in one for one in pages) == (kind == "markets")
        assert any(">may know the answer<" not in one for one in pages)
        assert not any("too late to count" in one or "before its markets closed" in one for one in pages)


def test_exports_and_releases_mark_them(played: Played, tmp_path: Path) -> None:
    days = {"since": DAYS[0].run_date, "until": DAYS[-1].run_date}
    area, later = StagingArea(str(tmp_path / "export")), NOW + timedelta(hours=1)
    export_tables(played.engine, area, **days, format_="jsonl", now=later, git_sha=None)
    rows = [json.loads(line) for line in (tmp_path / "export" / "markets.jsonl").read_text().splitlines()]
    assert {(one["reconstructed"], one["as_of"][:16], one["price_quality"]) for one in rows} == {
        (True, f"{key.run_date}T07:00", "history") for key in DAYS
    }
    forecasts = [json.loads(line) for line in (tmp_path / "export" / "forecasts.jsonl").read_text().splitlines()]
    assert {(one["experiment"], one["run_date"]) for one in forecasts if one["may_know"]} == {
        ("trained", str(DAYS[0].run_date))
    }
    make_release(played.engine, tmp_path / "release", as_of=later, version="1", git_sha=None)
    manifest = read_manifest(tmp_path / "release")
    assert [one.as_of for one in manifest.cohorts] == [key.at(time(7)) for key in DAYS]
    assert manifest.knowledge_cutoffs == {"trained 1": DAYS[0].run_date}
    assert "**Reconstructed**: 2 cohorts" in (tmp_path / "release" / "README.md").read_text()
    released = open_benchmark(release=tmp_path / "release").boards().to_dicts()
    board = rebuild_leaderboard(played.engine, later)
    assert released == [json.loads(msgspec.json.encode(one)) for one in board.rows if one.is_whole]
    with pytest.raises(ReconstructedRun, match="too late"):
        export_question_set(played.daily.staging, area, DAYS[0], exchange="localhost", blind=False)


def test_nobody_can_submit_forecasts_of_them_any_more(played: Played, tmp_path: Path) -> None:
    file = tmp_path / "late.csv"
    file.write_text("market_id,probability\n1,0.5\n")
    settings = Settings(predictbench_now=NOW)
    with pytest.raises(SubmissionRefused, match=r"too late: the snapshot of .* was reconstructed"):
        check_submission(settings, played.daily.staging, DAYS[0], "late", file.name, read_submission(file))
