"""A daily run shows the digest of what it stored, and a dry run that of what it would have."""

from datetime import timedelta
from pathlib import Path

from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun


def test_a_run_shows_its_digest_and_a_dry_run_what_it_would_be(daily: DailyRun, tmp_path: Path) -> None:
    dry = daily.here(PREDICTBENCH_DRY_RUN="true").said["forecast_digest"]
    assert daily.count("forecast_digests") == 0
    ran = daily.here()
    told = ran.said["forecast_digest"]
    [(stored, forecasts, attempt)] = daily.rows("SELECT digest, forecasts, attempt FROM predictbench.forecast_digests")
    assert (told["digest"], told["forecasts"], attempt) == (stored, forecasts, 1)
    assert (
        forecasts == daily.rows("SELECT count(*) FROM predictbench.experiment_results WHERE status = 'completed'")[0][0]
    )
    assert dry == told, "the same clock, the same snapshot, the same forecasts"
    assert daily.run_row("summary")["forecast_digest"]["digest"] == stored
    assert (
        f"| digest | {stored} of {forecasts:,} forecasts (predictbench-forecasts-1) |"
        in ran.metadata("persisted_run")["summary"]
    )

    later = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=1)).isoformat()}
    environment = dict.fromkeys(all_variables()) | daily.environment(tmp_path / "none", later)
    done = CliRunner(env=environment).invoke(main, ["verify", "--all", "--digest", stored])
    assert done.exit_code == 0, done.output
    released = CliRunner(env=environment).invoke(main, ["release", "--output", str(tmp_path / "one")])
    assert released.exit_code == 0, released.output
    checked = CliRunner(env=environment).invoke(
        main, ["verify", "--release", str(tmp_path / "one"), "--digest", stored]
    )
    assert checked.exit_code == 0, checked.output

    # A run without anything new is told with the same digest, which is kept once.
    assert daily.here().said["forecast_digest"]["digest"] == stored
    assert daily.count("forecast_digests") == 1
