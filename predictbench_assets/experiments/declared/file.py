"""Reads `experiments.toml`: every table an experiment, every mistake told with its line, all of them at once."""

import functools
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from predictbench_assets.experiments.declared.kinds import CodeTable, did_you_mean, table_class, unknown_arguments
from predictbench_assets.experiments.declared.lines import key_lines, line_of
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.registry import (
    NAME,
    NAME_RULE,
    Registry,
    RegistryError,
    attribute_problem,
    config_hash,
    load_registry,
)
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.printable import visible
from predictbench_assets.settings import Settings, SettingsError
from predictbench_assets.texts import UndecodableFile, read_text

MOST_BYTES: Final = 1_000_000
"""The largest file that is read; a table is a few hundred."""

_DEEPEST: Final = 16
_SHOWN_VALUE: Final = 60
_SECRET_WORDS: Final = ("key", "token", "secret", "password", "header")

_PLAIN: Final = {
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected a text in quotes",
    "tuple_type": "expected a list in brackets",
    "list_type": "expected a list in brackets",
    "dict_type": "expected a table",
    "model_type": "expected a table",
}
"""Words for a wrong type, by pydantic's name of the error."""

Note = Callable[[str], None]


class DeclarationError(RegistryError):
    """Mistakes in the `file` of declared experiments; `problems` has a line for each, `file:line: ...`."""

    def __init__(self, file: Path, problems: Sequence[str]) -> None:
        self.file, self.problems = file, list(problems)
        several = f"{len(problems)} mistakes" if len(problems) > 1 else "a mistake"
        super().__init__(f"{file} has {several}:\n" + "\n".join(f"  {problem}" for problem in problems))


@dataclass
class Declarations:
    """The declared experiments of a file, made for an installation by `make`."""

    file: Path
    settings: Settings
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    tables: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    checked: dict[str, Table] = field(default_factory=dict)
    """Tables without a mistake, by the names of their experiments."""
    _problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def modules(self) -> Iterator[str]:
        """The modules of strangers that the tables name."""
        for table in self.tables.values():
            if isinstance(kind := table.get("kind"), str) and ":" in kind:
                yield kind.partition(":")[0]

    def make(self, listed: Mapping[str, Experiment], origins: Mapping[str, str], note: Note) -> dict[str, Experiment]:
        """Make all experiments.

        Args:
            listed: the experiments that are there without the file, by name.
            origins: where those come from, in words, by name.
            note: told what is at work before a stranger's code is.

        Raises:
            DeclarationError: with every mistake of the file.
        """
        made: dict[str, Experiment] = {}
        for name, content in self.tables.items():
            note(f"{self.file} declares {name!r}, and making it")
            if name in listed:
                self.add(f"the name {name!r} is taken: {origins[name]}. Rename the table, or take that one off", name)
            with suppress(_Mistaken):
                table = self._table(name, content)
                made[name] = self._experiment(name, table)
                self.checked[name] = table
        self._check_requirements(made, {**listed, **made})
        if self._problems:
            shown = [f"{self.file.name}:{line}: {problem}" for line, problem in sorted(self._problems)]
            raise DeclarationError(self.file, list(map(self.settings.redact, shown)))
        return made

    def remake(self, name: str) -> Callable[[], Experiment]:
        """A function that makes an experiment of the file again in another process, whatever the file says by then."""
        return functools.partial(self.checked[name].made, name, self.settings)

    def add(self, problem: str, *path: str | int) -> None:
        """Note a mistake of a table or a key."""
        where = f"[{path[0]}] " if path else ""
        self._problems.append((line_of(self.lines, path), f"{where}{problem}"))

    def _fail(self, problem: str, *path: str | int) -> "_Mistaken":
        self.add(problem, *path)
        return _Mistaken()

    def _table(self, name: str, content: Mapping[str, Any]) -> Table:
        """Check a table against its kind."""
        if not NAME.fullmatch(name):
            self.add(f"the name of the table, {name[:_SHOWN_VALUE]!r}, is not {NAME_RULE}", name)
        kind = content.get("kind")
        if kind is None:
            raise self._fail('has no kind: add one, such as kind = "language_model"', name)
        if not isinstance(kind, str):
            raise self._fail(f"kind: expected a text in quotes; it is {_shown('kind', kind)}", name, "kind")
        try:
            model = table_class(kind)
            unknown = unknown_arguments(kind, content) if model is CodeTable else {}
        except (ValueError, RegistryError) as error:
            raise self._fail(str(error), name, "kind") from None
        for key, problem in unknown.items():
            self.add(problem, name, key)
        if not _is_plain(content):
            raise self._fail(f"has values within values, more than {_DEEPEST} deep", name)
        infinite = list(_not_finite(content, ()))
        for path in infinite:
            self.add(f"{'.'.join(map(str, path))}: expected a finite number", name, *path)
        try:
            table = model.model_validate_json(json.dumps(content, default=_written), strict=True)
        except ValidationError as error:
            for problem, path in _told(error, model):
                if path not in infinite:
                    self.add(problem, name, *path)
            raise _Mistaken from None
        if unknown or infinite or not NAME.fullmatch(name):
            raise _Mistaken
        return table

    def _experiment(self, name: str, table: Table) -> Experiment:
        """Make the experiment of a table, and check what a stranger's class may have set."""
        problem: str | None
        try:
            one = table.made(name, self.settings)
            problem = attribute_problem(one, type(one).__name__)
            if problem is None:
                config_hash(one)
                return one
        except SettingsError as error:
            problem = "; ".join(error.problems)
        except (ValueError, PredictbenchError) as error:
            problem = str(error)
        except SystemExit:
            problem = "making it ended the program"
        except Exception as error:  # a constructor is a stranger's code
            problem = f"it cannot be made: {type(error).__name__}: {error}"
        raise self._fail(" ".join(problem.split()), name)

    def _check_requirements(self, made: Mapping[str, Experiment], known: Mapping[str, Experiment]) -> None:
        """Check what experiments require, and what tables with a mistake would."""
        names = {*known, *self.tables}
        for table, content in self.tables.items():
            one = made.get(table)
            required = content.get("requires", ()) if one is None else one.requires
            for name in required if isinstance(required, list | tuple) else ():
                if isinstance(name, str) and name not in names:
                    self.add(f"requires {name!r}, which is no experiment{did_you_mean(name, names)}", table, "requires")
            for problem in Registry.requirement_problems(one, known, absent=False) if one is not None else ():
                self.add(problem, table, "requires")


class _Mistaken(Exception):
    """A table has mistakes, which are noted."""


def read_declarations(settings: Settings) -> Declarations | None:
    """Read the file that EXPERIMENTS_FILE names, or `experiments.toml` of the working folder; None where there is none.

    Raises:
        DeclarationError: it is not there although it is named, cannot be read, or is no TOML.
    """
    file = settings.declared_experiments
    if file is None:
        return None
    try:
        text = read_text(file, MOST_BYTES)
        content = tomllib.loads(text)
    except UndecodableFile as error:
        named = "" if settings.experiments_file is None else " (EXPERIMENTS_FILE)"
        raise DeclarationError(file, [f"{error}{named}"]) from None
    except RecursionError:
        raise DeclarationError(file, [f"{file.name}:1: values within values, too deep to be read"]) from None
    except ValueError as error:
        raise DeclarationError(file, [_syntax_problem(file, str(error))]) from None
    found = Declarations(file, settings, lines=key_lines(text))
    for name, value in content.items():
        if isinstance(value, dict):
            found.tables[name] = value
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            found.add(f"is a list of tables: write [{name}] with one pair of brackets, and each name once", name)
        else:
            found.add(f"the key {name!r} stands outside of a table: put it below the [name] of an experiment", name)
    return found


def registry_of(settings: Settings) -> Registry:
    """All experiments of this installation: listed, declared, and of installed packages.

    Raises:
        RegistryError: they cannot be loaded, or not run together; a `DeclarationError` for the declared ones.
    """
    return load_registry(settings.processing_experiments, declared=read_declarations(settings))


def _syntax_problem(file: Path, message: str) -> str:
    """The reader's complaint, with its line in front."""
    problem, found, place = message.rpartition(" (at ")
    if not found:
        return f"{file.name}:1: {message}"
    line = place.removeprefix("line ").partition(",")[0]
    if not line.isdigit():  # "end of document"
        with suppress(UndecodableFile):
            return f"{file.name}:{read_text(file, MOST_BYTES).rstrip().count(chr(10)) + 1}: {problem}, at the end"
    return f"{file.name}:{line}: {problem}"


def _told(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Each mistake in plain words, with the path of its key."""
    for detail in error.errors(include_url=False):
        path = tuple(detail["loc"])
        key = ".".join(map(str, path))
        match detail["type"]:
            case "extra_forbidden":
                yield f"unknown key {key!r}{did_you_mean(path[-1], _keys_at(model, path[:-1]))}", path
            case "missing":
                yield f"the key {key!r} is missing", path
            case _:
                text = _PLAIN.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
                text = text.replace("Input should be", "expected")
                value = detail.get("input")
                shown = f"; it is {_shown(key, value)}" if path and not isinstance(value, dict) else ""
                yield f"{key}: {text}{shown}" if key else text, path


def _keys_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that a table may have at a path; none where that is no table of known keys."""
    for part in path:
        known = model.model_fields.get(str(part))
        if known is None or not (isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel)):
            return []
        model = known.annotation
    return [one.alias or name for name, one in model.model_fields.items()]


def _shown(key: str, value: object) -> str:
    """A value as an error quotes it; never one that may be a secret."""
    if any(word in key.lower() for word in _SECRET_WORDS):
        return "another thing" if not isinstance(value, str) else "a text that is not shown"
    text = visible(json.dumps(value, default=_written, ensure_ascii=False))
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"


def _written(value: object) -> str:
    """A date or a time of TOML as the text that JSON has for it."""
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _is_plain(content: Mapping[str, Any]) -> bool:
    """True where values are at most `_DEEPEST` deep."""
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in inner for value in values]
        if not level:
            return True
    return False


def _not_finite(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Paths of numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            yield from _not_finite(one, (*path, key))
