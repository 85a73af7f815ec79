"""`predictbench report` as a person calls it."""

import re
from pathlib import Path

from sqlalchemy import Engine

from predictbench_assets_tests.kit.commands import Predictbench
from predictbench_assets_tests.kit.planted_page import EXPERIMENTS, plant

LINK = re.compile(r"\.\./markets/([^.]+)\.html")


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


def test_a_page_of_part_of_the_run_dates_says_so(predictbench: Predictbench, engine: Engine, tmp_path: Path) -> None:
    now = plant(engine, days=3, markets=3, chosen=EXPERIMENTS[:2])
    days = [f"2026-09-0{day}" for day in (1, 2, 3)]

    def written(*arguments: str, **variables: str) -> tuple[list[str], str]:
        """The days that have a page, and the front page."""
        folder = tmp_path / "public"
        done = predictbench("report", "--output", "public", *arguments, PREDICTBENCH_NOW=now.isoformat(), **variables)
        assert done.returncode == 0, done.stderr
        there = sorted(path.stem.removesuffix("-w7") for path in (folder / "cohorts").iterdir())
        linked = {market for path in (folder / "cohorts").iterdir() for market in LINK.findall(path.read_text())}
        assert linked == {path.stem for path in (folder / "markets").iterdir()}
        of_experiments = {("Only run dates" in path.read_text()) for path in (folder / "experiments").iterdir()}
        front = (folder / "index.html").read_text()
        assert of_experiments == {"Only run dates" in front}
        return there, front

    there, front = written()
    assert there == days
    assert "Only run dates" not in front
    assert f"<dd>{len(days)}</dd>" in front

    for there, front in (written("--since", days[1]), written(LEADERBOARD_DAYS="2")):
        assert there == days[1:]
        assert f"Only run dates from {days[1]} on count" in front
        # The days and the markets; the runs, and what they were offered.
        assert "<dd>2</dd>" in front
        assert "<dd>6</dd>" in front
        assert '<td class="n">2</td><td class="n">24</td>' in front

    there, front = written("--until", days[1], LEADERBOARD_DAYS="1")
    assert there == days[:2]
    assert f"Only run dates up to {days[1]} count" in front
    assert written("--since", days[1], "--markets-since", days[0])[0] == days[1:]
    done = predictbench("report", "--since", days[1], "--until", days[0])
    assert done.returncode == 2
    assert "is after" in done.stderr


def test_it_overwrites_nothing_of_others(predictbench: Predictbench, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    done = predictbench("report", "--output", "mine")
    assert done.returncode == 1
    assert "--output" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
