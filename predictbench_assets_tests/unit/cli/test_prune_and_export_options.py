"""`predictbench prune` and `predictbench export`: what cannot be meant is refused before anything is opened."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.settings import all_variables


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "--dry-run", "--verify"], "exclude each other"),
        (["prune", "--verify", "--restore", "m1"], "exclude each other"),
        (["prune", "--verify", "--only", "raw"], "--only is for pruning"),
        (["prune", "--only", "everything"], "'everything' is not one of"),
        (["export", "--to", "x"], "--since"),
        (["export", "--since", "2026-02-30", "--to", "x"], "no day of the calendar"),
        (["export", "--since", "2026-02-02", "--until", "2026-02-01", "--to", "x"], "is after --until 2026-02-01"),
        (["export", "--since", "2026-02-02", "--to", ""], "--to is empty"),
        (["export", "--since", "2026-02-02", "--format", "csv", "--to", "x"], "'csv' is not one of"),
        (["export", "--since", "2026-02-02", "--format", "forecastbench", "--to", "x"], "is of one run"),
        (["export", "--since", "2026-02-02", "--blind", "--to", "x"], "are for --format forecastbench"),
        (["export", "--format", "forecastbench", "--window-days", "8000", "--to", "x"], "not in the grid"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, arguments: list[str], said: str) -> None:
    environment = dict.fromkeys(all_variables()) | {"PREDICTBENCH_ENV_FILE": "", "PREDICTBENCH_HOME": str(tmp_path)}
    done = CliRunner(env=environment).invoke(main, arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_the_whole_process_puts_nothing_back(tmp_path: Path) -> None:
    environment = dict.fromkeys(all_variables()) | {"PREDICTBENCH_ENV_FILE": "", "PREDICTBENCH_HOME": str(tmp_path)}
    done = CliRunner(env=environment | {"PREDICTBENCH_DRY_RUN": "1"}).invoke(main, ["prune", "--restore", "m1"])
    assert done.exit_code == 2
    assert "PREDICTBENCH_DRY_RUN" in done.output
