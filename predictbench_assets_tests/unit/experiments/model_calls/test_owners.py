"""The owners of calls: who is dead, and who cannot be told to be."""

import os
import signal
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from predictbench_assets.experiments.model_calls.records import Call, CallRequest, CallScope, call_id, this_process

NOW = datetime(2026, 3, 2, 7, tzinfo=UTC)


def is_waited_for(owner: str) -> bool:
    """True where a call of that owner may still be under way."""
    scope = CallScope(
        run_date=date(2026, 3, 2), window_days=7, experiment="e", version="1", config_hash="c", snapshot_hash="s"
    )
    key = CallRequest(provider="p", model="p:m", content=1, reserved_tokens=1).key("1")
    call = Call(
        run_date=scope.run_date,
        window_days=scope.window_days,
        experiment=scope.experiment,
        version=scope.version,
        config_hash=scope.config_hash,
        snapshot_hash=scope.snapshot_hash,
        call_id=call_id(scope, key, 0),
        unit="market",
        unit_id="1",
        sample=0,
        attempt=0,
        provider="p",
        model_asked="p:m",
        prompt_hash=key[-1],
        asked_at=NOW,
        expires_at=NOW + timedelta(minutes=2),
        owner=owner,
    )
    return call.may_be_under_way


def owner_of(process_id: int, *, started: float | None = None) -> str:
    """The owner of another process's calls, in the same place as this one."""
    place = this_process().rsplit(":", 2)[0]
    since = psutil.Process(process_id).create_time() - psutil.boot_time() if started is None else started
    return f"{place}:{process_id}:{since:.2f}"


@pytest.mark.parametrize(("off", "waited"), [(0.0, True), (1.5, True), (-1.5, True), (2.5, False), (-2.5, False)])
def test_an_id_that_another_process_has_now_is_not_its_owner(off: float, waited: bool) -> None:
    started = psutil.Process().create_time() - psutil.boot_time()
    assert is_waited_for(owner_of(os.getpid(), started=started + off)) is waited


def test_a_clock_that_is_set_makes_nobody_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    booted = psutil.boot_time()
    # The kernel reckons the time of boot, and so of every start, back from the clock of now.
    for module in (psutil, psutil._psplatform):
        monkeypatch.setattr(module, "boot_time", lambda: booted + 3_600)
    assert is_waited_for(before)


def test_a_process_that_was_killed_is_dead_before_anybody_asks_after_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = owner_of(process.pid)
        assert is_waited_for(owner)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays as it is: a zombie
        assert not is_waited_for(owner)
    assert not is_waited_for(owner)


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="no namespaces here")
def test_a_container_with_the_same_host_name_is_waited_for() -> None:
    host, boot, namespace, process_id, started = this_process().split(":")
    assert namespace == str(Path("/proc/self/ns/pid").stat().st_ino)
    gone = "4194303"
    assert not is_waited_for(":".join((host, boot, namespace, gone, started)))
    assert is_waited_for(":".join((host, boot, "1", gone, started)))
    assert is_waited_for(":".join((host, "another-boot", namespace, gone, started)))
    assert is_waited_for(":".join((host, gone, started)))  # as it was written before
    assert is_waited_for("of nobody")
    assert process_id == str(os.getpid())
