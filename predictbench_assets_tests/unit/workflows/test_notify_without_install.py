"""The program that tells a webhook where nothing is installed: with the secret as people paste it."""

import os
import subprocess
import sys

import pytest

from predictbench_assets_tests.kit.http_services import webhook
from predictbench_assets_tests.kit.places import CLONE

PROGRAM = CLONE / ".github" / "actions" / "notify" / "without_install.py"


def notify(address: str) -> subprocess.CompletedProcess[str]:
    given = {"OUTCOME": "failure", "WORKFLOW": "Daily", "STAGE": "install", "NOTIFY_WEBHOOK_URL": address}
    return subprocess.run(
        [sys.executable, "-S", str(PROGRAM)],
        env={"PATH": os.environ["PATH"]} | given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("around", ["{}", "{}\n", "\ufeff{}\r\n", '"{}"'])
def test_the_webhook_is_told(around: str) -> None:
    with webhook() as hook:
        done = notify(around.format(hook.url))
    assert (done.returncode, done.stderr) == (0, "")
    assert hook.texts == ["Predictbench, Daily: failure\nstage: install"]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/s3cret",
        "http://h/s3\ncret",
        "s3cret",
        "http://[::bad/s3cret",
        "file:///dev/null#s3cret",
        "data:,s3cret",
    ],
)
def test_an_address_that_cannot_be_reached_is_not_shown(address: str) -> None:
    done = notify(address)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
