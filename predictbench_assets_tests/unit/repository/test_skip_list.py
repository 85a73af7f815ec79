"""The plugin that pins skips."""

import subprocess
import sys
from pathlib import Path

import pytest

from predictbench_assets_tests.kit.places import CLONE


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ("def test_x(): pass", True),
        ("import pytest\ndef test_x(): pytest.skip('no reason')", False),
        ("import pytest\npytest.skip('whole', allow_module_level=True)", False),
        ("import pytest\n@pytest.mark.xfail\ndef test_x(): assert False", True),
    ],
)
def test_an_unlisted_skip_fails_the_session(tmp_path: Path, body: str, passes: bool) -> None:
    (tmp_path / "test_it.py").write_text(body)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "predictbench_assets_tests.skip_list", str(tmp_path)]
    done = subprocess.run(arguments, cwd=CLONE, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == passes, done.stdout
    assert ("skips that are not expected" in done.stdout) != passes
