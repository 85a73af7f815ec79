"""The files beside the package: instance configuration, compose, Makefile."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from predictbench_assets_tests.kit.places import CLONE


def loaded(name: str) -> dict[str, Any]:
    read = yaml.safe_load((CLONE / name).read_text())
    assert isinstance(read, dict)
    return read


def test_the_two_instance_files_differ_in_storage_and_compute_logs_alone() -> None:
    local, deployed = loaded("dagster.yaml"), loaded("deploy/dagster.yaml")
    assert deployed.pop("storage")["custom"] == {
        "module": "predictbench_assets.instance.storage",
        "class": "PostgresStorage",
        "config": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}},
    }
    assert deployed.pop("compute_logs") == {
        "module": "predictbench_assets.instance.compute_logs",
        "class": "StagingComputeLogManager",
        "config": {"upload_interval": 30},
    }
    assert local.pop("compute_logs")["class"] == "NoOpComputeLogManager"
    assert deployed == local


def test_the_instance_calls_nobody_and_ends_dead_runs() -> None:
    instance = loaded("dagster.yaml")
    assert instance["telemetry"] == {"enabled": False}
    assert instance["run_monitoring"]["max_runtime_seconds"] > 0


def test_compose_has_the_four_services_and_the_agreed_database() -> None:
    services = loaded("docker-compose.dev.yml")["services"]
    assert {"postgres", "code-location", "webserver", "daemon"} <= services.keys()
    postgres = services["postgres"]
    assert set(postgres["environment"].values()) == {"predictbench"}
    assert postgres["ports"] == ["127.0.0.1:5432:5432"]
    assert "healthcheck" in postgres


@pytest.mark.parametrize("name", ["with space", '$HOME `touch executed` "it\'s" é'])
def test_make_works_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    for part in ("Makefile", "pyproject.toml", "requirements"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).symlink_to(CLONE / part)
    venv.create(folder / ".venv", symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / ".venv")}))
    (packages / "the_others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{CLONE}\n")
    (folder / ".venv" / ".runtime-installed").touch()
    done = subprocess.run(["make", "stop"], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [".venv", "Makefile", "pyproject.toml", "requirements"]


def test_make_lists_its_targets() -> None:
    done = subprocess.run(
        ["make", "-C", str(CLONE), "--no-print-directory"], capture_output=True, text=True, check=True
    )
    for target in (
        "setup",
        "demo",
        "daily",
        "ui",
        "ui-production",
        "stop",
        "test",
        "test-all",
        "lint",
        "bench",
        "lock",
    ):
        assert f"make {target} " in done.stdout


def test_an_old_python_is_told_in_words(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$1" in -V) echo "Python 3.9.1";; *) exit 1;; esac\n')
    old.chmod(0o755)
    arguments = ["make", "-C", str(CLONE), f"VENV={tmp_path}/venv", f"PYTHON={old}", "setup"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.9.1; Predictbench needs Python 3.11" in done.stderr


def test_dg_finds_the_definitions_without_configuration(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "VIRTUAL_ENV")}
    home = {"HOME": str(tmp_path), "DAGSTER_HOME": str(CLONE)}  # its dagster.yaml turns telemetry off
    program = Path(sys.executable).with_name("dg")
    done = subprocess.run(
        [program, "check", "defs"], cwd=CLONE, env=inherited | home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "All definitions loaded successfully." in done.stdout + done.stderr
    assert "virtual environment" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
