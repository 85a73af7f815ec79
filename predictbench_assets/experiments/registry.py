"""Finds the experiments: those that are built in, those that a setting names, those of installed packages.

All checks of an experiment before it runs are here; an error names the listing at fault.
"""

import difflib
import functools
import graphlib
import hashlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from predictbench_assets.experiments.protocol import (
    METHODS,
    MOST_SHARDS,
    SEES,
    Experiment,
    implemented_units,
    unit_of,
)
from predictbench_assets.failures import PermanentError
from predictbench_assets.settings import BASELINE, DEFAULT_EXPERIMENTS
from predictbench_assets.texts import is_unicode

if TYPE_CHECKING:
    from predictbench_assets.experiments.declared.file import Declarations
    from predictbench_assets.experiments.declared.table import Table

ENTRY_POINT_GROUP: Final = "predictbench.experiments"
SETTING: Final = "PROCESSING_EXPERIMENTS"

_ROOM: Final = "predictbench_assets.experiments"
_MOVED: Mapping[str, str] = {
    f"{_ROOM}.{module}": f"{_ROOM}.builtin.{module}" for module in ("baseline", "controls", "pricing")
}
"""New import paths of the built-in experiments, by those that settings of earlier versions have."""

_INTERFACE: Final = f"from {_ROOM} import Experiment, ExperimentResult, Market, PipelineContext"

NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
NAME_RULE: Final = "1 to 48 lower-case letters, digits and underscores, a letter first"
_LONGEST_TAGS: Final = 10_000
_SHOWN_VALUE: Final = 60
_TAG = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,31}")


class RegistryError(PermanentError):
    """The experiments as listed cannot run together; the text names the listing at fault and what to change."""


class Registry:
    """The experiments of this installation, every one after those that it requires."""

    def __init__(
        self,
        experiments: Iterable[Experiment],
        listings: Mapping[str, str] | None = None,
        declared: "Declarations | None" = None,
    ) -> None:
        """Take experiments that are valid one by one, and check them together.

        Args:
            experiments: the experiments.
            listings: the `module:name` that each was found by, by the experiment's name.
            declared: the tables of those that are declared.

        Raises:
            RegistryError: a missing or forbidden requirement, a cycle.
        """
        self.listings, self._declared = dict(listings or {}), declared
        given = {experiment.name: experiment for experiment in experiments}
        for experiment in given.values():
            for problem in self.requirement_problems(experiment, given):
                raise RegistryError(f"{experiment.name} {problem}")
        self._experiments = {name: given[name] for name in _in_order(given)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which the experiments can run."""
        return tuple(self._experiments)

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self._experiments.values())

    def __len__(self) -> int:
        return len(self._experiments)

    def __contains__(self, name: object) -> bool:
        return name in self._experiments

    def __getitem__(self, name: str) -> Experiment:
        try:
            return self._experiments[name]
        except KeyError:
            raise RegistryError(self._unknown(name)) from None

    def closure(self, selected: Iterable[str]) -> frozenset[str]:
        """The names to run for a selection: with all that they require, and every mandatory experiment.

        Raises:
            RegistryError: a name that no experiment has.
        """
        names: set[str] = set()
        open_names = [*selected, *(experiment.name for experiment in self if experiment.mandatory)]
        while open_names:
            name = open_names.pop()
            if name not in names:
                names.add(name)
                open_names.extend(self[name].requires)
        return frozenset(names)

    def dependents(self, names: Iterable[str]) -> frozenset[str]:
        """The experiments named, and all that require one of them, directly or by another.

        Raises:
            RegistryError: a name that no experiment has.
        """
        found = {self[name].name for name in names}
        for experiment in self:  # requirements come before what requires them
            if found.intersection(experiment.requires):
                found.add(experiment.name)
        return frozenset(found)

    def config_hash(self, name: str) -> str:
        """Identity of what decides an experiment's forecasts beside its version and the snapshot.

        Its configuration, what it may see, and the version and configuration of all that it requires.
        """
        experiment = self[name]
        required = {other: [self[other].version, self.config_hash(other)] for other in experiment.requires}
        return config_hash(experiment, required)

    def remake(self, name: str) -> Callable[[], Experiment] | None:
        """A function that makes the experiment again in another process; None for one that was not listed."""
        if self._declared is not None and name in self._declared.checked:
            return self._declared.remake(name)
        path = self.listings.get(name)
        return None if path is None else functools.partial(remade, path, name)

    def table(self, name: str) -> "Table | None":
        """The table that declares an experiment; None for one that is listed."""
        return None if self._declared is None else self._declared.checked.get(name)

    @staticmethod
    def requirement_problems(
        experiment: Experiment, known: Mapping[str, Experiment], *, absent: bool = True
    ) -> Iterator[str]:
        """What is wrong with each experiment that one requires, as the rest of a sentence that begins with its name.

        Args:
            experiment: the one that requires others.
            known: all that can be required, by name.
            absent: False to leave out those that are not known.
        """
        for name in experiment.requires:
            required = known.get(name)
            if required is None:
                if absent:
                    yield (
                        f"requires {name!r}, which is not among the experiments ({', '.join(known)}): "
                        f"add it to {SETTING}, or take {experiment.name} off it"
                    )
            elif SEES[required.information].more_than(SEES[experiment.information]):
                yield (
                    f"may see {experiment.information!r} but requires {name}, which may see "
                    f"{required.information!r}: what {name} says would give that away. Change one's information."
                )
            elif experiment.mandatory and not required.mandatory:
                yield (
                    f"is mandatory but requires {name}, which is not: a failure of {name} would fail "
                    f"the market. Make {name} mandatory too."
                )

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return (
            f"there is no experiment named {name!r}.{hint} Known: {', '.join(self.names)}. "
            f"Add it to {SETTING} or to experiments.toml, or correct the name; `predictbench experiments` lists them."
        )


def config_hash(experiment: Experiment, required: Mapping[str, Sequence[str]] | None = None) -> str:
    """sha256 of an experiment's configuration, its information and its requirements, as canonical JSON.

    Raises:
        TypeError: the configuration is not JSON.
    """
    decides: dict[str, Any] = {
        "config": dict(experiment.config),
        "information": experiment.information,
        "requires": dict(required) if required is not None else sorted(experiment.requires),
        **({"arguments": dict(experiment.declared_arguments)} if experiment.declared_arguments else {}),
    }
    if experiment.market_data:
        decides["market_data"] = True
    canonical = json.dumps(decides, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_registry(
    paths: Sequence[str] = DEFAULT_EXPERIMENTS,
    installed: Iterable[EntryPoint] | None = None,
    *,
    source: str = SETTING,
    declared: "Declarations | None" = None,
) -> Registry:
    """Import the listed experiments and those of installed packages. The baseline is always among them.

    Modules are looked for in the working directory too, after everything that is installed.

    Args:
        paths: `module:name` each, as in `PROCESSING_EXPERIMENTS`: of a class, of an instance, or of a function that
            returns several instances.
        installed: entry points to take in place of those of the group `predictbench.experiments`.
        source: the setting or the option that lists the paths, for error texts.
        declared: those of `experiments.toml`, see `declared.file`.

    Raises:
        RegistryError: a listing that cannot be imported, one that is no valid experiment, two of one name, a missing
            requirement, a cycle. A module that crashes ends this process; its name is written to stderr.
    """
    _make_working_directory_importable()
    paths = [_present_path(path) for path in paths]
    listings = [Listing(path, f"{source}={path}") for path in ([] if BASELINE in paths else [BASELINE])]
    listings += [Listing(path.strip(), f"{source} lists {path.strip()!r}") for path in paths if path.strip()]
    points = entry_points(group=ENTRY_POINT_GROUP) if installed is None else installed
    listings += [
        Listing(point.value, f"the entry point {point.name!r} of {_package(point)}lists {point.value!r}")
        for point in points
    ]
    found: dict[int, tuple[object, Listing]] = {}
    experiments: dict[str, Experiment] = {}
    origins: dict[str, Listing] = {}
    tables: dict[str, Experiment] = {}
    modules = {listing.path.partition(":")[0] for listing in listings}
    with _witnessed(modules.union(declared.modules if declared is not None else ())) as at_work:
        for listing in listings:
            at_work(f"{listing.where}, and importing its module")
            listed = listing.load()
            found.setdefault(id(listed), (listed, listing))
        for listed, listing in found.values():
            at_work(f"{listing.where}, and making it with {_called(listed)}")
            for experiment in listing.made(listed):
                name = experiment.name
                if name in experiments:
                    raise RegistryError(
                        f"two experiments are named {name!r}: {origins[name].where}, and {listing.where}. "
                        "Rename one, or take it off the list."
                    )
                experiments[name], origins[name] = experiment, listing
        if declared is not None:
            where = {name: listing.where for name, listing in origins.items()}
            tables = declared.make(experiments, where, at_work)
    paths_by_name = {name: listing.path for name, listing in origins.items()}
    return Registry([*experiments.values(), *tables.values()], paths_by_name, declared)


def remade(path: str, name: str) -> Experiment:
    """An experiment made again from its listing.

    Raises:
        RegistryError: the listing has none of that name any more.
    """
    listing = Listing(path, path)
    for experiment in listing.made(listing.load()):
        if experiment.name == name:
            return experiment
    raise RegistryError(f"{path} makes no experiment named {name!r} when it is called again")


def _present_path(path: str) -> str:
    """The path of a built-in experiment as it is now; any other path as it is."""
    module, colon, name = path.strip().partition(":")
    return f"{_MOVED.get(module, module)}{colon}{name}"


_WITNESS: Final = """
import sys
*_, at_work, end = ["", "", *sys.stdin.buffer.read().decode().split("\\n")]
if end != "done":
    sys.stderr.write(f"Error: {at_work} ended this process: mend the module, or take it off the list\\n")
"""


@contextmanager
def _witnessed(modules: Collection[str]) -> Iterator[Callable[[str], None]]:
    """A process that names what was at work when this one is suddenly gone; none where all that is listed is ours."""
    if all(name in sys.modules or name.startswith("predictbench_assets.") for name in modules):
        yield lambda _: None
        return
    command = [sys.executable, "-I", "-S", "-c", _WITNESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as witness:  # noqa: S603 - our own
        assert witness.stdin is not None

        def note(text: str) -> None:
            with suppress(OSError):  # it was killed: then there is no witness
                witness.stdin.write(f"{' '.join(text.split())}\n".encode())  # type: ignore[union-attr]
                witness.stdin.flush()  # type: ignore[union-attr]

        try:
            yield note
        finally:
            with suppress(OSError):
                witness.stdin.write(b"done")
                witness.stdin.close()


@dataclass(frozen=True)
class Listing:
    """One mention of experiments, and its place for error texts."""

    path: str
    where: str

    def load(self) -> object:
        """Import what is listed: a class, an instance, or a function that returns several."""
        module_name, _, name = self.path.partition(":")
        if not module_name or not name:
            raise RegistryError(
                f"{self.where}, which is not of the form module:Class, such as my_forecasters:Contrarian"
            )
        if module_name.endswith(".py"):
            raise RegistryError(f"{self.where}: leave out the .py, as in {Path(module_name).stem}:{name}")
        if not all(part.isidentifier() for part in module_name.split(".")):
            raise RegistryError(
                f"{self.where}, but {module_name!r} is no module's name: write it as after `import`, without slashes "
                "and without a dot in front, such as my_forecasters:Contrarian for my_forecasters.py in this folder"
            )
        try:
            module = importlib.import_module(module_name)
            listed = getattr(module, name, None)
        except SystemExit as error:
            raise RegistryError(f"{self.where}, but importing {module_name} {_ended(error)}") from error
        except Exception as error:  # an import runs a stranger's code
            if isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]:
                raise RegistryError(
                    f"{self.where}, but there is no module {error.name}: none is installed, and no {error.name}.py "
                    f"is in {Path.cwd()}"
                ) from error
            raise RegistryError(
                f"{self.where}, but importing {module_name} failed: {type(error).__name__}: {error}{_interface(error)}"
            ) from error
        if listed is None:
            close = difflib.get_close_matches(name, [each for each, value in vars(module).items() if callable(value)])
            hint = f", did you mean {close[0]}?" if close else ""
            place = getattr(module, "__file__", None) or "built into Python"
            raise RegistryError(f"{self.where}, but {module_name} ({place}) has no {name}{hint}")
        return listed

    def made(self, listed: object) -> list[Experiment]:
        """The experiments of what is listed, each checked as far as it can be by itself."""
        name = self.path.partition(":")[2]
        if isinstance(listed, Experiment):
            return [self._checked(listed, name)]
        if isinstance(listed, type):
            if not issubclass(listed, Experiment):
                raise RegistryError(f"{self.where}, but {name} is no subclass of Experiment")
            return [self._checked(self._call(listed), _called(listed))]
        if not callable(listed):
            raise RegistryError(
                f"{self.where}, but {name} is no subclass of Experiment, no instance of one, and no function that "
                f"returns some: it is a {type(listed).__name__}"
            )
        several = self._call(listed)
        if not isinstance(several, Collection) or not several or not all(isinstance(e, Experiment) for e in several):
            raise RegistryError(
                f"{self.where}, but {_called(listed)} returned {_short(several)}, not a list of experiments"
            )
        return [self._checked(each, f"{_called(listed)}[{number}]") for number, each in enumerate(several)]

    def _call(self, listed: Callable[[], object]) -> Any:
        try:
            return listed()
        except SystemExit as error:
            problem = f"{_called(listed)} {_ended(error)}"
        except Exception as error:  # a constructor is a stranger's code
            problem = f"it cannot be made with {_called(listed)}: {type(error).__name__}: {error}"
            if not isinstance(listed, type):
                name = self.path.partition(":")[2]
                problem = f"{name} is no subclass of Experiment, and as a function that returns some {problem}"
        raise RegistryError(f"{self.where}, but {problem}") from None

    def _checked(self, experiment: Experiment, made_by: str) -> Experiment:
        try:
            problem = attribute_problem(experiment, made_by.removesuffix("()"))
            if problem is None:
                config_hash(experiment)
                return experiment
        except SystemExit as error:
            problem = f"{made_by} {_ended(error)}"
        except Exception as error:  # a property is a stranger's code
            problem = f"the configuration of {made_by} cannot be read: {type(error).__name__}: {error}"
        raise RegistryError(f"{self.where}, but {problem}")


def _called(listed: object) -> str:
    return f"{getattr(listed, '__name__', type(listed).__name__)}()"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"


def _interface(error: Exception) -> str:
    """A sentence that names the interface, where a class was written against an earlier place of it."""
    absent = error.name or "" if isinstance(error, ImportError) else ""
    return f". Write: {_INTERFACE}" if absent.startswith("predictbench_assets.") else ""


def _ended(error: SystemExit) -> str:
    return (
        f"ended the program (SystemExit: {error.code}): take the call of sys.exit(), quit() or exit() out of it, or "
        "guard it with `if __name__ == '__main__':`"
    )


def attribute_problem(one: Any, called: str) -> str | None:
    """The first fault of an experiment's attributes, which a stranger may have set to anything."""
    missing = [name for name in ("name", "version", "description") if not getattr(one, name, None)]
    if missing:
        return f"{called} has no {', no '.join(missing)}"
    if not (isinstance(one.name, str) and NAME.fullmatch(one.name)):
        return f"its name {one.name!r} is not {NAME_RULE}"
    if not (isinstance(one.version, str) and _VERSION.fullmatch(one.version)):
        return f"its version {one.version!r} is not a text of 1 to 32 letters, digits, dots, plus and minus signs"
    if not isinstance(one.description, str):
        return "its description is no text"
    if "\0" in one.description or not is_unicode(one.description):
        return "its description has a NUL character or half a surrogate pair in it, which cannot be stored"
    several = isinstance(one.requires, Collection) and not isinstance(one.requires, str)
    if not several or not all(isinstance(name, str) for name in one.requires):
        return f"its requires {one.requires!r} is no tuple of names, like ('baseline_snapshot',)"
    if one.information not in SEES:
        return f"its information {one.information!r} is none of {', '.join(SEES)}"
    for switch in ("mandatory", "control", "forecasts", "journalled", "market_data"):
        if not isinstance(value := getattr(one, switch), bool):
            return f"its {switch} {value!r} is neither True nor False"
    if one.market_data and not SEES[one.information].prices:
        return f"it asks for market_data, which are prices, but its information is {one.information!r}"
    for limit, kinds in (("timeout_seconds", int | float), ("max_concurrency", int), ("max_markets", int)):
        value = getattr(one, limit)
        if value is not None and not (isinstance(value, kinds) and value > 0):
            return f"its {limit} {value!r} is no {'whole ' if kinds is int else ''}number above 0"
    cutoff = one.knowledge_cutoff
    if cutoff is not None and (isinstance(cutoff, datetime) or not isinstance(cutoff, date)):
        return f"its knowledge_cutoff {cutoff!r} is no date, like date(2026, 6, 30)"
    return _problem_of_tags(one.op_tags) or _problem_of_unit(one, called) or _problem_of_shards(one)


def _problem_of_tags(tags: object) -> str | None:
    """The fault of op_tags, which Dagster keeps as JSON and compares with what comes back."""
    if not isinstance(tags, Mapping):
        return f"its op_tags {_short(tags)} is no mapping, like {{'dagster/priority': '1'}}"
    for name, value in tags.items():
        if not (isinstance(name, str) and _TAG.fullmatch(name)):
            return f"its op_tags has the key {_short(name)}: a key is at most 63 letters, digits and ._-, also a/b"
        try:
            same = isinstance(value, str) or json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            return f"its op_tags {name!r} is {_short(value)}, which is neither a text nor JSON"
    size = len(json.dumps(dict(tags)))
    return f"its op_tags has {size:,} characters, of at most {_LONGEST_TAGS:,}" if size > _LONGEST_TAGS else None


def _problem_of_shards(one: Experiment) -> str | None:
    shards = one.shards
    if isinstance(shards, bool) or not (isinstance(shards, int) and 1 <= shards <= MOST_SHARDS):
        return f"its shards {shards!r} is no whole number from 1 to {MOST_SHARDS:,}"
    if shards > 1 and unit_of(one) == "cohort":
        return f"its shards is {shards}, but run_cohort is called once for all markets, which cannot be shared out"
    if shards > 1 and not one.journalled:
        return f"its shards is {shards}, but its journalled is False: shards hand on their answers in the journal"
    return None


def _problem_of_unit(experiment: Experiment, called: str) -> str | None:
    implemented = [METHODS[unit] for unit in implemented_units(experiment)]
    if experiment.unit is not None:
        method = METHODS.get(experiment.unit)
        if method is None:
            return f"its unit {experiment.unit!r} is none of {', '.join(METHODS)}"
        return None if method in implemented else f"its unit is {experiment.unit!r}, but it does not implement {method}"
    if not implemented:
        return f"{called} implements neither of run and run_event, nor run_cohort: one is needed"
    if len(implemented) > 1:
        return f"{called} implements both of {' and '.join(implemented)}, one is needed; or set its unit"
    return None


def _in_order(experiments: Mapping[str, Experiment]) -> Iterator[str]:
    graph: dict[str, Any] = {name: experiment.requires for name, experiment in experiments.items()}
    try:
        yield from graphlib.TopologicalSorter(graph).static_order()
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise RegistryError(f"experiments require each other in a circle: {cycle}. Remove one of these.") from None


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} " if point.dist is not None else ""


def import_path(registry: Registry) -> Path | None:
    """The current folder, if a module of an experiment was found in it: a process in another folder needs it."""
    here = Path.cwd().resolve()
    listed = (path.partition(":")[0] for path in registry.listings.values())
    for name in {*listed, *(type(experiment).__module__ for experiment in registry)}:
        module = sys.modules[name]
        file = Path(module.__file__ or "").resolve()
        package = module.__name__.partition(".")[0]
        if here in file.parents and package != "predictbench_assets" and "site-packages" not in file.parts:
            return here
    return None


def _make_working_directory_importable() -> None:
    """Let files beside the `.env` load without installation. Last in the path, so that they hide nothing installed."""
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
