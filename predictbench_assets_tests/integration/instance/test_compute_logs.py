"""What steps print: kept in staging without secrets, whatever becomes of the runner, and shown elsewhere."""
# ruff: noqa: T201 - printing is what is tested

import sys
from pathlib import Path

import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType

from predictbench_assets.instance import compute_logs
from predictbench_assets.instance.compute_logs import FOLDER, StagingComputeLogManager
from predictbench_assets.staging import StagingArea

KEY = ["some-run", "compute_logs", "abcdefgh"]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of this test alone, for managers in this process."""
    monkeypatch.setenv("PREDICTBENCH_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("POLYMARKET_API_KEY", "a-planted-api-key")
    # A web server of a deployment has not all that the deployment's runs must have.
    monkeypatch.setenv("ENVIRONMENT", "production")


@pytest.fixture
def staging(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path / "state" / "staging"))


def read(manager: StagingComputeLogManager, key: list[str] = KEY) -> str:
    data, _ = manager.get_log_data_for_type(key, ComputeIOType.STDOUT, 0, None)
    return (data or b"").decode()


def test_what_is_printed_is_shown_kept_and_redacted(staging: StagingArea, capsys: pytest.CaptureFixture[str]) -> None:
    with StagingComputeLogManager().capture_logs(KEY):
        print("the key is a-planted-api-key")
        print("a warning", file=sys.stderr)
    assert capsys.readouterr() == ("the key is a-planted-api-key\n", "a warning\n")
    elsewhere = StagingComputeLogManager()
    assert read(elsewhere) == "the key is ***\n"
    assert elsewhere.is_capture_complete(KEY)
    assert staging.list(FOLDER) == [f"{FOLDER}/{'/'.join(KEY)}.{kind}" for kind in ("err", "out")]
    elsewhere.delete_logs(prefix=KEY[:1])
    assert staging.list(FOLDER) == []


def test_a_failing_step_leaves_its_log(staging: StagingArea) -> None:
    shown = sys.stdout

    def step() -> None:
        with StagingComputeLogManager().capture_logs(KEY):
            print("before the end")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step()
    assert sys.stdout is shown
    assert read(StagingComputeLogManager()) == "before the end\n"


def test_a_run_that_is_still_going_shows_whole_lines_so_far(staging: StagingArea) -> None:
    manager = StagingComputeLogManager()
    with manager.capture_logs(KEY):
        print("one\nhalf of a secret: a-planted-", end="", flush=True)
        manager.on_progress(KEY)
        elsewhere = StagingComputeLogManager()
        assert read(elsewhere) == "one\n"
        assert not elsewhere.is_capture_complete(KEY)
        print("api-key")
    assert read(elsewhere) == "one\nhalf of a secret: ***\n"
    assert not any(name.endswith(".partial") for name in staging.list(FOLDER))


def test_what_was_printed_is_uploaded_while_the_run_lasts(staging: StagingArea) -> None:
    manager = StagingComputeLogManager(upload_interval=0)
    with manager.capture_logs(KEY):
        print("going on")
        deadline = 2000
        while read(StagingComputeLogManager()) != "going on\n":
            deadline -= 1
            assert deadline, "nothing was uploaded"
    assert staging.read_bytes(f"{FOLDER}/{'/'.join(KEY)}.out") == b"going on\n"


def test_of_a_long_log_the_end_is_kept(monkeypatch: pytest.MonkeyPatch, staging: StagingArea) -> None:
    monkeypatch.setattr(compute_logs, "LIMIT_BYTES", 100)
    with StagingComputeLogManager().capture_logs(KEY):
        for number in range(50):
            print(f"line {number}")
    lines = read(StagingComputeLogManager()).splitlines()
    assert lines[0].endswith("bytes left out]")
    assert lines[1].startswith("line ")
    assert lines[-1] == "line 49"


def test_a_store_out_of_reach_fails_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "staging").write_text("a file where the folder should be")
    with StagingComputeLogManager().capture_logs(KEY):
        print("all the same")
    assert "compute logs were not uploaded" in caplog.text
