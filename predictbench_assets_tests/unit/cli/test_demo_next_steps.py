"""What a demo suggests at its end: what was not done yet, as it can be typed there."""

import sys
from pathlib import Path

import pytest

from predictbench_assets.cli import demo


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation in a folder with a space, which is not on the PATH."""
    program = tmp_path / "my clone" / ".venv" / "bin" / "predictbench"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    return program


def test_the_program_is_named_from_where_one_is(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parents[2])
    assert demo._program() == ".venv/bin/predictbench"
    monkeypatch.chdir(program.parents[3])
    assert demo._program() == "'my clone/.venv/bin/predictbench'"
    monkeypatch.chdir("/")
    assert demo._program() == f"'{program}'".replace("'/", "'", 1)
    monkeypatch.chdir(program.parent)
    monkeypatch.setenv("PATH", str(program.parent))
    assert demo._program() == "predictbench"
    program.unlink()
    assert demo._program().endswith("python' -m predictbench_assets.cli.main")


@pytest.mark.parametrize(
    ("past", "own", "suggested", "not_suggested"),
    [
        (False, False, ["demo --past 8\n", "--experiment"], ["report"]),
        (True, False, ["--experiment", "report --demo --open"], ["demo --past 8\n"]),
        (False, True, ["demo --past 8\n"], ["--experiment", "report"]),
        (True, True, ["report --demo --open"], ["demo --past 8", "--experiment"]),
    ],
)
def test_only_what_was_not_done_is_suggested(
    past: bool, own: bool, suggested: list[str], not_suggested: list[str]
) -> None:
    steps = demo._next_steps(past=past, own=own)
    assert [one for one in suggested if one not in steps] == []
    assert [one for one in not_suggested if one in steps] == []
    assert "ui --demo" in steps
    assert "stop" in steps
