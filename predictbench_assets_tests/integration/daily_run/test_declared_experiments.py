"""A declared experiment in a day's run: limited, stored under its table's name, and tried without a trace."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.settings import BASELINE
from predictbench_assets_tests.kit.daily_run import DailyRun, MakeRun

TABLE = """
[flat]
kind = "predictbench_assets.experiments.builtin.controls:UniformExperiment"
version = "2"
limits.markets = {markets}
"""


def stored_by(daily: DailyRun) -> list[tuple[object, ...]]:
    return daily.rows(
        "SELECT r.status, r.reason, count(*) FROM predictbench.experiment_results r "
        "JOIN predictbench.experiment_runs USING (experiment_run_id) "
        "JOIN predictbench.experiments USING (experiment_id) WHERE name = 'flat' AND version = '2' "
        "GROUP BY 1, 2 ORDER BY 1, 2"
    )


def test_a_limit_is_told_and_may_be_raised(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "declared.toml"
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE, EXPERIMENTS_FILE=str(file))
    file.write_text(TABLE.format(markets=5))
    ran = daily.here()
    assert ran.exit_code == 0
    assert (ran.said["experiments"]["flat"]["completed"], ran.said["experiments"]["flat"]["skipped"]) == (5, 35)
    assert stored_by(daily) == [("completed", None, 5), ("skipped", "budget: markets = 5 of this day's 40", 35)]

    file.write_text(TABLE.format(markets=7))
    again = daily.here()
    assert again.said["experiments"]["flat"]["completed"] == 7
    assert again.said["experiments"]["flat"]["from_journal"] == 5

    before = daily.count("experiment_results")
    for name, text in daily.environment(tmp_path / "summary.json", {}).items():
        monkeypatch.setenv(name, text)
    tried = CliRunner().invoke(main, ["experiments", "try", "flat", "--limit", "3", "--json"])
    assert tried.exit_code == 0, tried.output
    assert [one["probability"] for one in json.loads(tried.output)] == [0.5] * 3
    assert daily.count("experiment_results") == before
