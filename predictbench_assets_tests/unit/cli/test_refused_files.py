"""Folders that cannot be written to, disks without room, terminals without characters: a sentence, and exit code 1."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import Commands, main
from predictbench_assets.cli.os_errors import explained
from predictbench_assets.reporting.output import write_at_once
from predictbench_assets_tests.kit.places import CLONE

SIXTY = 60


def child(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "predictbench_assets.cli.main", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CLONE)} | variables,
        capture_output=True,
        timeout=SIXTY,
        check=False,
    )


@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        ("PREDICTBENCH_HOME", ["daily"]),
        ("PREDICTBENCH_HOME", ["report", "--output", "page"]),
        ("PREDICTBENCH_HOME", ["db", "start"]),
    ],
)
def test_a_place_that_is_none_is_named_with_its_setting(
    own_environment: Path, setting: str, arguments: list[str]
) -> None:
    (own_environment / "file").touch()
    place = own_environment / "file" / "home"
    done = CliRunner().invoke(main, arguments, env={setting: str(place)})
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert str(place) in done.output.splitlines()[-1]
    assert re.search("has to be a folder|Not a directory", done.output)
    assert setting in done.output.splitlines()[-1]


def test_a_demo_in_a_folder_that_takes_none_says_where_to_go(own_environment: Path) -> None:
    (own_environment / ".predictbench").touch()
    done = CliRunner().invoke(main, ["demo"])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {own_environment / '.predictbench' / 'demo'} cannot be written to")
    assert "run it from a folder of your own" in done.output


def failing(error: OSError) -> str:
    """What the group makes of an error that a command did not expect."""
    group = Commands("group")

    @group.command()
    def work() -> None:
        raise error

    return CliRunner().invoke(group, ["work"]).output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "", "/srv/other/file"),
            "Error: /srv/other/file: this user may not read or write",
        ),
        (OSError(errno.EROFS, "", "/srv/other"), "it is on a file system that can only be read"),
        (OSError(errno.ENOSPC, "", b"/srv/other"), "/srv/other: there is no room left on its disk"),
        (OSError(errno.ENOSPC, ""), "(no space left on device). Things are written to"),
        (OSError(errno.ENAMETOOLONG, "", "/srv/" + "n" * 300), "its name is too long"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/a']"), "Error: TMPDIR: No usable"),
    ],
)
def test_the_operating_systems_refusal_is_a_sentence(error: OSError, said: str) -> None:
    assert said in failing(error)


def test_the_setting_that_leads_to_a_path_is_named(monkeypatch: pytest.MonkeyPatch, own_environment: Path) -> None:
    monkeypatch.setenv("ARTIFACTS_DIR", "/srv/artifacts")
    for path, setting in (("/srv/artifacts/runs/x", "ARTIFACTS_DIR"), (".predictbench/x", "PREDICTBENCH_HOME")):
        text = explained(OSError(errno.EROFS, "", path))
        assert text is not None
        assert f"{setting} names another place" in text
    assert "names another place" not in (explained(OSError(errno.EROFS, "", "/srv/else")) or "")


def test_a_fault_of_ours_stays_one() -> None:
    assert explained(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    group = Commands("group", commands=[click.Command("work", callback=_of_no_kind)])
    with pytest.raises(OSError, match="of no kind"):
        CliRunner().invoke(group, ["work"], catch_exceptions=False)


def _of_no_kind() -> None:
    raise OSError("of no kind")


def test_a_current_folder_that_was_removed_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from predictbench_assets.cli.main import main; main(['leaderboard'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=gone,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CLONE)},
        capture_output=True,
        timeout=SIXTY,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b"Error: the current folder was removed: change to one that is there.\n"


def test_a_terminal_that_promises_ascii_only_gets_utf_8_and_no_traceback(tmp_path: Path) -> None:
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    (tmp_path / ".env").write_text("ARTIFACTS_DIR=Zürich✓\n", encoding="utf-8")
    done = child(tmp_path, "config", **old)
    assert done.returncode == 0, done.stderr
    assert "Zürich✓" in done.stdout.decode("utf-8")  # what click writes where only ASCII is promised


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "predictbench_assets.cli.main", "config"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CLONE)},
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=SIXTY,
            check=False,
        )
    assert done.stderr == b""


def test_a_disk_that_takes_no_more_is_told_with_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"summary\.json") as caught:
            write_at_once(file, "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failing(caught.value).startswith(f"Error: {file}: it would be larger than a file may be here.")
    assert list(tmp_path.iterdir()) == []


def test_a_device_in_the_place_of_a_summary_stays_one(tmp_path: Path) -> None:
    """As root the rename of a finished file would put it in the place of `/dev/null` itself."""
    (summary := tmp_path / "summary.json").symlink_to(os.devnull)
    write_at_once(summary, "{}")
    assert summary.is_symlink()
    assert not summary.read_text()
