"""The pre-commit hook in a repository of its own: what is staged is linted, and not what lies beside it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from predictbench_assets_tests.kit.places import CLONE

BAD, GOOD = "import os\n", '"""Nothing."""\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with our linters, their settings and the hook, and one commit."""
    for name in (".ci", ".githooks", ".github"):
        shutil.copytree(CLONE / name, tmp_path / name)
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(CLONE / name, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".gitignore").write_text("/.venv\n__pycache__/\n.*_cache/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "All"], ["config", "core.hooksPath", ".githooks"]):
        assert git(tmp_path, *command).returncode == 0
    return tmp_path


def git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As in a clone of somebody: no settings of this machine, and not the repository that a hook runs these tests for.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    somebody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    somebody |= {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *arguments], cwd=repository, env=environment | somebody, capture_output=True, text=True, check=False
    )


def test_a_staged_fault_is_not_committed(repository: Path) -> None:
    (repository / "tool.py").write_text(BAD)
    git(repository, "add", "tool.py")
    (repository / "tool.py").write_text(GOOD)  # mended, but not staged
    refused = git(repository, "commit", "-m", "A tool")
    assert refused.returncode == 1
    assert "F401" in refused.stdout + refused.stderr

    git(repository, "add", "tool.py")
    (repository / "beside.py").write_text(BAD)  # not staged at all
    done = git(repository, "commit", "-m", "A tool")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_code_has_its_linters_too(repository: Path) -> None:
    for name, fault, said in (
        (".github/workflows/ci.yml", "jobs: {}\n", "ci.yml"),
        ("CITATION.cff", "title: Nothing else\n", "CITATION.cff"),
    ):
        before = (repository / name).read_text()
        (repository / name).write_text(fault)
        git(repository, "add", name)
        refused = git(repository, "commit", "-m", "A fault")
        assert refused.returncode == 1
        assert said in refused.stdout + refused.stderr
        (repository / name).write_text(before)
        git(repository, "add", name)
    (repository / "notes.txt").write_text("No linter reads this.\n")
    git(repository, "add", "notes.txt")
    assert git(repository, "commit", "-m", "Notes").returncode == 0
