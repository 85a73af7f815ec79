"""`predictbench report` as a person calls it."""

from pathlib import Path

from sqlalchemy import Engine

from predictbench_assets_tests.kit.commands import Predictbench
from predictbench_assets_tests.kit.planted_page import EXPERIMENTS, plant


def test_it_writes_the_page_and_says_where_it_is(predictbench: Predictbench, engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=2, markets=3, chosen=EXPERIMENTS[:2])
    done = predictbench("report", "--output", "public", PREDICTBENCH_NOW=now.isoformat())
    assert done.returncode == 0, done.stderr
    index = tmp_path / "public" / "index.html"
    assert done.stdout.strip() == str(index.resolve())
    assert "files" in done.stderr
    assert "As known on 2026-09-03 09:00 UTC" in index.read_text()

    # A day of the past: all of it, and nothing of the next one.
    done = predictbench("report", "--output", "public", "--as-of", "2026-09-01", PREDICTBENCH_NOW=now.isoformat())
    assert done.returncode == 0, done.stderr
    assert [path.stem for path in (tmp_path / "public" / "cohorts").iterdir()] == ["2026-09-01-w7"]


def test_it_overwrites_nothing_of_others(predictbench: Predictbench, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    done = predictbench("report", "--output", "mine")
    assert done.returncode == 1
    assert "--output" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
