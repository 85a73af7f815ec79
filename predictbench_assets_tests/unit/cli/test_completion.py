"""What shells complete: commands, options, experiments, boards, windows, days; in a real bash too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.settings import DEFAULT_EXPERIMENTS


def completed(*arguments: str) -> list[str]:
    """What is offered for the last of the arguments."""
    *before, begun = arguments
    complete = ShellComplete(main, {}, "predictbench", "_PREDICTBENCH_COMPLETE")
    return [item.value for item in complete.get_completions(before, begun)]


def test_commands_and_choices_are_completed() -> None:
    assert completed("lea") == ["leaderboard"]
    assert completed("db", "s") == ["sql", "start", "status", "stop"]
    assert completed("leaderboard", "--board", "") == ["core", "full", "backfill"]
    assert "--dry-run" in completed("daily", "--")
    assert completed("completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("command", ["daily", "run-config"])
def test_registered_experiments_are_completed(command: str) -> None:
    assert completed(command, "--experiment", "shr") == ["shrunk_market"]


def test_an_experiment_of_ones_own_is_completed_and_what_it_prints_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "completed_experiments.py").write_text(
        "from predictbench_assets.experiments.protocol import Experiment, ExperimentResult\n"
        "print('hello')\n"
        "class Mine(Experiment):\n"
        "    name, version, description = 'shroud', '1', 'Nothing.'\n"
        "    def run(self, market, context):\n"
        "        return ExperimentResult.binary(0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ",".join((*DEFAULT_EXPERIMENTS, "completed_experiments:Mine"))
    monkeypatch.setenv("PROCESSING_EXPERIMENTS", names)
    typed = {"COMP_WORDS": "predictbench daily --experiment shro", "COMP_CWORD": "3"}
    asked = {"_PREDICTBENCH_COMPLETE": "zsh_complete", **typed}
    done = CliRunner().invoke(main, [], prog_name="predictbench", env=asked)
    assert done.output.split() == ["plain", "shroud", "_"], done.output


def test_where_experiments_cannot_be_loaded_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSING_EXPERIMENTS", "nowhere:Nothing")
    assert completed("daily", "--experiment", "s") == []


def test_windows_days_and_price_bins_are_completed() -> None:
    assert completed("daily", "--window-days", "6") == ["6", "60"]
    assert completed("backfill", "--window-days", "1,3") == ["1,3", "1,30"]
    assert completed("verify", "--window-days", "9") == ["9", "90"]
    assert "5-20" in completed("leaderboard", "--price-bin", "")
    days = completed("daily", "--run-date", "20")
    assert len(days) == 14
    assert days == sorted(days, reverse=True)


@pytest.mark.parametrize(("shell", "said"), [("zsh", "#compdef predictbench"), ("fish", "complete --no-files")])
def test_each_shell_gets_its_script(shell: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said in CliRunner().invoke(main, ["completion", shell]).output
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert said in CliRunner().invoke(main, ["completion"]).output


@pytest.mark.parametrize("shell", ["/bin/tcsh", ""])
def test_a_shell_that_cannot_complete_is_told_which_can(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", shell)
    done = CliRunner().invoke(main, ["completion"])
    assert done.exit_code == 2
    assert "bash, zsh, fish" in done.output


def test_a_real_bash_completes_what_is_typed(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    program = tmp_path / "predictbench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}" "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(predictbench completion bash)"\n'
        "COMP_WORDS=(predictbench daily --experiment shr) COMP_CWORD=3\n"
        "_predictbench_completion predictbench shr --experiment\n"
        'echo "${COMPREPLY[@]}"\n'
        "complete -p predictbench\n"
    )
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[0] == "shrunk_market"
    assert "_predictbench_completion predictbench" in done.stdout
    assert done.stderr == ""


PROGRAM = "from predictbench_assets.cli.main import main; main(prog_name='predictbench')"
