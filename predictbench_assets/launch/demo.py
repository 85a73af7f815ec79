"""The demo's environment: one folder with an exchange and a database of its own, for this process and its children.

Nothing of the user's is read: every variable that could be a setting of ours, of Dagster's or a provider's key is taken
out of this process before settings are loaded, and `.env` is not opened. The embedded server does the same with those
of libpq.
"""

import os
import sys
from pathlib import Path

import click
import msgspec

from predictbench_assets import web
from predictbench_assets.experiments.registry import Registry, RegistryError, load_registry
from predictbench_assets.launch.demo_world import Demo, demo_lock, open_world, present_demo, read_demo, write_demo
from predictbench_assets.observability.console import console, print_item
from predictbench_assets.observability.logs import configure_logging
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.sandbox.process import SandboxProcess, running_sandbox, start_sandbox
from predictbench_assets.settings import (
    DEFAULT_EXPERIMENTS,
    ENV_FILE_VARIABLE,
    Settings,
    all_variables,
    is_provider_variable,
    load_settings,
)

DECLARED = Path(__file__).with_name("demo.toml")
"""The demo's declared experiments."""

PRICES = Path(__file__).with_name("demo_prices.toml")
"""Prices that it pretends for the stand-in of a language model."""

FOLDER = Path(".predictbench") / "demo"

SANDBOX_VARIABLES = {
    "POLYMARKET_BASE_URL": "",
    "POLYMARKET_CLOB_URL": "/clob",
    "OPENAI_BASE_URL": "/_models/v1",
}
"""The variables that lead to the sandbox, and where below its address."""

_PIPED_WIDTH = 80
"""Columns of a summary that is not shown on a terminal: a person reads that of a demo in a pipe, too."""
_FOREIGN_PREFIX = "DAGSTER_"


def enter_demo() -> Path:
    """Turn this process, and every child of it, to the demo's folder, which need not be there; returns that folder."""
    folder = FOLDER.resolve()
    for name in list(os.environ):
        ours = name.upper() in all_variables() | web.VARIABLES
        if ours or name.upper().startswith(_FOREIGN_PREFIX) or is_provider_variable(name):
            del os.environ[name]
    local = "127.0.0.1,localhost"
    os.environ |= {
        ENV_FILE_VARIABLE: "",
        # Nor are the declared experiments of the working folder, which may cost money, part of it.
        "EXPERIMENTS_FILE": str(DECLARED),
        "MODEL_PRICES_FILE": str(PRICES),
        "OPENAI_API_KEY": "none",  # a word that is not masked: it is in the names of models otherwise
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "PREDICTBENCH_HOME": str(folder),
        # Nothing of the demo may go to a real exchange, even when it is entered without a running sandbox.
        "POLYMARKET_BASE_URL": "http://127.0.0.1:9",
        "POLYMARKET_CLOB_URL": "http://127.0.0.1:9/clob",
        "POLYMARKET_REQUESTS_PER_SECOND": "1000",
        "NO_PROXY": local,
        "no_proxy": local,
    }
    if (kept := read_demo(folder)) is not None:
        list_experiments(kept.experiments)
    if (running := running_sandbox(folder)) is not None:
        use_sandbox(running)
    return folder


def demo_exchange() -> None:
    """Start the demo's exchange at the real time, for a command that asks it.

    Raises:
        DemoBusy: a demo moves it at this moment.
        DemoAbsent: there is no demo in this folder.
        SandboxNotRunning: it does not come up.
    """
    folder = FOLDER.resolve()
    kept = present_demo(folder)
    with demo_lock(folder):
        use_sandbox(start_sandbox(folder, kept.world))


def use_sandbox(sandbox: SandboxProcess) -> None:
    """Point this process and its children at a sandbox."""
    os.environ |= {name: f"{sandbox.base_url}{path}" for name, path in SANDBOX_VARIABLES.items()}


def demo_settings(*, verbose: bool) -> Settings:
    """Load the settings, and log warnings only unless more is asked for: a demo prints its results."""
    settings = load_settings()
    configure_logging(settings if verbose else settings.model_copy(update={"log_level": "WARNING"}))
    return settings


def open_demo(folder: Path, markets: int | None, experiments: tuple[str, ...], *, fresh: bool) -> Demo:
    """The demo of the folder with these experiments, or with those of the last one; see `open_world` for the world."""
    kept, removed = open_world(folder, markets, fresh=fresh)
    if removed is not None:
        click.echo(removed, err=True)
    listed = experiments or loadable_experiments(kept.experiments)
    changed = msgspec.structs.replace(kept, experiments=listed, own=kept.own or bool(experiments))
    return write_demo(folder, changed)


def demo_registry(paths: tuple[str, ...]) -> tuple[Registry, tuple[str, ...]]:
    """The built-in experiments with those of the paths, and the names of the latter."""
    list_experiments(paths)
    registry = load_registry((*DEFAULT_EXPERIMENTS, *paths), source="--experiment")
    builtin = load_registry()
    return registry, tuple(name for name in registry.names if name not in builtin)


def list_experiments(paths: tuple[str, ...]) -> None:
    """Have this process and its children add these experiments to the built-in ones."""
    os.environ.pop("PROCESSING_EXPERIMENTS", None)
    if paths:
        os.environ["PROCESSING_EXPERIMENTS"] = ",".join((*DEFAULT_EXPERIMENTS, *paths))


def loadable_experiments(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Experiments of an earlier demo that can still be loaded; a line on stderr for each other one."""
    found: tuple[str, ...] = ()
    for path in paths:
        try:
            load_registry((*DEFAULT_EXPERIMENTS, *found, path), source="the demo")
        except RegistryError as error:
            print_item("", f"left out, as it is not there any more: {error}", sys.stderr)
        else:
            found = (*found, path)
    return found


def print_summary(summary: RunSummary) -> None:
    """Print all of a run's summary."""
    console(piped_width=_PIPED_WIDTH).print(summary.to_table(forget=False))
