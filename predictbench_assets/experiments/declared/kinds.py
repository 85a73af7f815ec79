"""The kinds of tables by their words, and the class of each, imported when a table of that kind is declared."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import ConfigDict

from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.settings import Settings

_ROOM: Final = "predictbench_assets.experiments"
KINDS: Final[Mapping[str, str]] = {
    "language_model": f"{_ROOM}.llm.language_model:LanguageModelTable",
    "decision_model": f"{_ROOM}.llm.decision_model:DecisionModelTable",
    "research": f"{_ROOM}.research.tables:ResearchTable",
    "price_at_forecast": f"{_ROOM}.research.tables:PriceAtForecastTable",
    "http": f"{_ROOM}.outside.http:HttpTable",
    "file": f"{_ROOM}.outside.file:FileTable",
    "favourite_longshot": f"{_ROOM}.quantitative.tables:FavouriteLongshotTable",
    "recalibrated_market": f"{_ROOM}.quantitative.tables:RecalibratedMarketTable",
    "book_microprice": f"{_ROOM}.quantitative.tables:BookMicropriceTable",
    "history_drift": f"{_ROOM}.quantitative.tables:HistoryDriftTable",
    "ensemble": f"{_ROOM}.quantitative.tables:EnsembleTable",
    "blend": f"{_ROOM}.quantitative.tables:BlendTable",
}
"""`module:class` of a kind's subclass of `Table`, by the kind's word."""


class CodeTable(Table):
    """A table whose kind is `module:Class`: its further keys are the arguments of the class's constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as declared
        """The experiment, made with the table's arguments, which decide its forecasts as its configuration does.

        Raises:
            ValueError: the constructor does not take them.
        """
        kind = loaded_class(self.kind)
        arguments = dict(self.model_extra or {})
        one: Experiment = kind(**arguments)
        if arguments:
            one.declared_arguments = arguments
        return one


def unknown_arguments(path: str, keys: Iterable[str]) -> dict[str, str]:
    """A sentence for each key of a table that the constructor of `module:Class` does not take, by key.

    Raises:
        ValueError, RegistryError: as `loaded_class`.
    """
    kind = loaded_class(path)
    taken = inspect.signature(kind).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken):
        return {}
    known = [*(one.name for one in taken if one.kind is not inspect.Parameter.POSITIONAL_ONLY), *Table.model_fields]
    return {
        key: f"{kind.__name__} takes no argument {key!r}{did_you_mean(key, known)}" for key in keys if key not in known
    }


def table_class(kind: str) -> type[Table]:
    """The table class of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if ":" in kind:
        return CodeTable
    if (place := KINDS.get(kind)) is None:
        kinds = f"{', '.join(KINDS)}, or module:Class"
        raise ValueError(f"unknown kind {kind[:60]!r}{did_you_mean(kind, KINDS)} (there are {kinds})")
    module, _, name = place.partition(":")
    try:
        found: type[Table] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise ValueError(f"the kind {kind!r} is not in this version of Predictbench") from None
        raise ValueError(f"the kind {kind!r} needs the module {error.name}, which is not installed") from None
    return found


def loaded_class(path: str) -> type[Experiment]:
    """The class that `module:Class` names.

    Raises:
        ValueError: it is no subclass of Experiment.
        RegistryError: it cannot be imported.
    """
    # Only such tables need it; it imports this room's reading of the file.
    from predictbench_assets.experiments.registry import Listing

    listed = Listing(path, f"kind = {path!r}").load()
    if not (isinstance(listed, type) and issubclass(listed, Experiment)):
        raise ValueError(f"{path} is no subclass of Experiment")
    return listed


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A question with the nearest of the known words; nothing where none is near."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
