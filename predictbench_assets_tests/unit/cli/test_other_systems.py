"""A system without POSIX's locks and users, such as Windows: what needs no embedded server works, the rest says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from predictbench_assets_tests.kit.places import CLONE

WITHOUT = """
import os, select, signal, sys
sys.path.insert(0, {clone!r})
sys.modules.update(fcntl=None, pwd=None)
for module, names in ((signal, ["SIGHUP"]), (os, ["geteuid", "killpg"]), (select, ["poll", "POLLIN"])):
    for name in names:
        delattr(module, name)
from predictbench_assets.cli.main import main
main()
"""


def elsewhere(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command as on such a system."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(clone=str(CLONE)), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config"]])
def test_what_needs_no_server_works(tmp_path: Path, arguments: list[str]) -> None:
    done = elsewhere(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["demo"], ["daily"], ["stop"]])
def test_what_needs_the_embedded_server_says_where_it_runs(tmp_path: Path, arguments: list[str]) -> None:
    done = elsewhere(tmp_path, *arguments)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: the embedded database and the demo run on Linux and macOS only: on Windows")
    assert "DATABASE_URL" in line


def test_a_database_of_ones_own_is_gone_to(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "leaderboard", DATABASE_URL="postgresql://u@127.0.0.1:9/db")
    assert "the database is not available" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_left_running_is_nothing_where_the_database_is_ones_own(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "stop", DATABASE_URL="postgresql://u@127.0.0.1:9/db")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("variables", "found"),
    [({}, "run on Linux and macOS only"), ({"DATABASE_URL": "postgresql://u@127.0.0.1:9/db"}, "is not available")],
)
def test_the_doctor_examines_what_there_is(tmp_path: Path, variables: dict[str, str], found: str) -> None:
    # Nothing but this machine is asked.
    nowhere = dict.fromkeys(("POLYMARKET_BASE_URL", "POLYMARKET_CLOB_URL"), "http://127.0.0.1:9")
    done = elsewhere(tmp_path, "doctor", **variables, **nowhere)
    assert done.returncode == 1
    assert found in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
