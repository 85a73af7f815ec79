"""`predictbench experiments replay`: an experiment on stored runs, scored as a board would, and nothing is stored."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from predictbench_assets.cli.main import main
from predictbench_assets.database.engine import make_engine
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets_tests.kit.builders import observe
from predictbench_assets_tests.kit.daily_run import KEY, DailyRun, MakeRun
from predictbench_assets_tests.kit.database import Database

OWN = "predictbench_assets_tests.integration.cli.replayed"
LATER = datetime(2026, 3, 20, tzinfo=UTC)
TOMORROW = RunKey(KEY.run_date, 1)
DAY = str(KEY.run_date)


@dataclass(frozen=True)
class Stored:
    """Two runs of a day: of the one all markets have settled, of the other none."""

    daily: DailyRun
    engine: Engine

    def replay(self, *arguments: str) -> Result:
        environment: dict[str, str | None] = {
            **self.daily.environment(self.daily.folder / "summary.json", {}),
            "PREDICTBENCH_NOW": LATER.isoformat(),
            "COLUMNS": "300",
        }
        return CliRunner(env=environment).invoke(main, ["experiments", "replay", *arguments])

    def replayed(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.replay(*arguments, "--format", "json").stdout)
        return found

    def everything(self) -> tuple[dict[str, list[Any]], dict[str, bytes]]:
        """All rows of all tables, and all files of the staging area."""
        database = Database(self.engine)
        tables = database.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'predictbench'"
            " AND table_type = 'BASE TABLE'"
        )
        rows = {
            name: database.rows(f"SELECT t::text, xmin::text FROM predictbench.{name} t ORDER BY 1")
            for (name,) in tables
        }
        files = {str(file): file.read_bytes() for file in Path(self.daily.staging.root).rglob("*") if file.is_file()}
        return rows, files

    @contextmanager
    def damaged(self, key: RunKey) -> Iterator[None]:
        """The staged markets of a run, cut off in the middle."""
        file = Path(self.daily.staging.root) / f"normalized_markets/{key.run_date}/{key.window_days}.jsonl.zst"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        try:
            yield
        finally:
            file.write_bytes(whole)


@pytest.fixture(scope="module")
def stored(make_run: MakeRun) -> Iterator[Stored]:
    daily = make_run()
    for key in (KEY, TOMORROW):
        assert daily.here(key).exit_code == 0
    engine = make_engine(daily.database_url)
    query = "SELECT market_id FROM predictbench.processed_markets WHERE run_id = %s ORDER BY market_id"
    for number, (market_id,) in enumerate(daily.rows(query, KEY.run_id)):
        observe(engine, market_id, "final", float(number % 2), at=LATER)
    yield Stored(daily, engine)
    engine.dispose()


def test_an_experiment_that_is_stored_has_the_scores_of_the_board(stored: Stored) -> None:
    found = stored.replayed("uniform", "--run-date", DAY)
    assert [(one["state"], one["failed"]) for one in found["partitions"]] == [("replayed", 0)]
    board = rebuild_leaderboard(stored.engine, LATER).rows
    names = (
        "category",
        "price_bin",
        "n_markets",
        "n_events",
        "brier",
        "market_brier",
        "mean_edge",
        "edge_low",
        "skill_low",
    )
    theirs = [row for row in board if (row.experiment, row.board, row.window_days) == ("uniform", "full", 7)]
    assert len(theirs) > 1
    assert theirs[0].n_markets > 10
    assert theirs[0].edge_low is not None
    assert [[row[name] for name in names] for row in found["boards"]] == [
        [getattr(row, name) for name in names] for row in theirs
    ]
    scores = found["partitions"][0]["scores"]
    assert [scores[name] for name in names] == [getattr(theirs[0], name) for name in names]


def test_a_class_of_ones_own_is_shown_beside_the_market_and_nothing_is_stored(stored: Stored) -> None:
    before = stored.everything()
    done = stored.replay(f"{OWN}:Bold", "--from", DAY, "--to", DAY, "--window-days", "1,7")
    assert done.exit_code == 0, done.output
    assert stored.everything() == before
    lines = [line.split() for line in done.stdout.splitlines()]
    tomorrow, week = (next(line for line in lines if line[:2] == [DAY, window]) for window in ("1", "7"))
    sums = {line[1]: line for line in lines if line[:1] == ["all"]}
    assert sums["7"][2:6] == week[2:6]
    counts = [int(count) for count in week[2:5]]
    assert all(counts)
    assert sum(counts) == len(stored.replayed(f"{OWN}:Bold", "--run-date", DAY)["partitions"][0]["forecasts"])
    assert tomorrow[5] == "0"  # settled
    assert "ZeroDivisionError: too sure (" in done.stdout, done.stdout
    assert "No forecast was stored." in done.stdout


def test_disagreements_are_the_largest_ones_with_their_outcome(stored: Stored) -> None:
    found = stored.replayed(f"{OWN}:Bold", "--from", DAY, "--to", DAY, "--window-days", "1,7")
    forecasts = [one for partition in found["partitions"] for one in partition["forecasts"]]
    for one in forecasts:
        assert (one["probability"] is None) == (one["status"] != "completed")
        assert (one["outcome"] is None) == (one["window_days"] == 1)
    gaps = sorted((abs(one["probability"] - one["price"]) for one in forecasts if one["probability"]), reverse=True)
    assert [abs(one["probability"] - one["price"]) for one in found["disagreements"]] == gaps[:10]


def test_the_same_replay_gives_the_same_again(stored: Stored, tmp_path: Path) -> None:
    arguments = (f"{OWN}:Bold", "--run-date", DAY, "--core", "--picture", str(tmp_path / "a" / "one.svg"))
    first, picture = stored.replayed(*arguments), (tmp_path / "a" / "one.svg").read_bytes()
    second = stored.replayed(*arguments)
    for found in (first, second):
        for one in found["partitions"]:
            del one["seconds"]
    assert first == second
    assert (tmp_path / "a" / "one.svg").read_bytes() == picture
    assert b"bold 1, core, 7 days" in picture
    assert {row["board"] for row in first["boards"]} == {"core"}


def test_a_part_of_a_run_begins_with_the_core(stored: Stored, tmp_path: Path) -> None:
    picture = tmp_path / "few.PNG"
    [few] = stored.replayed("uniform", "--run-date", DAY, "--limit", "5", "--picture", str(picture))["partitions"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    [core] = stored.replayed("uniform", "--run-date", DAY, "--core")["partitions"]
    assert len(few["forecasts"]) == 5
    assert few["scores"]["n_board"] <= 5
    chosen = {one["market_id"] for one in core["forecasts"]}
    assert chosen.issuperset(one["market_id"] for one in few["forecasts"])
    query = "SELECT market_id FROM predictbench.processed_markets WHERE run_id = %s AND core"
    assert chosen == {market_id for (market_id,) in stored.daily.rows(query, KEY.run_id)}


def test_what_would_cost_something_is_not_asked_unless_told(stored: Stored) -> None:
    free = stored.replay(f"{OWN}:Costly", "--run-date", DAY, "--limit", "4")
    assert free.exit_code == 1
    assert (
        "4 markets were not asked about, since that has to be paid for: --yes does, for $0.040 (at most $0.080)."
        in (free.stdout)
    )
    [told] = stored.replayed(f"{OWN}:Costly", "--run-date", DAY, "--limit", "4", "--yes")["partitions"]
    assert told["completed"] == 4


def test_one_that_searches_is_not_asked_about_a_day_that_is_over(stored: Stored) -> None:
    found = stored.replayed(f"{OWN}:Searcher", "--run-date", DAY, "--yes")
    assert found["partitions"][0]["completed"] == 0
    assert "could not be known then" in found["partitions"][0]["reason"]
    assert found["not_asked"] == 0


def test_what_is_missing_or_broken_stops_no_other(stored: Stored) -> None:
    missing = stored.replay("uniform", "--from", DAY, "--to", "2026-03-04")
    assert missing.exit_code == 3
    assert "`predictbench backfill --from 2026-03-03 --to 2026-03-04 --window-days 7" in missing.stdout
    arguments = ("--from", DAY, "--to", DAY, "--window-days", "7,1")
    with stored.damaged(KEY):
        assert stored.replay("uniform", *arguments).exit_code == 1
        found = stored.replayed("uniform", *arguments)
    assert [one["state"] for one in found["partitions"]] == ["replayed", "failed"]
    assert "normalized_markets" in found["partitions"][1]["reason"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["unifrom"], "Did you mean 'uniform'?"),
        ([f"{OWN}:Nothing"], "Nothing"),
        ([f"{OWN}:Prepares"], "makes no forecasts"),
        (["uniform", "--run-date", DAY, "--from", DAY], "--run-date is one day"),
        (["uniform", "--to", DAY], "--from"),
        (["uniform", "--from", "2026-03-03", "--to", DAY], "is before --from"),
        (["uniform", "--run-date", "2027-01-01"], "in the future"),
        (["uniform", "--picture", "board.jpg"], "--picture"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(stored: Stored, arguments: list[str], told: str) -> None:
    done = stored.replay(*arguments)
    assert done.exit_code == 2
    assert told in done.output
