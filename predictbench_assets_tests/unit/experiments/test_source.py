"""Where an experiment failed in its own code, and whether that code has changed."""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from predictbench_assets.experiments import source as source_module
from predictbench_assets.experiments.builtin.controls import UniformExperiment
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.source import ExperimentSource
from predictbench_assets.experiments.testing import make_context, make_market

MODULE = """
import asyncio
import json

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult
from forecasters_help import look_up


class Broken(Experiment):
    name, version, description = "broken", "1", "Fails."

    def run(self, market, context):
        return look_up(market)


class ReadsJson(Broken):
    name = "reads_json"

    def run(self, market, context):
        return json.loads("{")


class TooSure(Broken):
    name = "too_sure"

    def run(self, market, context):
        return ExperimentResult.binary(1.5)


class Gathers(Broken):
    name = "gathers"

    async def run(self, market, context):
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ask())

    async def ask(self):
        raise ValueError("no")


class Grouped(Experiment):
    name, version, description = "grouped", "1", "Fails."

    def run_event(self, markets, contexts):
        return {market.market_id: 1 / 0 for market in markets}
"""
HELP = "def look_up(market):\n    return {}[market.slug]\n"


@pytest.fixture
def forecasters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A reader's module, and one beside it that it imports."""
    (tmp_path / "forecasters.py").write_text(MODULE)
    (tmp_path / "forecasters_help.py").write_text(HELP)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("forecasters")
    for name in ("forecasters", "forecasters_help"):
        sys.modules.pop(name, None)


def asked(experiment: Experiment) -> Any:
    market, context = make_market(), make_context()
    if type(experiment).run_event is not Experiment.run_event:
        return experiment.run_event([market], {market.market_id: context})
    answer: Any = experiment.run(market, context)
    return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer


def raised(experiment: Experiment) -> BaseException:
    with pytest.raises(Exception) as caught:
        asked(experiment)
    return caught.value


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Broken", "forecasters_help.py:2 in look_up"),  # a file of the same folder is the reader's too
        ("ReadsJson", "forecasters.py:20 in run"),  # not the library that it calls
        ("TooSure", "forecasters.py:27 in run"),  # nor this project
        ("Gathers", "forecasters.py:38 in ask"),  # what a group of errors is about
        ("Grouped", "forecasters.py:45 in <dictcomp>"),
    ],
)
def test_the_place_is_the_innermost_line_of_the_experiments_own_code(
    name: str, place: str, forecasters: ModuleType
) -> None:
    experiment = getattr(forecasters, name)()
    found = ExperimentSource(experiment).place_of(raised(experiment))
    assert found == place if sys.version_info < (3, 12) else found == place.replace("<dictcomp>", "run_event")


def test_this_project_is_not_at_fault_where_it_lies_in_the_readers_folder(
    tmp_path: Path, forecasters: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a clone with `my_experiments.py` beside the package."""
    monkeypatch.setattr(source_module, "_OURS", tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "helping.py").write_text(HELP)
    monkeypatch.syspath_prepend(tmp_path / "ours")
    monkeypatch.setattr(forecasters, "look_up", importlib.import_module("helping").look_up)
    experiment = forecasters.Broken()
    assert ExperimentSource(experiment).place_of(raised(experiment)) == "forecasters.py:13 in run"
    sys.modules.pop("helping", None)


@pytest.mark.parametrize("error", [None, ValueError("of the runner's own")])
def test_an_error_of_nobodys_line_is_of_the_method(error: Exception | None, forecasters: ModuleType) -> None:
    assert ExperimentSource(forecasters.TooSure()).place_of(error) == "forecasters.py:26 in run"
    assert ExperimentSource(forecasters.Grouped()).place_of(error) == "forecasters.py:44 in run_event"


def test_an_experiment_of_a_package_is_named_from_where_the_package_is_imported() -> None:
    place = ExperimentSource(UniformExperiment()).place_of(None)
    assert place is not None
    assert place.startswith("predictbench_assets/experiments/builtin/controls.py:")


def test_a_class_that_was_typed_in_has_no_place_and_no_digest() -> None:
    space: dict[str, Any] = {"Experiment": Experiment, "__name__": "nowhere"}
    exec("class Typed(Experiment):\n    def run(self, market, context):\n        return 1 / 0", space)
    source = ExperimentSource(space["Typed"]())
    assert source.place_of(raised(space["Typed"]())) is None
    assert source.digest() is None


def digest(folder: Path, text: str, name: str = "Broken") -> str:
    (folder / "changing.py").write_text(text)
    sys.modules.pop("changing", None)
    importlib.invalidate_caches()
    found = ExperimentSource(getattr(importlib.import_module("changing"), name)()).digest()
    assert found is not None
    return found


def test_the_digest_changes_with_the_code_and_not_with_comments_or_other_experiments(
    tmp_path: Path, forecasters: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = digest(tmp_path, MODULE)
    assert digest(tmp_path, "# a comment\n\n" + MODULE.replace("    def run", "\n    def run")) == first
    assert digest(tmp_path, MODULE.replace("1 / 0", "1 / 2")) == first  # of another experiment
    assert digest(tmp_path, MODULE.replace("look_up(market)", "look_up(None)")) != first
    assert digest(tmp_path, MODULE + "\n\nLIMIT = 3\n") != first
    assert digest(tmp_path, MODULE.replace('"1", "Fails."', '"2", "Fails."'), "ReadsJson") != digest(
        tmp_path, MODULE, "ReadsJson"
    )  # of the class that it is derived from
    sys.modules.pop("changing", None)
