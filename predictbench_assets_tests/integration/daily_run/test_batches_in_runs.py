"""A batch in a day's runs: the first one submits, one that skips what is stored collects, and the next has no work."""

from pathlib import Path

from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.settings import BASELINE
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun, MakeRun

SKIP = {"target_window": {"on_existing": "skip"}}
TABLE = """
[batched]
kind = "language_model"
model = "openai:stand-in"
base_url = "{base_url}"
api_key = "STAND_IN_API_KEY"
batch = true

[decided]
kind = "decision_model"
model = "openai-decisions:stand-in"
base_url = "{base_url}"
api_key = "STAND_IN_API_KEY"
unit = "event"
"""


def forecasts(daily: DailyRun, name: str) -> list[tuple[object, ...]]:
    return daily.rows(
        "SELECT r.status, r.forecast_at, count(*) FROM predictbench.experiment_results r "
        "JOIN predictbench.experiment_runs USING (experiment_run_id) "
        f"JOIN predictbench.experiments USING (experiment_id) WHERE name = '{name}' GROUP BY 1, 2 ORDER BY 1, 2"
    )


def test_a_later_run_of_the_day_collects_what_the_first_one_submitted(
    make_run: MakeRun, tmp_path: Path, stand_in: StandIn
) -> None:
    file = tmp_path / "declared.toml"
    file.write_text(TABLE.format(base_url=stand_in.base_url))
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE, EXPERIMENTS_FILE=str(file), STAND_IN_API_KEY="sk-planted-key-1")

    first = daily.here(ops=SKIP)
    assert first.said["status"] == "completed"
    assert first.said["experiments"]["batched"]["skipped"] == 40
    assert first.said["experiments"]["decided"]["completed"] == 40
    decided = stand_in.counts["billed"]
    assert 0 < decided <= 40
    assert [row[0] for row in forecasts(daily, "batched")] == ["skipped"]

    second = daily.here(ops=SKIP, STAND_IN_API_KEY="sk-planted-key-2")
    assert second.said["experiments"]["batched"]["completed"] == 40
    assert stand_in.counts["billed"] == decided + 40
    assert ("completed", NOW, 40) in forecasts(daily, "batched")

    third = daily.here(ops=SKIP)
    assert third.said["status"] == "skipped"
    again = daily.here()
    assert again.said["experiments"]["batched"]["from_journal"] == 40
    assert stand_in.counts["billed_again"] == 0
    kept = b"".join(one.read_bytes() for one in (tmp_path).rglob("*.jsonl") if one.is_file())
    assert b"planted-key" not in kept


def test_a_run_tells_of_a_batch_that_was_submitted_with_another_version(
    make_run: MakeRun, tmp_path: Path, stand_in: StandIn
) -> None:
    file = tmp_path / "declared.toml"
    table = TABLE.format(base_url=stand_in.base_url).partition("[decided]")[0]
    file.write_text(table)
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE, EXPERIMENTS_FILE=str(file), STAND_IN_API_KEY="sk-planted-key-1")
    assert daily.here(ops=SKIP).said["left_in_batches"] == {}
    file.write_text(f'{table}version = "2"\n')
    assert daily.here(ops=SKIP).said["left_in_batches"] == {"batched 1": 40}
