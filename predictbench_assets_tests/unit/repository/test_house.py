"""The house: what the layers contract cannot say of rooms, their sizes, their floors and their descriptions."""

import ast
import re
import tomllib
from pathlib import Path

import grimp
import pytest

from predictbench_assets_tests.kit.places import CLONE

PACKAGE = CLONE / "predictbench_assets"
IMPORTS_DAGSTER = {
    *("assets", "backfill_process", "definitions", "executors", "instance", "io_manager", "jobs", "partitions"),
    "ray_executor",
}
ROOMS = sorted(file.parent for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE)


def _contract(name: str) -> dict[str, object]:
    contracts = tomllib.loads((CLONE / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(contract for contract in contracts if contract["name"].startswith(name))


def _children() -> set[str]:
    return {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))
def test_every_room_says_what_belongs_in_it_and_what_does_not(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    sentences = [part for part in re.split(r"[.;]\s", text) if part.strip()]
    assert len(sentences) >= 2, "one line for what belongs in the room, one for what does not"


def test_no_room_is_larger_than_a_tenth_of_the_code() -> None:
    lines = {room: sum(len(file.read_text().splitlines()) for file in room.glob("*.py")) for room in ROOMS}
    total = sum(len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py"))
    assert {str(room): count for room, count in lines.items() if count > total / 10} == {}


def test_the_rooms_stand_on_eleven_floors_at_most_and_in_no_circle() -> None:
    graph = grimp.build_graph("predictbench_assets", cache_dir=None)
    below: dict[str, set[str]] = {child: set() for child in _children()}
    for importer in graph.modules - {"predictbench_assets"}:
        for imported in graph.find_modules_directly_imported_by(importer) - {"predictbench_assets"}:
            upper, lower = importer.split(".")[1], imported.split(".")[1]
            if upper != lower:
                below[upper].add(lower)
    floor: dict[str, int] = {}
    while left := below.keys() - floor.keys():
        found = {
            room: max((floor[each] for each in below[room]), default=0) + 1
            for room in left
            if below[room] <= floor.keys()
        }
        assert found, f"these import each other: {sorted(left)}"
        floor |= found
    assert max(floor.values()) <= 11, sorted(floor.items(), key=lambda pair: pair[1])


def test_the_contract_about_dagster_names_every_room_but_dagsters_own() -> None:
    named = {
        str(module).removeprefix("predictbench_assets.") for module in _contract("Only Dagster's")["source_modules"]
    }  # type: ignore[attr-defined]
    above = {"cli", "diagnosis", "launch"}  # held by the contract on what they import through others
    assert named == _children() - IMPORTS_DAGSTER - above


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/decisions.md", "predictbench_assets/__init__.py"])
def test_rooms_and_files_that_are_named_exist(page: str) -> None:
    text = (CLONE / page).read_text()
    names = (
        re.findall(r"`([a-z_/]+(?:\.py|/))`", text)
        if page.endswith(".md")
        else re.findall(r"(?<![\w/.])([a-z_]+/|[a-z_]+\.py)", text.split('"""')[1])
    )
    assert len(names) > 3
    places = [CLONE, PACKAGE]
    assert [name for name in names if not any((place / name).exists() for place in places)] == []


def test_no_test_imports_from_a_conftest() -> None:
    """Shared builders and harnesses are in `kit/`; pytest alone reads a conftest."""
    tests = CLONE / "predictbench_assets_tests"
    importing = [str(file.relative_to(tests)) for file in tests.rglob("*.py") if "conftest import" in file.read_text()]
    assert importing == ["unit/repository/test_house.py"]
