"""Rules of the house that a machine can check."""

import subprocess
import sys
from pathlib import Path

from predictbench_assets_tests.kit.places import CLONE


def test_only_dagsters_layer_imports_dagster() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=CLONE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_domain_packages_work_without_dagster() -> None:
    """Not even by a detour: the client, the writer and the runner are usable from a plain script."""
    code = (
        "import sys; sys.modules['dagster'] = None\n"
        "import predictbench_assets.ingestion.snapshot, predictbench_assets.persistence.writer\n"
        "import predictbench_assets.persistence.run_contents, predictbench_assets.experiments.runner\n"
        "import predictbench_assets.experiments.registry, predictbench_assets.reporting.summary\n"
        "import predictbench_assets.sandbox.server, predictbench_assets.settings\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_run_does_not_load_what_it_has_no_use_for() -> None:
    """Each takes a tenth of a second or more, which every partition of a backfill would wait for."""
    code = "import sys, predictbench_assets.definitions; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CLONE, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "dagster" in loaded
    assert not loaded & {"alembic", "PIL", "matplotlib", "pandas", "pyarrow", "boto3", "starlette"}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    homeless = {"utils", "util", "common", "helpers", "misc"}
    found = [path for path in (CLONE / "predictbench_assets").rglob("*.py") if path.stem in homeless]
    assert found == []


def test_requirements_are_pinned_by_hash_and_name_no_index() -> None:
    for path in (CLONE / "requirements").glob("*.txt"):
        text = path.read_text()
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins
        assert all("==" in line and line.endswith("\\") for line in pins), path
        assert text.count("--hash=sha256:") >= len(pins)
        assert "://" not in text
        assert "--index" not in text
