"""A declared experiment in a day's run: limited, stored under its table's name, and tried without a trace."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic_ai import models

from predictbench_assets.cli.main import main
from predictbench_assets.sandbox.models.server import serve
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


def test_a_models_prompt_and_answer_are_shown_and_paid_once(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", True)
    file = tmp_path / "declared.toml"
    file.write_text("")
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE, EXPERIMENTS_FILE=str(file))
    assert daily.here().exit_code == 0
    for name, text in daily.environment(tmp_path / "summary.json", {}).items():
        monkeypatch.setenv(name, text)

    def tried() -> list[dict[str, Any]]:
        done = CliRunner().invoke(main, ["experiments", "try", "lm", "--limit", "3", "--json"])
        assert done.exit_code == 0, done.output
        return sorted(json.loads(done.stdout), key=lambda one: str(one["status"]))

    with serve() as stand_in:
        file.write_text(
            f"[lm]\nkind = 'language_model'\nmodel = 'openai:stand-in'\nbase_url = '{stand_in.base_url}'\n"
            "limits.calls_per_day = 2\n"
        )
        first, again = tried(), tried()
        asked = len(stand_in.calls)
    assert asked == 2
    assert [one["status"] for one in first] == ["completed", "completed", "skipped"]
    assert "calls_per_day" in first[2]["reason"]
    shown = [dict(reversed(one["shown"])) for one in first]  # the payload names the prompt's version, too
    assert first[0]["question"] in shown[0]["prompt"]
    assert shown[0]["answer"].startswith("(answered) {")
    assert first[0]["usage"]["input_tokens"] > 0
    for before, one in zip(first[:2], again[:2], strict=True):
        assert before["probability"] == one["probability"]
        assert ["sent", "(paid for before)"] in one["shown"]
        assert dict(one["shown"])["answer"].startswith("(answered) {")
