"""Boards of a moment: stored, read back, and rebuilt exactly after everything has moved on."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from predictbench_assets.cli.leaderboard import leaderboard
from predictbench_assets.cli.main import main
from predictbench_assets.cli.options import as_of_instant, read_moment
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.boards import ALL, BoardRow, Leaderboard
from predictbench_assets.scoring.store.boards import (
    StoredBoardUnreadable,
    content_hash,
    encoded_leaderboard,
    rebuild_leaderboard,
    store_leaderboard,
    stored_leaderboard,
)
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.ledger import DAY, Forecaster, Ledger, at

Predictbench = Callable[..., Result]

DAYS = 3
EVENTS = 40
THEN = at(date(2026, 2, 20))
NOW = at(date(2026, 3, 10))


def prices(day: int) -> dict[str, float]:
    return {f"m{1000 * day + 3 * number}": (number % 19 + 0.5) / 20 for number in range(EVENTS)}


def nudged(of: dict[str, float], by: float) -> dict[str, float]:
    return {one: min(max(price + by, 0.0), 1.0) for one, price in of.items()}


@pytest.fixture
def season(ledger: Ledger) -> Ledger:
    """Three days of two forecasters and a control, most of them settled; all of it before THEN."""
    for day in range(DAYS):
        there = prices(day)
        few = dict(list(there.items())[:10])
        ledger.run(
            there,
            Forecaster("bold", nudged(there, 0.2)),
            Forecaster("lazy", few),
            Forecaster("uniform", dict.fromkeys(there, 0.5), control=True),
            key=RunKey(DAY + timedelta(days=day), 7),
            core=True,
            core_weight=1.0,
        )
        settled = [one for number, one in enumerate(there) if number % 20 or day < 2]
        outcomes = {one: float(hash_of(one) < there[one]) for one in settled}
        ledger.observe(outcomes, THEN - timedelta(days=1), closed=THEN - timedelta(days=2))
    return ledger


def hash_of(market_id: str) -> float:
    """A number in [0, 1) that belongs to a market."""
    return int(market_id.removeprefix("m")) * 7919 % 1009 / 1009


def move_on(ledger: Ledger) -> None:
    """What comes after THEN: a day more, a run made again, corrections, a market withdrawn."""
    later = DAY + timedelta(days=10)
    ledger.run(
        {"m90000": 0.4}, Forecaster("newcomer", {"m90000": 0.6}), key=RunKey(later, 7), now=THEN + timedelta(days=1)
    )
    first = prices(0)
    ledger.run(
        dict(list(first.items())[1:]),
        Forecaster("bold", dict.fromkeys(first, 0.99), made_at=at(DAY, 8)),
        Forecaster("late", dict.fromkeys(first, 0.5)),
        now=THEN + timedelta(days=2),
        core=True,
        core_weight=1.0,
    )
    second = list(prices(1))
    ledger.observe({second[0]: 0.5, second[1]: None}, THEN + timedelta(days=3), state="")
    ledger.observe({second[2]: 1.0 - float(hash_of(second[2]) < prices(1)[second[2]])}, THEN + timedelta(days=4))
    ledger.observe({"m90000": 1.0}, THEN + timedelta(days=5))


def test_a_past_board_is_rebuilt_byte_for_byte(engine: Engine, season: Ledger) -> None:
    score_settled(engine, THEN)
    board = rebuild_leaderboard(engine, THEN)
    assert board.as_of == THEN
    assert board.rows
    store_leaderboard(engine, board, THEN)

    move_on(season)
    score_settled(engine, NOW)
    newer = rebuild_leaderboard(engine, NOW)
    assert encoded_leaderboard(newer) != encoded_leaderboard(msgspec.structs.replace(board, as_of=NOW))
    assert {row.experiment for row in newer.rows} > {row.experiment for row in board.rows}

    again = rebuild_leaderboard(engine, THEN)
    assert encoded_leaderboard(again) == encoded_leaderboard(board)
    stored = stored_leaderboard(engine, THEN)
    assert stored is not None
    assert encoded_leaderboard(stored) == encoded_leaderboard(board)


def test_a_stored_board_is_the_one_that_was_made(engine: Engine, season: Ledger) -> None:
    assert stored_leaderboard(engine, NOW) is None
    first, second = rebuild_leaderboard(engine, THEN), rebuild_leaderboard(engine, THEN + timedelta(hours=1))
    identity = store_leaderboard(engine, first, NOW)
    assert store_leaderboard(engine, first, NOW + timedelta(days=1)) == identity
    assert store_leaderboard(engine, second, NOW) != identity
    assert stored_leaderboard(engine, THEN - timedelta(seconds=1)) is None
    assert stored_leaderboard(engine, THEN) == first
    assert stored_leaderboard(engine, NOW) == second
    [row] = season.rows(
        "SELECT as_of, computed_at, scoring_version, content_hash FROM predictbench.leaderboards"
        " WHERE leaderboard_id = :id",
        id=identity,
    )
    assert row == (THEN, NOW, first.scoring_version, content_hash(first))
    stored = season.rows(
        "SELECT board, window_days, category, price_bin, experiment, version, n_markets, n_events, mean_edge, edge_low,"
        " edge_high, rank, position FROM predictbench.leaderboard_rows WHERE leaderboard_id = :id ORDER BY position",
        id=identity,
    )
    names = (
        *("board", "window_days", "category", "price_bin", "experiment", "version", "n_markets", "n_events"),
        *("mean_edge", "edge_low", "edge_high", "rank"),
    )
    assert stored == [(*(getattr(row, name) for name in names), n) for n, row in enumerate(first.rows)]
    season.execute(
        """UPDATE predictbench.leaderboards SET detail = '{"as_of": 7}' WHERE leaderboard_id = :id""", id=identity
    )
    with pytest.raises(StoredBoardUnreadable, match=str(identity)):
        stored_leaderboard(engine, THEN)


def test_the_boards_say_what_was_planted(engine: Engine, season: Ledger) -> None:
    board = rebuild_leaderboard(engine, THEN)
    rows = {
        row.experiment: row
        for row in board.rows
        if (row.board, row.category, row.price_bin) == ("full", ALL, ALL) and row.window_days == 7
    }
    assert set(rows) == {"baseline_snapshot", "bold", "lazy", "uniform"}
    price = rows["baseline_snapshot"]
    assert (price.mean_edge, price.edge_low, price.edge_high) == (0.0, 0.0, 0.0)
    assert price.n_markets == DAYS * EVENTS - 2
    assert price.n_open == 2
    assert rows["lazy"].coverage == pytest.approx(0.25)
    assert "low_coverage" in rows["lazy"].flags
    assert rows["lazy"].rank is None
    assert rows["uniform"].control
    assert rows["uniform"].brier == pytest.approx(0.25)
    assert rows["bold"].mean_edge is not None
    assert rows["bold"].mean_edge < 0
    assert not any("control_beats_market" in row.flags for row in rows.values())


def test_only_runs_of_chosen_dates_count_where_that_is_asked_for(engine: Engine, season: Ledger) -> None:
    second = DAY + timedelta(days=1)
    board = rebuild_leaderboard(engine, THEN, since=second, until=second)
    assert [cohort.run_date for cohort in board.cohorts] == [second]
    assert (board.since, board.until) == (second, second)
    store_leaderboard(engine, board, NOW)
    move_on(season)
    stored = stored_leaderboard(engine, THEN)
    assert stored == board
    again = rebuild_leaderboard(engine, stored.as_of, since=stored.since, until=stored.until)
    assert encoded_leaderboard(again) == encoded_leaderboard(board)


def test_a_bound_that_leaves_nothing_out_is_none(engine: Engine, season: Ledger) -> None:
    whole = rebuild_leaderboard(engine, THEN)
    bounded = rebuild_leaderboard(engine, THEN, since=DAY, until=DAY + timedelta(days=DAYS - 1))
    assert encoded_leaderboard(bounded) == encoded_leaderboard(whole)
    assert b"since" not in encoded_leaderboard(whole), "the bytes of before"
    store_leaderboard(engine, whole, NOW)
    [(fields,)] = season.rows("SELECT array_agg(f) FROM predictbench.leaderboards, jsonb_object_keys(detail) f")
    assert not {"since", "until"} & set(fields)
    move_on(season)  # a run that is later than the moment is no part of it
    assert encoded_leaderboard(rebuild_leaderboard(engine, THEN, until=DAY + timedelta(days=DAYS - 1))) == (
        encoded_leaderboard(whole)
    )


def test_the_leaderboard_counts_the_last_days_and_says_so(
    predictbench: Predictbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: str) -> tuple[int, str | None, str | None]:
        """Markets of the full board, and the first and the last run date that count."""
        rows = rows_of(
            predictbench("leaderboard", "--format", "json", "--board", "full", "--category", ALL, *arguments)
        )
        csv_rows = csv.DictReader(io.StringIO(predictbench("leaderboard", "--format", "csv", *arguments).stdout))
        told = {(row["since"], row["until"]) for row in rows}
        assert told == {(row["since"] or None, row["until"] or None) for row in csv_rows}
        [days] = told
        return max(row["n_board"] for row in rows), *days

    def sentence(*arguments: str) -> bool:
        return "Only run dates" in " ".join(predictbench("leaderboard", *arguments).stdout.split())

    second = (DAY + timedelta(days=1)).isoformat()
    everything = (DAYS * EVENTS, None, None)
    assert shown() == everything
    assert not sentence()
    monkeypatch.setenv("LEADERBOARD_DAYS", str((NOW.date() - DAY).days - 1))
    assert shown() == ((DAYS - 1) * EVENTS, second, None)
    said = " ".join(predictbench("leaderboard").stdout.split())
    assert f"Only run dates from {second} on count" in said
    assert "LEADERBOARD_DAYS=0" in said
    assert f"Only run dates from {second} on count" in predictbench("leaderboard", "--format", "md").stdout
    # Of the moment that is shown, not of today; and what is asked for comes before the setting.
    assert shown("--as-of", (NOW - timedelta(days=1)).isoformat()) == everything
    assert shown("--since", DAY.isoformat()) == everything
    assert shown("--until", second) == (2 * EVENTS, None, second)
    assert sentence("--until", second)
    monkeypatch.setenv("LEADERBOARD_DAYS", "0")
    assert shown() == everything


@pytest.fixture
def predictbench(database_url: str, season: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Predictbench:
    """The command in this process, on the season, at NOW."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("PREDICTBENCH_NOW", NOW.isoformat())
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="predictbench")

    return run


def rows_of(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_the_leaderboard_as_json(predictbench: Predictbench, engine: Engine) -> None:
    rows = rows_of(predictbench("leaderboard", "--format", "json"))
    assert rows
    wanted = {
        *("board", "window_days", "category", "experiment", "version", "n_markets", "n_events", "coverage"),
        *("mean_edge", "edge_low", "edge_high", "brier", "log_loss", "rank", "flags"),
    }
    assert all(wanted <= set(row) and isinstance(row["flags"], list) for row in rows)
    keys = [tuple(row[name] for name in ("board", "window_days", "category", "experiment", "version")) for row in rows]
    assert len(keys) == len(set(keys))
    assert {row["category"] for row in rows} == {ALL, "politics"}
    built = [row for row in rebuild_leaderboard(engine, NOW).rows if row.price_bin == ALL]
    assert msgspec.convert(rows, list[BoardRow]) == built


def test_a_past_board_by_day_and_by_instant(predictbench: Predictbench, season: Ledger, tmp_path: Path) -> None:
    by_day = predictbench("leaderboard", "--as-of", "2026-02-20", "--format", "json").stdout
    move_on(season)
    file = tmp_path / "new" / "board.json"
    instant = "2026-02-21T01:59:59.999999+02:00"
    assert predictbench("leaderboard", "--as-of", instant, "--format", "json", "--output", str(file)).output == ""
    assert file.read_text() == by_day
    assert predictbench("leaderboard", "--format", "json").stdout != by_day


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, NOW),
        ("2026-02-20", datetime(2026, 2, 20, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-03-10", NOW),
        ("2026-02-20T08:30", at(date(2026, 2, 20), 8, 30)),
        ("2026-02-20T08:30Z", at(date(2026, 2, 20), 8, 30)),
        ("2026-02-20T08:30+02:00", at(date(2026, 2, 20), 6, 30)),
    ],
)
def test_what_a_moment_means(given: str | None, meant: datetime) -> None:
    moment = read_moment(click.Context(leaderboard), leaderboard.params[0], given)
    assert as_of_instant(moment, NOW) == meant


@pytest.mark.parametrize(
    "given", ["yesterday", "2026-13-01", "2026-02-20T25:00", "9999-12-31T23:59-23:00", "0001-01-01T00:00+05:00"]
)
def test_what_is_no_moment_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter, match="is no moment"):
        read_moment(click.Context(leaderboard), leaderboard.params[0], given)


def test_a_board_that_cannot_be_written_says_so(predictbench: Predictbench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = predictbench("leaderboard", "--output", str(tmp_path / "file" / "board.json"))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), "no traceback"
    assert "board.json" in done.output


def test_cuts_of_the_leaderboard(predictbench: Predictbench) -> None:
    told = ("leaderboard", "--format", "json")
    chosen = rows_of(predictbench(*told, "--board", "full", "--category", "politics"))
    assert {(row["board"], row["category"], row["price_bin"]) for row in chosen} == {("full", "politics", ALL)}
    every = rows_of(predictbench(*told, "--price-bin", "every", "--category", "all"))
    assert {row["price_bin"] for row in every} == {ALL, "0-5", "5-20", "20-40", "40-60", "60-80", "80-95"}
    one = rows_of(predictbench(*told, "--price-bin", "40-60"))
    assert one == [row for row in every if row["price_bin"] == "40-60"]
    none = predictbench(*told, "--window-days", "3")
    assert rows_of(none) == []
    assert "windows 7" in none.stderr


def test_the_leaderboard_as_a_table_fits_into_100_columns(
    predictbench: Predictbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # else a pipe has a width of its own
    done = predictbench("leaderboard")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "full board, 7 days ahead" in done.stdout
    for words in ("bold 1", "uniform 1", "low coverage", "118 of 120 markets of 3 runs have settled"):
        assert words in " ".join(done.stdout.split()), done.stdout
    assert "politics" not in done.stdout


def test_the_leaderboard_as_csv_and_markdown(predictbench: Predictbench) -> None:
    found = list(csv.DictReader(io.StringIO(predictbench("leaderboard", "--format", "csv").stdout)))
    told = rows_of(predictbench("leaderboard", "--format", "json"))
    assert len(found) == len(told)
    assert [row["flags"].split() for row in found] == [row["flags"] for row in told]
    assert [row["mean_edge"] for row in found] == [
        "" if row["mean_edge"] is None else repr(row["mean_edge"]) for row in told
    ]
    page = predictbench("leaderboard", "--format", "md").stdout
    assert "**full board, 7 days ahead**" in page
    assert "| bold 1 |" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--as-of", "2026-13-01"], "is no moment"),
        (["--as-of", "2026-03-11"], "in the future"),
        (["--price-bin", "0-100"], "0-5"),
        (["--board", "gold"], "core"),
        (["--since", "2026-02-03", "--until", "2026-02-02"], "is after"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_NOW", NOW.isoformat())
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")  # which nothing asks
    done = CliRunner().invoke(main, ["leaderboard", *arguments])
    assert done.exit_code == 2
    assert said in done.output


def test_nothing_stored_is_said(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["leaderboard"])
    assert done.exit_code == 0, done.output
    assert "predictbench resolve" in done.stdout
    assert CliRunner().invoke(main, ["leaderboard", "--format", "json"]).stdout == "[]\n"
    assert "0 forecasts scored" in CliRunner().invoke(main, ["score"]).stdout


def test_scoring_from_the_command_line(predictbench: Predictbench, season: Ledger) -> None:
    done = predictbench("score", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["scored"] == told["scores"] > 0
    assert "scored for the first time" in predictbench("score").stdout
    move_on(season)
    assert "scored anew" in predictbench("score").stdout


def test_a_board_without_a_row_is_stored_too(engine: Engine) -> None:
    empty = rebuild_leaderboard(engine, THEN)
    assert isinstance(empty, Leaderboard)
    assert empty.rows == ()
    store_leaderboard(engine, empty, NOW)
    assert stored_leaderboard(engine, NOW) == empty
