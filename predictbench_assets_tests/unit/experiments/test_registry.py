import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult
from predictbench_assets.experiments.registry import (
    Registry,
    RegistryError,
    config_hash,
    load_registry,
)
from predictbench_assets.settings import BASELINE

WriteModule = Callable[[str], str]
HEADER = """
import sys

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Valid(Experiment):
    name = "valid"
    version = "1"
    description = "Always even."

    def run(self, market, context):
        return ExperimentResult.binary(0.5)
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Writes a module of experiments into the working directory; returns its name, which no other test uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written: list[str] = []

    def write(body: str = "") -> str:
        name = f"experiments_of_{tmp_path.name}_{len(written)}"
        (tmp_path / f"{name}.py").write_text(HEADER + dedent(body))
        written.append(name)
        return name

    return write


def experiment_of(name: str, **attributes: Any) -> Experiment:
    fields = {
        "name": name,
        "version": "1",
        "description": "An experiment of the tests.",
        "run": lambda self, market, context: ExperimentResult.binary(0.5),
    }
    return type(name.title(), (Experiment,), fields | attributes)()  # type: ignore[no-any-return]


def load(*paths: str) -> Registry:
    return load_registry(paths, installed=())


def test_the_default_experiments_load() -> None:
    registry = load_registry(installed=())
    controls = {"uniform", "base_rate", "shuffled_price", "price_24h_ago"}
    of_prices = {"devigged_event", "shrunk_market", "favourite_longshot", "recalibrated_market"}
    assert set(registry.names) == {"baseline_snapshot"} | of_prices | controls
    assert {experiment.name for experiment in registry if experiment.control} == controls
    assert registry.names[0] == "baseline_snapshot"
    assert len(registry) == 9
    assert [experiment.name for experiment in registry] == list(registry.names)
    assert "uniform" in registry
    assert registry["uniform"].information == "blind"


def test_the_baseline_is_always_there() -> None:
    assert load().names == ("baseline_snapshot",)


def test_settings_of_earlier_versions_find_the_built_in_experiments() -> None:
    old = "predictbench_assets.experiments"
    paths = [
        f"{old}.baseline:BaselineSnapshotExperiment",
        f"{old}.controls:UniformExperiment",
        f" {old}.pricing:ShrunkMarketExperiment ",
    ]
    assert load(*paths).names == ("baseline_snapshot", "uniform", "shrunk_market")


def test_a_class_written_for_an_earlier_version_is_loaded(write_module: WriteModule) -> None:
    line = "from predictbench_assets.experiments.base import Experiment, ExperimentResult, PipelineContext"
    assert load(f"{write_module(line)}:Valid").names == ("baseline_snapshot", "valid")


@pytest.mark.parametrize(
    "line",
    [
        "from predictbench_assets.experiments.base import MadeOnce",
        "from predictbench_assets.polymarket.markets import Market",
        "from predictbench_assets.experiments import Experimenter",
    ],
)
def test_a_class_that_imports_from_an_earlier_place_is_shown_the_present_one(
    write_module: WriteModule, line: str
) -> None:
    with pytest.raises(RegistryError, match=r"Write: from predictbench_assets\.experiments import Experiment, "):
        load(f"{write_module(line)}:Valid")


def test_a_file_in_the_working_directory_is_found(write_module: WriteModule) -> None:
    assert load(f" {write_module('')}:Valid ").names == ("baseline_snapshot", "valid")


def test_what_requires_an_experiment_depends_on_it_directly_or_by_another() -> None:
    first, second, third = experiment_of("a"), experiment_of("b", requires=("a",)), experiment_of("c", requires=("b",))
    registry = Registry([third, first, second, experiment_of("d")])
    assert registry.dependents([]) == frozenset()
    assert registry.dependents(["a"]) == {"a", "b", "c"}
    assert registry.dependents(["c", "d"]) == {"c", "d"}
    with pytest.raises(RegistryError, match="Did you mean"):
        registry.dependents(["dd"])


def test_a_class_listed_twice_is_one_experiment(write_module: WriteModule) -> None:
    path = f"{write_module('')}:Valid"
    point = EntryPoint(name="valid", value=path, group="predictbench.experiments")
    assert load_registry([BASELINE, path, path], installed=[point]).names == ("baseline_snapshot", "valid")


FAMILY = """
class Model(Valid):
    def __init__(self, name, model):
        self.name, self.model = name, model
        self.requires, self.timeout_seconds = ("valid",), 5.0

    @property
    def config(self):
        return {"model": self.model}

def family():
    return [Model(f"model_{size}", size) for size in ("small", "large")]

one = Model("alone", "tiny")
"""


def test_several_experiments_are_instances_of_one_class(write_module: WriteModule) -> None:
    name = write_module(FAMILY)
    registry = load(f"{name}:Valid", f"{name}:family", f"{name}:one", f"{name}:one")
    assert registry.names == ("baseline_snapshot", "valid", "model_small", "model_large", "alone")
    assert len({registry.config_hash(model) for model in ("model_small", "model_large", "alone")}) == 3
    assert (registry["alone"].requires, registry["alone"].timeout_seconds) == (("valid",), 5.0)
    again = registry.remake("model_large")
    assert again is not None
    assert again().config == {"model": "large"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def several(): return []", r"several\(\) returned \[\], not a list of experiments"),
        ("def several(): return [Valid]", "not a list of experiments"),
        ("def several(): return [Valid(), 3]", "not a list of experiments"),
        ("def several(): raise OSError('no file')", r"made with several\(\): OSError: no file"),
        ("def several(x): return []", "missing 1 required positional argument"),
        ("def several(): return [Valid(), Valid()]", "two experiments are named 'valid'"),
        ("several = Valid(); several.name = 'Bad'", "its name 'Bad' is not"),
        ("several = Valid(); several.information = 3", "its information 3 is none of"),
        ("several = [Valid()]", "no function that returns some: it is a list"),
    ],
)
def test_a_listing_that_makes_no_valid_experiments_is_refused(
    write_module: WriteModule, body: str, reason: str
) -> None:
    name = write_module(body)
    with pytest.raises(RegistryError, match=reason):
        load(f"{name}:several")


def test_an_installed_packages_experiment_is_found(write_module: WriteModule) -> None:
    point = EntryPoint(name="valid", value=f"{write_module('')}:Valid", group="predictbench.experiments")
    assert load_registry((), installed=[point]).names == ("baseline_snapshot", "valid")


def test_a_broken_entry_point_is_named() -> None:
    point = EntryPoint(name="gone", value="no_such_module:Gone", group="predictbench.experiments")
    with pytest.raises(RegistryError, match=r"entry point 'gone' of .*'no_such_module:Gone'"):
        load_registry((), installed=[point])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "no_such_module:Thing",
            r"PROCESSING_EXPERIMENTS lists 'no_such_module:Thing', but there is no module .*no_such_module\.py is in /",
        ),
        ("just_a_word", "not of the form module:Class, such as"),
        ("my_file.py:Thing", r"leave out the \.py, as in my_file:Thing"),
        ("./my_file:Thing", r"'\./my_file' is no module's name"),
        (".my_file:Thing", r"'\.my_file' is no module's name"),
        ("my-file:Thing", "'my-file' is no module's name"),
        ("json:Decoder", r"json \(/.*json/__init__\.py\) has no Decoder, did you mean JSONDecoder"),
        ("json:JSONDecoder", "JSONDecoder is no subclass of Experiment"),
        ("json:loads", "loads is no subclass of Experiment"),
        ("predictbench_assets.experiments.protocol:Experiment", "Experiment has no name, no version, no description"),
    ],
)
def test_a_wrong_listing_is_an_error_that_names_it(path: str, reason: str) -> None:
    with pytest.raises(RegistryError, match=reason):
        load(path)


def test_what_an_import_says_is_told(write_module: WriteModule) -> None:
    name = write_module("raise RuntimeError('no model here')")
    with pytest.raises(RegistryError, match="RuntimeError: no model here"):
        load(f"{name}:Valid")


def test_a_module_that_ends_the_program_is_named(write_module: WriteModule) -> None:
    name = write_module("sys.exit(0)")
    with pytest.raises(RegistryError, match=rf"lists '{name}:Valid', but importing {name} ended the program .*: 0"):
        load(f"{name}:Valid")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("name = 'Bad-Name'", "its name 'Bad-Name' is not"),
        (f"name = {'x' * 49!r}", "is not 1 to 48"),
        ("version = 1", "its version 1 is not a text"),
        ("version = 'a/b'", "its version 'a/b'"),
        ("version = ''", "has no version"),
        ("description = ''", "has no description"),
        (r"description = 'a\0b'", "its description has a NUL character"),
        (r"description = '\ud800'", "half a surrogate pair in it, which cannot be stored"),
        ("requires = 'baseline_snapshot'", "no tuple of names"),
        ("requires = None", "its requires None is no tuple of names"),
        ("information = 'psychic'", "none of blind, market, search_blind, search"),
        ("mandatory = 'yes'", "neither True nor False"),
        ("journalled = 0", "its journalled 0 is neither True nor False"),
        ("knowledge_cutoff = '2026-06-30'", "its knowledge_cutoff '2026-06-30' is no date"),
        ("timeout_seconds = 0", "timeout_seconds 0 is no number above 0"),
        ("shards = 0", "shards 0 is no whole number from 1 to 1,000"),
        ("shards = True", "shards True is no whole number from 1 to 1,000"),
        ("shards = 1001", "shards 1001 is no whole number from 1 to 1,000"),
        ("shards = 2; journalled = False", "shards is 2, but its journalled is False"),
        (
            "shards, unit, run_cohort = 2, 'cohort', Experiment.run",
            "its shards is 2, but run_cohort is called once for all markets, which cannot be shared out",
        ),
        ("op_tags = 'gpu'", "op_tags 'gpu' is no mapping"),
        ("op_tags = {1: 'gpu'}", "op_tags has the key 1: a key is at most 63 letters"),
        ("op_tags = {'two words': '1'}", "op_tags has the key 'two words'"),
        ("op_tags = {'gpu': object}", "op_tags 'gpu' is <class 'object'>, which is neither a text nor JSON"),
        ("op_tags = {'gpu': (1, 2)}", r"op_tags 'gpu' is \(1, 2\), which is neither a text nor JSON"),
        ("op_tags = {'gpu': float('nan')}", "op_tags 'gpu' is nan, which is neither a text nor JSON"),
        ("op_tags = {'gpu': 'x' * 10000}", "op_tags has 10,011 characters, of at most 10,000"),
        ("max_concurrency = -1", "max_concurrency -1 is no whole number above 0"),
        ("max_concurrency = 2.5", "max_concurrency 2.5 is no whole number above 0"),
        ("def run_event(self, markets, contexts): return {}", "implements both of run and run_event"),
        ("unit = 'day'", "its unit 'day' is none of market, event, cohort"),
        ("unit = 'cohort'", "its unit is 'cohort', but it does not implement run_cohort"),
        ("run = Experiment.run", "implements neither of run and run_event"),
        ("def __init__(self): raise OSError('no key')", r"cannot be made with Wrong\(\): OSError: no key"),
        ("def __init__(self): raise SystemExit(0)", r"lists .*Wrong\(\) ended the program \(SystemExit: 0\)"),
        ("config = property(lambda self: sys.exit(0))", r"Wrong\(\) ended the program"),
        ("def __init__(self, model): pass", "missing 1 required positional argument"),
        ("config = {'x': object()}", "not JSON serializable"),
    ],
)
def test_a_class_that_is_no_valid_experiment_is_refused(write_module: WriteModule, body: str, reason: str) -> None:
    name = write_module(f"class Wrong(Valid):\n    name = 'wrong'\n    {body}\n")
    with pytest.raises(RegistryError, match=reason):
        load(f"{name}:Wrong")


def test_two_experiments_of_one_name_are_refused(write_module: WriteModule) -> None:
    name = write_module("class Other(Valid):\n    pass\n")
    with pytest.raises(RegistryError, match=r"two experiments are named 'valid'.*:Valid.*:Other"):
        load(f"{name}:Valid", f"{name}:Other")


def test_a_missing_requirement_is_refused() -> None:
    with pytest.raises(RegistryError, match="one requires 'two', which is not among the experiments"):
        Registry([experiment_of("one", requires=("two",))])


def test_a_cycle_is_printed() -> None:
    with pytest.raises(RegistryError, match=r"circle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"):
        Registry(
            [
                experiment_of("a", requires=("b",)),
                experiment_of("b", requires=("c",)),
                experiment_of("c", requires=("a",)),
            ]
        )


@pytest.mark.parametrize(
    ("sees", "required"),
    [
        ("blind", "market"),
        ("blind", "search"),
        ("blind", "search_blind"),
        ("market", "search"),
        ("market", "search_blind"),
        ("search_blind", "market"),
        ("search_blind", "search"),
    ],
)
def test_an_experiment_cannot_see_more_through_what_it_requires(sees: str, required: str) -> None:
    with pytest.raises(RegistryError, match=f"one may see '{sees}' but requires two, which may see '{required}'"):
        Registry(
            [experiment_of("one", requires=("two",), information=sees), experiment_of("two", information=required)]
        )


@pytest.mark.parametrize(
    ("sees", "required"),
    [("search", "search_blind"), ("search", "market"), ("search", "blind"), ("search_blind", "blind")],
)
def test_an_experiment_can_require_one_that_sees_less(sees: str, required: str) -> None:
    one, two = experiment_of("one", requires=("two",), information=sees), experiment_of("two", information=required)
    assert Registry([one, two]).names == ("two", "one")


def test_a_mandatory_experiment_cannot_require_an_optional_one() -> None:
    with pytest.raises(RegistryError, match="Make two mandatory too"):
        Registry([experiment_of("one", requires=("two",), mandatory=True), experiment_of("two")])


def test_a_closure_adds_requirements_and_the_mandatory_ones() -> None:
    registry = Registry(
        [
            experiment_of("base", mandatory=True),
            experiment_of("a"),
            experiment_of("b", requires=("a",)),
            experiment_of("c", requires=("b",)),
            experiment_of("other"),
        ]
    )
    assert registry.closure(["c"]) == {"base", "a", "b", "c"}
    assert registry.closure([]) == {"base"}


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    registry = load_registry(installed=())
    with pytest.raises(RegistryError, match=r"named 'unifrom'. Did you mean 'uniform'\? Known: baseline_snapshot"):
        registry.closure(["unifrom"])
    with pytest.raises(RegistryError, match="no experiment named 'x'"):
        registry["x"]


@given(st.data())
def test_every_experiment_comes_after_what_it_requires(data: st.DataObject) -> None:
    names = [f"e{number}" for number in range(data.draw(st.integers(1, 12)))]
    experiments = [
        experiment_of(name, requires=tuple(data.draw(st.sets(st.sampled_from(names[:index]))) if index else ()))
        for index, name in enumerate(names)
    ]
    registry = Registry(data.draw(st.permutations(experiments)))
    assert sorted(registry.names) == sorted(names)
    for experiment in registry:
        before = registry.names[: registry.names.index(experiment.name)]
        assert set(experiment.requires) <= set(before)


def test_the_config_hash_follows_configuration_information_and_requirements() -> None:
    plain = config_hash(experiment_of("a"))
    assert plain == config_hash(experiment_of("a"))
    assert plain != config_hash(experiment_of("a", config={"model": "m"}))
    assert plain != config_hash(experiment_of("a", information="search"))
    assert plain != config_hash(experiment_of("a", requires=("b",)))
    assert config_hash(experiment_of("a", config={"x": 1, "y": 2})) == config_hash(
        experiment_of("a", config={"y": 2, "x": 1})
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV, "importing its module ended this process"),
        ("import os; os._exit(3)", 3, "importing its module ended this process"),
        (f"{HEADER}    def __init__(self): __import__('os')._exit(4)", 4, "making it with Valid() ended this process"),
    ],
)
def test_a_module_that_ends_the_process_is_named(body: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(body)
    load = "from predictbench_assets.experiments.registry import load_registry; load_registry(['crashing:Valid'])"
    done = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.strip() == (
        f"Error: PROCESSING_EXPERIMENTS lists 'crashing:Valid', and {said}: mend the module, or take it off the list"
    )


def test_a_module_that_exits_is_refused_as_one_that_fails(write_module: WriteModule) -> None:
    module = write_module("import sys; sys.exit('no model is installed')")
    with pytest.raises(RegistryError, match="SystemExit: no model is installed"):
        load_registry([f"{module}:Valid"], installed=[])


def test_a_new_version_of_a_requirement_is_a_new_configuration() -> None:
    def hash_with(version: str) -> str:
        return Registry(
            [experiment_of("a", requires=("b",)), experiment_of("b", version=version)],
        ).config_hash("a")

    assert hash_with("1") == hash_with("1") != hash_with("2")
