"""`predictbench demo`: everything under one folder, with an exchange and a database of its own.

Nothing of the user's is read: every variable that could be a setting of ours or of Dagster's is taken out of this
process before anything is loaded, and `.env` is not opened. The embedded server does the same with those of libpq.
"""

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from predictbench_assets.cli.output import print_item

if TYPE_CHECKING:
    from predictbench_assets.experiments.registry import Registry
    from predictbench_assets.launch.child import Watched
    from predictbench_assets.launch.demo_world import Demo
    from predictbench_assets.reporting.summary import RunSummary
    from predictbench_assets.sandbox.process import SandboxProcess
    from predictbench_assets.settings import Settings

FOLDER = Path(".predictbench") / "demo"

_FOREIGN_PREFIX = "DAGSTER_"
_WIDTH = 80
"""Columns of what is not shown on a terminal."""

_WORDS = """
In these words
  excluded     left out by a setting of yours, such as MIN_VOLUME
  rejected     not readable as a market
  core sample  drawn at random from all markets; the core board compares on it
  good, thin   a price from a close bid and ask; from a wide or half-empty book
  none         neither bid nor ask: a price that the exchange indicates, or none
  snapshot     the markets as they were frozen: all experiments see the same
  digest       a hash of all forecasts, made before any of the markets closes\
"""


@click.command(
    short_help="A whole run against the sandbox exchange.",
    epilog="""\
\b
Examples:
  predictbench demo
  predictbench demo --past 8    eight days before today's, scored: a board
  predictbench demo --past 8 --experiment my_forecasters:Contrarian
  predictbench demo --markets 2000
  predictbench ui --demo
  predictbench stop
""",
)
@click.option(
    "--markets",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Markets that close on each day; another number is another world, and a demo anew.  [default: as before, 300 "
    "at first]",
)
@click.option(
    "--past",
    type=click.IntRange(0, 60),
    metavar="N",
    help="Run N days of the past first and let them settle, so that there is a board.  [default: as before, none at "
    "first]",
)
@click.option(
    "--experiment",
    "experiments",
    multiple=True,
    metavar="MODULE:CLASS",
    help="Add a forecaster of your own to the built-in ones (repeatable); its file is looked for in this folder.",
)
@click.option("--fresh", is_flag=True, help="Remove the demo that is here, and begin anew.")
@click.option("-v", "--verbose", is_flag=True, help="Show the commands that it runs, and where each log is.")
def demo(markets: int | None, past: int | None, experiments: tuple[str, ...], fresh: bool, verbose: bool) -> None:
    """Run a whole day against the sandbox exchange, in an embedded Postgres; needs nothing and nobody.

    Days of the past that are stored are kept; an experiment that is new, or has a new version, is run on each of them,
    on the snapshot and at the (simulated) time of that day. The exchange and the database keep running, so that the
    next demo is quick: `predictbench stop` ends them.
    """
    from predictbench_assets.launch.demo_world import at_work, made_folder

    folder = enter_demo()
    made_folder(folder)
    os.environ["LOG_FORMAT"] = "text"  # a person reads this, even where a pipe or a file lies between
    registry, own = _experiments(experiments)
    try:
        with Interrupts() as interrupts, at_work(folder):
            kept = _opened(folder, markets, experiments, fresh=fresh)
            sys.exit(_run(folder, kept, past, registry, own, interrupts, verbose=verbose))
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)


class Interrupts:
    """Ctrl-C, remembered: one that arrives within a callback of the garbage collector is swallowed by Python."""

    def __init__(self) -> None:
        self._arrived = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as in a shell's background job
            signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Stop here if one has arrived.

        Raises:
            KeyboardInterrupt: one has.
        """
        if self._arrived:
            raise KeyboardInterrupt

    def _remember(self, _: int, __: FrameType | None) -> None:
        self._arrived = True
        raise KeyboardInterrupt


def _experiments(paths: tuple[str, ...]) -> "tuple[Registry, tuple[str, ...]]":
    """The built-in experiments with those of the paths, and the names of the latter."""
    from predictbench_assets.experiments.registry import load_registry
    from predictbench_assets.settings import DEFAULT_EXPERIMENTS

    list_experiments(paths)
    registry = load_registry((*DEFAULT_EXPERIMENTS, *paths), source="--experiment")
    builtin = load_registry()
    return registry, tuple(name for name in registry.names if name not in builtin)


def list_experiments(paths: tuple[str, ...]) -> None:
    """Have this process and its children add these experiments to the built-in ones."""
    from predictbench_assets.settings import DEFAULT_EXPERIMENTS

    os.environ.pop("PROCESSING_EXPERIMENTS", None)
    if paths:
        os.environ["PROCESSING_EXPERIMENTS"] = ",".join((*DEFAULT_EXPERIMENTS, *paths))


def loadable(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Those of an earlier demo's experiments that can still be loaded; a line on stderr for each other one."""
    from predictbench_assets.experiments.registry import RegistryError, load_registry
    from predictbench_assets.settings import DEFAULT_EXPERIMENTS

    found: tuple[str, ...] = ()
    for path in paths:
        try:
            load_registry((*DEFAULT_EXPERIMENTS, *found, path), source="the demo")
        except RegistryError as error:
            print_item("", f"left out, as it is not there any more: {error}", sys.stderr)
        else:
            found = (*found, path)
    return found


def _opened(folder: Path, markets: int | None, experiments: tuple[str, ...], *, fresh: bool) -> "Demo":
    import msgspec

    from predictbench_assets.launch.demo_world import opened_demo, write_demo

    kept, removed = opened_demo(folder, markets, fresh=fresh)
    if removed is not None:
        click.echo(removed, err=True)
    listed = experiments or loadable(kept.experiments)
    changed = msgspec.structs.replace(kept, experiments=listed, own=kept.own or bool(experiments))
    return write_demo(folder, changed)


def _run(
    folder: Path,
    kept: "Demo",
    past: int | None,
    registry: "Registry",
    own: tuple[str, ...],
    interrupts: Interrupts,
    *,
    verbose: bool,
) -> int:
    """Run the past, then today, then the sweep; returns the exit code."""
    from predictbench_assets.cli.daily import DailyOptions, run_daily
    from predictbench_assets.cli.demo_past import WINDOW, PastDays, dates_of, only_failed, show_board, sweep
    from predictbench_assets.launch.progress import stages
    from predictbench_assets.runs import RunKey
    from predictbench_assets.sandbox.process import start_sandbox
    from predictbench_assets.settings import load_settings

    dates = kept.past if past is None else dates_of(past)
    if dates and (code := PastDays(folder, kept, dates, registry, own, interrupts, verbose=verbose).run()) != 0:
        return code
    interrupts.check()
    use_sandbox(start_sandbox(folder, kept.world))
    settings = load_settings()
    _configure_logging(settings, verbose=verbose)
    with _opened_database(settings) as engine:
        again = only_failed(engine, own, RunKey(settings.clock.now().date(), WINDOW))
        options = DailyOptions(window_days=WINDOW, forget=again)
        interrupts.check()
        summaries: list[RunSummary] = []

        def report(summary: "RunSummary", watched: "Watched") -> None:
            summaries.append(summary)
            _report(summary, watched)

        code = run_daily(settings, options, show=stages, report=report, verbose=verbose)
        if code != 0:
            return code
        interrupts.check()
        settled = sweep(settings, engine, registry, verbose=verbose)
        if settled is None:
            return 1
        interrupts.check()
        if settled:
            show_board(settings)
        if own and not _tell_of_own(engine, own, *summaries):
            return 1
    click.echo(_next_steps(past=bool(dates), own=bool(own)))
    return 0


@contextmanager
def _opened_database(settings: "Settings") -> Iterator[Any]:
    from predictbench_assets.cli.database import opened_database

    with opened_database(settings) as engine:
        yield engine


def _configure_logging(settings: "Settings", *, verbose: bool) -> None:
    """Warnings only, unless more is asked for: what the commands of a demo come to is printed."""
    from predictbench_assets.observability.logs import configure_logging

    configure_logging(settings if verbose else settings.model_copy(update={"log_level": "WARNING"}))


def _report(summary: "RunSummary", watched: "Watched") -> None:
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(summary.to_table(forget=False))
    if summary.succeeded and watched.exit_code != 0:
        click.echo(f"the run's data are stored, but Dagster ended with exit code {watched.exit_code}", err=True)
    if summary.succeeded:
        click.echo(_WORDS)


def _tell_of_own(engine: Any, own: tuple[str, ...], summary: "RunSummary") -> bool:
    """Print what came of the experiments that were added; false where one of them forecast nothing but failed."""
    from predictbench_assets.cli.demo_past import print_failures
    from predictbench_assets.persistence.stored_runs import results_by_status

    click.echo("\nYour own")
    stored = results_by_status(engine, own)
    only_failed = changed = False
    for name in own:
        of_today = summary.experiments[name]
        counts = stored.get((name, of_today.version), {})
        parts = [f"{counts[status]:,} {status}" for status in ("completed", "skipped", "failed") if counts.get(status)]
        click.echo(f"  {name} {of_today.version}: {', '.join(parts) or 'no market'} (all days)")
        print_failures(of_today, of="of today's ")
        if of_today.outdated:
            changed = True
            click.echo(f"    the code has changed since {of_today.outdated:,} of today's were answered:")
            click.echo("    give it a new version, or these answers stay")
        only_failed = only_failed or bool(counts.get("failed") and not counts.get("completed"))
    if only_failed:
        click.echo("  Correct it and give the same command again: where it only failed it is asked again.")
    elif not changed:
        click.echo("  After a change of its code, give it a new version: answers of a version are kept.")
    return not only_failed


def _next_steps(*, past: bool, own: bool) -> str:
    """Suggest what was not done yet, as it can be typed here."""
    program = _program()
    steps = [("the asset graph of this run, at http://127.0.0.1:3000", f"{program} ui --demo")]
    if past:
        steps.append(("the board as a page, in the browser", f"{program} report --demo --open"))
    else:
        steps.append(("simulated days of the past, settled and scored: a board", f"{program} demo --past 8"))
    if not own:
        steps.append(
            (
                "your own class in my_forecasters.py on that board (see the README)",
                f"{program} demo --past 8 --experiment my_forecasters:Contrarian",
            )
        )
    query = "select question, price from predictbench.processed_markets limit 5"
    steps += [
        ("look into the tables", f"{program} db --demo sql '{query}'"),
        ("the same for the real Polymarket", f"{program} daily"),
        ("end the demo's exchange and database", f"{program} stop"),
    ]
    return "\nNext:\n" + "\n".join(f"  # {meaning}\n  {command}" for meaning, command in steps)


def _program() -> str:
    """This command as it can be typed in this folder."""
    program = Path(sys.executable).parent / "predictbench"
    found = shutil.which("predictbench")
    if found is not None and Path(found).absolute() == program.absolute():
        return "predictbench"
    if not program.is_file():
        return f"{shlex.quote(sys.executable)} -m predictbench_assets.cli.main"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


def demo_option(command: Any) -> Any:
    """`--demo`: work on the data of the demo in this folder instead of one's own."""

    def enter(_: click.Context, __: click.Parameter, value: bool) -> None:
        if value:
            from predictbench_assets.launch.demo_world import present_demo

            present_demo(enter_demo())

    return click.option(
        "--demo", is_flag=True, is_eager=True, expose_value=False, callback=enter, help="On the demo's data."
    )(command)


def enter_demo() -> Path:
    """Turn this process, and every child of it, to the demo's folder, which need not be there; returns that folder."""
    from predictbench_assets import web
    from predictbench_assets.launch.demo_world import read_demo
    from predictbench_assets.sandbox.process import running_sandbox
    from predictbench_assets.settings import ENV_FILE_VARIABLE, all_variables

    folder = FOLDER.resolve()
    for name in list(os.environ):
        if name.upper() in all_variables() | web.VARIABLES or name.upper().startswith(_FOREIGN_PREFIX):
            del os.environ[name]
    local = "127.0.0.1,localhost"
    os.environ |= {
        ENV_FILE_VARIABLE: "",
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
    """Have the demo's exchange at the real time, for a command that asks it.

    Raises:
        DemoBusy: a demo moves it at this moment.
        DemoAbsent: there is no demo in this folder.
        SandboxNotRunning: it does not come up.
    """
    from predictbench_assets.launch.demo_world import at_work, present_demo
    from predictbench_assets.sandbox.process import start_sandbox

    folder = FOLDER.resolve()
    kept = present_demo(folder)
    with at_work(folder):
        use_sandbox(start_sandbox(folder, kept.world))


def use_sandbox(sandbox: "SandboxProcess") -> None:
    """Point this process and its children at a sandbox."""
    os.environ["POLYMARKET_BASE_URL"] = sandbox.base_url
    os.environ["POLYMARKET_CLOB_URL"] = f"{sandbox.base_url}/clob"
