"""`predictbench notify`: it tells what is known, whatever is missing or wrong."""

from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import main
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.http_services import Webhook, webhook

KEY = RunKey(date(2026, 11, 23), 7)


def notify(hook: Webhook | None, *arguments: str, **variables: str) -> Result:
    given = {"NOTIFY_WEBHOOK_URL": hook.url} if hook else {}
    return CliRunner().invoke(main, ["notify", *arguments], env=given | variables)


@pytest.fixture
def summary(tmp_path: Path) -> str:
    """The summary of a run that failed."""
    written = RunSummary.failed(KEY, stage="raw_markets", reason="the exchange is down").write(tmp_path / "s.json")
    return str(written)


def test_a_failed_run_is_told_from_its_summary(summary: str) -> None:
    with webhook() as hook:
        done = notify(hook, "--outcome", "failure", "--summary", summary, "--link", "https://ci.example/1")
    assert done.exit_code == 0, done.output
    [told] = hook.texts
    assert told.splitlines() == [
        "*Predictbench development: the run of 2026-11-23, window 7 days FAILED at raw_markets*",
        "the exchange is down",
        "https://ci.example/1",
    ]


@pytest.mark.parametrize("broken", [None, b"", b"{", b'{"status": "failed"}', b"\xff\xfe"])
def test_a_summary_that_cannot_be_read_is_no_reason_to_be_silent(tmp_path: Path, broken: bytes | None) -> None:
    file = tmp_path / "s.json"
    if broken is not None:
        file.write_bytes(broken)
    known = ("--run-date", "2026-11-23", "--window-days", "7", "--stage", "install")
    with webhook() as hook:
        done = notify(hook, "--outcome", "failure", "--summary", str(file), *known)
    assert done.exit_code == 0, done.output
    assert "cannot be read" in done.stderr
    assert hook.texts == ["*Predictbench development: the run of 2026-11-23, window 7 days FAILED at install*"]


def test_a_summary_without_an_end_is_not_read() -> None:
    with webhook() as hook:
        done = notify(hook, "--outcome", "failure", "--summary", "/dev/zero")
    assert "/dev/zero is a pipe or a device" in done.stderr
    assert len(hook.texts) == 1


def test_the_summary_of_another_run_is_not_told(summary: str) -> None:
    with webhook() as hook:
        done = notify(hook, "--outcome", "failure", "--summary", summary, "--window-days", "1", "--stage", "install")
    assert "is of another run" in done.stderr
    assert hook.texts == ["*Predictbench development: a run, window 1 days FAILED at install*"]


def test_an_input_that_was_left_empty_is_as_good_as_none() -> None:
    with webhook() as hook:
        done = notify(
            hook, "--outcome", "failure", "--summary", "", "--run-date", "", "--window-days", "", "--stage", ""
        )
    assert done.exit_code == 0, done.output
    assert hook.texts == ["*Predictbench development: a run FAILED*"]


def test_wrong_settings_are_no_reason_to_be_silent() -> None:
    with webhook() as hook:
        done = notify(hook, "--outcome", "failure", "--stage", "settings", ENVIRONMENT="production", HORIZONS="x")
    assert done.exit_code == 0, done.output
    assert hook.texts == ["*Predictbench production: a run FAILED at settings*"]


def test_without_a_webhook_there_is_one_line_and_no_error(summary: str) -> None:
    done = notify(None, "--outcome", "failure", "--summary", summary)
    assert (done.exit_code, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1
    assert "NOTIFY_WEBHOOK_URL is not set" in done.stderr


@pytest.mark.parametrize("setting", ["NOTIFY_WEBHOOK_URL", "DEAD_MAN_URL"])
def test_an_address_that_is_none_is_an_error(setting: str) -> None:
    done = notify(None, "--outcome", "success", **{setting: "hooks.example/hidden-key"})
    assert done.exit_code == 1
    assert f"{setting}: expected an address" in done.stderr
    assert "hidden-key" not in done.output


def test_a_success_is_a_sign_of_life_and_told_where_asked_for() -> None:
    with webhook() as hook, webhook() as watcher:
        assert notify(hook, "--outcome", "success", DEAD_MAN_URL=watcher.url).exit_code == 0
        assert (len(hook.received), len(watcher.received)) == (0, 1)
        assert notify(hook, "--outcome", "success", DEAD_MAN_URL=watcher.url, NOTIFY_ON_SUCCESS="1").exit_code == 0
        assert (len(hook.received), len(watcher.received)) == (1, 2)
        assert notify(hook, "--outcome", "failure", DEAD_MAN_URL=watcher.url).exit_code == 0
        assert notify(hook, "--outcome", "missed", DEAD_MAN_URL=watcher.url).exit_code == 0
        assert (len(hook.received), len(watcher.received)) == (3, 2)


def test_a_dry_run_is_no_sign_of_life(tmp_path: Path) -> None:
    dry = RunSummary.failed(KEY, stage=None, reason="", status="completed", dry_run=True).write(tmp_path / "s.json")
    with webhook() as watcher:
        assert notify(None, "--outcome", "success", "--summary", str(dry), DEAD_MAN_URL=watcher.url).exit_code == 0
    assert watcher.received == []


def test_a_note_that_nobody_takes_is_an_error_and_the_sign_of_life_is_given_all_the_same() -> None:
    with webhook(404) as hook, webhook() as watcher:
        done = notify(hook, "--outcome", "success", DEAD_MAN_URL=watcher.url, NOTIFY_ON_SUCCESS="1", LOG_LEVEL="DEBUG")
    assert done.exit_code == 1
    assert "NOTIFY_WEBHOOK_URL: answered 404" in done.stderr
    assert "hidden-key" not in done.output
    assert len(watcher.received) == 1


def test_a_watcher_that_does_not_answer_is_an_error() -> None:
    with webhook(410) as watcher:
        done = notify(None, "--outcome", "success", DEAD_MAN_URL=watcher.url)
    assert done.exit_code == 1
    assert "DEAD_MAN_URL: answered 410" in done.stderr
    assert "hidden-key" not in done.output


def test_addresses_pasted_with_their_line_ends_are_used() -> None:
    with webhook() as hook:
        fed = notify(None, "--outcome", "success", DEAD_MAN_URL=f"{hook.url}\n")
        told = notify(None, "--outcome", "missed", NOTIFY_WEBHOOK_URL=f'"{hook.url}"\r\n')
    assert (fed.exit_code, told.exit_code) == (0, 0), fed.output + told.output
    assert [(method, path) for method, path, _ in hook.received] == [
        ("GET", "/services/T0/B0/hidden-key"),
        ("POST", "/services/T0/B0/hidden-key"),
    ]


def test_a_file_that_cannot_be_read_may_have_named_the_address(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"# Z\xfcrich\nNOTIFY_WEBHOOK_URL=https://hooks.example/services/abcdefgh\n")
    done = notify(None, "--outcome", "failure")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "Error: .env, line 1, is not UTF-8 text: save the file as UTF-8"
