"""What a person may ask of a run: a part of the day, nothing where it is stored, a partition that does not exist."""

from datetime import date, timedelta

import pytest

from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, MakeRun, differences

SETTINGS = {"PROCESSING_EXPERIMENTS": BASELINE}


def test_a_limit_makes_a_partial_run(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)

    ran = daily.here(ops={"normalized_markets": {"limit": 7}})

    assert ran.exit_code == 0
    assert (ran.said["status"], ran.said["partial"]) == ("partial", True)
    assert (ran.said["processed_markets"], ran.said["excluded_markets"]) == (7, 33)
    assert ran.said["excluded_by_reason"] == {"limit": 33}
    assert daily.run_row("status", "offered_markets", "excluded_by_reason") == ("partial", 40, {"limit": 33})

    # The whole day afterwards completes it; a part of it afterwards withdraws nothing.
    assert daily.here().said["processed_markets"] == 40
    daily.here(ops={"normalized_markets": {"limit": 7}})
    assert daily.rows("SELECT count(*) FROM predictbench.processed_markets WHERE withdrawn_at IS NULL") == [(40,)]


def test_filters_leave_markets_out_and_say_how_many(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS, MAX_MARKETS="30", MIN_VOLUME="1000")

    ran = daily.here()

    assert ran.exit_code == 0
    excluded = ran.said["excluded_by_reason"]
    assert set(excluded) <= {"max_markets", "min_volume"}
    assert sum(excluded.values()) == ran.said["excluded_markets"] == 40 - ran.said["processed_markets"]
    assert ran.said["processed_markets"] <= 30
    assert daily.rows("SELECT count(*) FROM predictbench.processed_markets WHERE volume < 1000") == [(0,)]


def test_readable_markets_are_written_when_asked_for(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)

    assert daily.here(ops={"normalized_markets": {"debug_artifacts": True}}).exit_code == 0

    written = list((daily.folder / "home" / "artifacts").rglob("*.json"))
    assert written
    assert any("question" in path.read_text() for path in written)


def test_skip_leaves_a_stored_run_alone(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    first = daily.here()
    before, requests = daily.tables(), sum(daily.sandbox.requests.values())
    attempts = daily.count("processing_attempts")

    ran = daily.here(ops={"target_window": {"on_existing": "skip"}})

    assert ran.exit_code == 0
    assert ran.result is not None
    assert not ran.result.get_asset_materialization_events()
    assert ran.said["status"] == "skipped"
    assert ran.said["processed_markets"] == first.said["processed_markets"]
    assert daily.count("processing_attempts") == attempts
    assert sum(daily.sandbox.requests.values()) == requests
    assert not differences(before, daily.tables())


def test_fail_refuses_a_stored_run(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    daily.here()
    before = daily.tables()

    ran = daily.here(ops={"target_window": {"on_existing": "fail"}})

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "target_window")
    assert "the run 2026-03-02|7 is stored complete since" in ran.said["reason"]
    assert "--on-existing update" in ran.said["reason"]
    assert daily.run_row("status") == "completed"
    assert not differences(before, daily.tables())


@pytest.mark.parametrize("choice", ["skip", "fail"])
def test_a_run_that_is_not_complete_is_neither_skipped_nor_refused(choice: str, make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)
    daily.here(ops={"normalized_markets": {"limit": 2}})

    ran = daily.here(ops={"target_window": {"on_existing": choice}})

    assert ran.said["processed_markets"] == 5


def test_two_windows_of_a_day_are_two_runs(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)

    assert daily.here().exit_code == 0
    shorter = daily.here(RunKey(KEY.run_date, 1))

    assert shorter.exit_code == 0
    windows = daily.rows(
        "SELECT r.window_days, min(m.close_time)::date, max(m.close_time)::date"
        " FROM predictbench.processing_runs r JOIN predictbench.processed_markets m USING (run_id)"
        " GROUP BY r.window_days ORDER BY r.window_days"
    )
    assert [(days, first.isoformat(), last.isoformat()) for days, first, last in windows] == [
        (1, "2026-03-03", "2026-03-03"),
        (7, "2026-03-09", "2026-03-09"),
    ]


def test_the_partition_tag_alone_is_enough(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)

    ran = daily.forked(tags={"dagster/partition": str(KEY)})

    assert ran.exit_code == 0, ran.output
    assert ran.said["processed_markets"] == 5


def test_a_run_without_a_partition_says_how_to_name_one(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)

    ran = daily.forked(tags={})

    assert ran.exit_code == 1
    assert "`predictbench partition` prints the tags of one" in ran.output
    assert daily.count("processing_runs") == 0


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (RunKey(date(2026, 3, 2), 15), "window 15 is not in the grid; choose one of 1, 2,"),
        (RunKey(date(2026, 3, 3), 7), "run date 2026-03-03 is in the future; today is 2026-03-02 (UTC)"),
    ],
    ids=str,
)
def test_a_partition_outside_the_grid_is_refused_before_anything_is_done(
    key: RunKey, words: str, make_run: MakeRun
) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)

    ran = daily.forked(key)

    assert ran.exit_code == 1
    assert ran.said["stage"] == "target_window"
    assert ran.said["reason"].startswith(words)
    assert daily.count("processing_runs") == 0
    assert not daily.sandbox.requests


def test_a_day_with_far_fewer_markets_than_the_days_before_is_pointed_out(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    assert daily.here().checks()["cohort_size"] is True
    tomorrow = NOW + timedelta(days=1)
    daily.sandbox.set_time(tomorrow)
    next_day = {"PREDICTBENCH_NOW": tomorrow.isoformat()}

    # A limit of ours is no reason to worry, a day of few markets is.
    limited = daily.here(RunKey(tomorrow.date(), 7), MAX_MARKETS="3", **next_day)
    assert limited.checks()["cohort_size"] is True
    few = ReplayWorld([])
    with serve(few, now=tomorrow) as empty:
        small = daily.here(
            RunKey(tomorrow.date(), 8),
            ops={"raw_markets": {"allow_empty": True}},
            POLYMARKET_BASE_URL=empty.base_url,
            **next_day,
        )
    assert small.exit_code == 0
    assert small.checks()["cohort_size"] is False
