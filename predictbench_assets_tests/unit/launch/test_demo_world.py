"""What a demo's folder holds: one world, by one command at a time."""

import os
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from predictbench_assets.cli.demo import demo
from predictbench_assets.cli.main import main
from predictbench_assets.launch import demo_days
from predictbench_assets.launch.demo import open_demo
from predictbench_assets.launch.demo_world import (
    Demo,
    DemoAbsent,
    DemoBusy,
    DemoKept,
    DemoUnwritable,
    demo_lock,
    make_folder,
    open_world,
    present_demo,
    read_demo,
    showing,
    shown,
    write_demo,
)
from predictbench_assets.sandbox.process import WorldIdentity, generator_hash, world_of
from predictbench_assets.sandbox.world import World

OLD_CODE = WorldIdentity(7, 300, "0123456789abcdef")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of a demo."""
    folder = tmp_path / ".predictbench" / "demo"
    folder.mkdir(parents=True)
    return folder


def with_data(folder: Path) -> Path:
    """Something that was made of the world that the folder holds."""
    (folder / "dagster").mkdir()
    data = folder / "dagster" / "data"
    data.write_text("of this world")
    return data


def test_a_new_demo_has_its_world_written_down_before_anything_is_made(folder: Path) -> None:
    demo, removed = open_world(folder, None, fresh=False)
    assert (demo, removed) == (Demo(WorldIdentity(7, 300, generator_hash())), None)
    assert read_demo(folder) == demo


@pytest.mark.parametrize("markets", [None, 40])
def test_the_same_world_is_gone_on_with(folder: Path, markets: int | None) -> None:
    kept = write_demo(folder, Demo(world_of(40), past=(date(2026, 11, 2),), experiments=("mine:One",), own=True))
    data = with_data(folder)
    assert open_world(folder, markets, fresh=False) == (kept, None)
    assert data.exists()


@pytest.mark.parametrize(
    ("kept", "markets", "fresh", "why"),
    [
        (Demo(world_of(40)), 400, False, "it had 40 markets a day, not 400"),
        (Demo(world_of(40)), None, True, "a fresh one was asked for"),
        (Demo(OLD_CODE), None, False, "another version of Predictbench made it"),
        (None, None, False, "another version of Predictbench made it"),
    ],
    ids=["another size", "asked for", "older code", "unknown"],
)
def test_another_world_takes_the_place_of_the_one_that_was_there(
    folder: Path, kept: Demo | None, markets: int | None, fresh: bool, why: str
) -> None:
    if kept is not None:
        write_demo(folder, kept)
    data = with_data(folder)
    demo, removed = open_world(folder, markets, fresh=fresh)
    assert removed is not None
    assert why in removed
    assert not data.exists()
    assert demo.world.generator == generator_hash()
    assert demo.world.markets == (markets or (kept.world.markets if kept else 300))


def test_a_removal_that_was_cut_short_is_finished_not_taken_for_a_demo(folder: Path) -> None:
    write_demo(folder, Demo(world_of(40)))
    data = with_data(folder)
    (folder / "demo.json").unlink()  # it goes first
    open_world(folder, 40, fresh=False)
    assert not data.exists()


def test_forecasts_of_ones_own_are_not_thrown_away_unasked(folder: Path) -> None:
    write_demo(folder, Demo(world_of(40), own=True))
    data = with_data(folder)
    with pytest.raises(DemoKept, match=r"40 markets a day, not 41.*--fresh"):
        open_world(folder, 41, fresh=False)
    assert data.exists()
    open_world(folder, 41, fresh=True)
    assert not data.exists()


def test_a_demo_that_a_ui_shows_is_not_removed(folder: Path) -> None:
    write_demo(folder, Demo(world_of(40)))
    data = with_data(folder)
    with shown(folder), pytest.raises(DemoBusy, match=r"ui --demo.*\(process \d+\): end it first"):
        open_world(folder, 41, fresh=False)
    assert data.exists()
    with shown(folder):
        assert open_world(folder, None, fresh=False)[0].world.markets == 40
    open_world(folder, 41, fresh=False)
    assert not data.exists()


def test_one_command_at_a_time_is_at_work(folder: Path) -> None:
    with demo_lock(folder):
        with pytest.raises(DemoBusy, match=r"another demo is at work in .*\(process \d+\)"), demo_lock(folder):
            pass
        with shown(folder):
            pass
    with demo_lock(folder):
        pass


def test_a_command_on_the_demo_needs_one_of_this_version(folder: Path) -> None:
    with pytest.raises(DemoAbsent, match=r"there is no demo in .* yet: `predictbench demo` makes one"):
        present_demo(folder)
    write_demo(folder, Demo(OLD_CODE))
    with pytest.raises(DemoAbsent, match=r"another version of .* `predictbench demo` replaces it"):
        present_demo(folder)
    write_demo(folder, Demo(world_of(5)))
    assert present_demo(folder).world.markets == 5


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"world": 3}', b'{"world": {"seed": 7}}'])
def test_a_record_that_cannot_be_read_is_none(folder: Path, content: bytes) -> None:
    (folder / "demo.json").write_bytes(content)
    assert read_demo(folder) is None


def test_a_place_that_takes_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (make_folder, lambda folder: demo_lock(folder).__enter__()):
        with pytest.raises(DemoUnwritable, match=r"cannot be written to .* run it from a folder of your own"):
            _use(use, tmp_path / "file" / "demo")


def _use(use: Callable[[Path], object], folder: Path) -> None:
    use(folder)


def test_days_of_the_past_have_settled_and_stay_the_same_from_day_to_day() -> None:
    today = date(2026, 11, 27)
    days = demo_days.dates_of(8, today)
    assert len(days) == 8
    assert (today - days[-1]).days in (10, 11), "window of 7 days, and 3 to settle"
    assert {(after - before).days for before, after in pairwise(days)} == {2}
    tomorrow = demo_days.dates_of(8, date(2026, 11, 28))
    assert len(set(days) & set(tomorrow)) >= 7
    assert demo_days.dates_of(20, today)[-8:] == days


def test_days_before_the_first_of_the_grid_are_left_out() -> None:
    assert demo_days.dates_of(60, date(2026, 1, 14)) == (date(2026, 1, 2), date(2026, 1, 4))
    assert demo_days.dates_of(8, date(2026, 1, 5)) == ()


def test_the_world_is_known_by_all_that_decides_it() -> None:
    assert msgspec.json.decode(msgspec.json.encode(world_of(5)), type=WorldIdentity) == world_of(5)
    assert world_of(5) != world_of(6)


def test_a_ui_is_seen_while_it_shows_a_folder(folder: Path) -> None:
    assert showing(folder) is None
    with shown(folder):
        assert showing(folder) == f" (process {os.getpid()})"
    assert showing(folder) is None


@pytest.mark.parametrize(("here", "which"), [("demo", "ui --demo"), ("", "ui")])
def test_stop_mentions_a_ui_that_it_leaves_without_a_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch, here: str, which: str
) -> None:
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.setenv("PREDICTBENCH_HOME", str(folder.parent))
    with shown(folder.parent / here):
        stopped = CliRunner().invoke(main, ["stop"])
    assert stopped.exit_code == 0
    assert stopped.stderr.startswith(f"`predictbench {which}` (process {os.getpid()}) is still running, without the ")
    assert CliRunner().invoke(main, ["stop"]).stderr == ""


def test_what_an_earlier_demo_added_is_kept_as_long_as_it_can_be_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uniform, gone = "predictbench_assets.experiments.builtin.controls:UniformExperiment", "no_such_forecasters:Gone"
    write_demo(folder, Demo(world_of(40), experiments=(gone, uniform), own=True))
    kept = open_demo(folder, None, (), fresh=False)
    assert kept.experiments == (uniform,)
    assert read_demo(folder) == kept
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("left out, as it is not there any more: the demo lists 'no_such_forecasters:Gone'")
    assert open_demo(folder, None, ("mine:One",), fresh=False).experiments == ("mine:One",)


def test_a_demo_takes_as_many_markets_as_a_day_of_the_sandbox_holds() -> None:
    [most] = [one.type.max for one in demo.params if one.name == "markets" and isinstance(one.type, click.IntRange)]
    assert most is not None
    World(1, most)
    with pytest.raises(ValueError, match="a day holds"):
        World(1, most + 1)
