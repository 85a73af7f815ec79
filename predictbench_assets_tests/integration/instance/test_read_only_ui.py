"""`predictbench ui --read-only`: a look at a deployment's storage, and nothing else."""

import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.runs import partition_tags
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.integration.instance.services import (
    Webserver,
    dagster_url,
    free_port,
    inherited,
    postgres_instance,
    service,
)
from predictbench_assets_tests.kit.daily_run import KEY

UI = [sys.executable, "-m", "predictbench_assets.cli.main", "ui", "--read-only"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a laptop whose `.env` says production and has no secret but the storage's."""
    return inherited() | {
        "ENVIRONMENT": "production",
        "PREDICTBENCH_ENV_FILE": "",
        "PREDICTBENCH_HOME": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
    }


def refused(environment: dict[str, str]) -> str:
    nothing = dict.fromkeys(all_variables())
    arguments = ["ui", "--read-only", "--port", str(free_port())]
    done = CliRunner().invoke(main, arguments, env=nothing | environment)
    assert done.exit_code == 1
    return done.output


@pytest.mark.long
def test_it_shows_what_runs_elsewhere_and_lets_nobody_launch(
    empty_database_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    with postgres_instance(empty_database_url) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("persisted_run", partition=str(KEY)))
    web = Webserver(f"http://127.0.0.1:{(port := free_port())}")
    environment["DAGSTER_POSTGRES_URL"] = dagster_url(empty_database_url)
    arguments = [*UI, "--port", str(port)]
    with service(arguments, folder=tmp_path, environment=environment, log=tmp_path / "ui.log") as ui:
        ui.wait_until(web.ready)
        ui.wait_until(lambda: f"The UI is at http://127.0.0.1:{port}" in ui.said())
        assert web.partitions("persisted_run") == {str(KEY)}
        with pytest.raises(AssertionError, match="UnauthorizedError"):
            web.launch({"jobName": "daily_run"}, partition_tags(KEY))
    assert "STAGING_URI is not set" in ui.said()
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("predictbench")}
    assert not left
    assert not (tmp_path / "state").exists()


def test_it_says_what_it_needs(environment: dict[str, str], empty_database_url: str) -> None:
    assert "DAGSTER_POSTGRES_URL is not set" in refused(environment)
    pooler = "postgresql://dagster:hunter22@host.example:6543/postgres"
    said = refused(environment | {"DAGSTER_POSTGRES_URL": pooler})
    assert "is a transaction pooler's (port 6543)" in said
    assert "hunter22" not in said
    said = refused(environment | {"DAGSTER_POSTGRES_URL": dagster_url(empty_database_url)})
    assert "no tables of Dagster's in the schema public" in said
