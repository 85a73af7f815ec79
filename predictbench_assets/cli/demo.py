"""`predictbench demo`: a whole day, and days of the past, with an exchange and a database of the demo's own."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import click
from sqlalchemy import Engine

from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.launch.child import ChildLog
from predictbench_assets.launch.daily import print_exit_code
from predictbench_assets.launch.demo import (
    demo_registry,
    enter_demo,
    open_demo,
    print_summary,
)
from predictbench_assets.launch.demo_days import DemoDays, dates_of, print_failures
from predictbench_assets.launch.demo_world import Demo, demo_lock, make_folder
from predictbench_assets.launch.signals import Interrupts
from predictbench_assets.observability.console import console
from predictbench_assets.persistence.stored_runs import results_by_status, stored_exchange
from predictbench_assets.reporting.boards import as_table
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.sandbox.world import MOST_MARKETS
from predictbench_assets.scoring.boards import ALL, chosen_rows
from predictbench_assets.scoring.store.boards import stored_leaderboard
from predictbench_assets.settings import Settings
from predictbench_assets.site.names import FOLDER as PAGE

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


def _refuse_forget(context: click.Context, _: click.Parameter, given: str | None) -> None:
    """Refuse the option of `daily`, for which click would suggest --fresh, which removes the demo."""
    if given is not None:
        raise click.NoSuchOption(
            "--forget",
            "No such option '--forget': a demo asks an experiment again where it only failed, or has a new version.",
            ctx=context,
        )


@click.command(
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
    type=click.IntRange(1, MOST_MARKETS),
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
@click.option("--forget", hidden=True, expose_value=False, callback=_refuse_forget)
@click.option("-v", "--verbose", is_flag=True, help="Show the commands that it runs, and where each log is.")
def demo(markets: int | None, past: int | None, experiments: tuple[str, ...], fresh: bool, verbose: bool) -> None:
    """Run a whole day against the sandbox exchange, in an embedded Postgres; needs nothing and nobody.

    Days of the past that are stored are kept; an experiment that is new, or has a new version, is run on each of them,
    on the snapshot and at the (simulated) time of that day. The exchange and the database keep running, so that the
    next demo is quick: `predictbench stop` ends them.
    """
    folder = enter_demo()
    make_folder(folder)
    os.environ["LOG_FORMAT"] = "text"  # a person reads this, even where a pipe or a file lies between
    registry, own = demo_registry(experiments)
    try:
        with Interrupts() as interrupts, demo_lock(folder):
            kept = open_demo(folder, markets, experiments, fresh=fresh)
            sys.exit(_run(folder, kept, past, registry, own, interrupts, verbose=verbose))
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)


def _run(
    folder: Path,
    kept: Demo,
    past: int | None,
    registry: Registry,
    own: tuple[str, ...],
    interrupts: Interrupts,
    *,
    verbose: bool,
) -> int:
    """Run the past, then today, then the sweep; returns the exit code."""
    dates = kept.past if past is None else dates_of(past)
    with DemoDays(folder, kept, dates, registry, own, interrupts, _report, verbose=verbose) as days:
        days.run()
        if days.swept_well:
            _show_board(days.settings, days.engine)
        if own and days.summary is not None and not _print_own(days.engine, own, days.summary):
            return 1
    click.echo(_next_steps(past=bool(dates), own=bool(own)))
    return 0


def _report(settings: Settings, summary: RunSummary, child_log: ChildLog) -> None:
    print_summary(summary)
    print_exit_code(settings, summary, child_log)
    if summary.succeeded:
        click.echo(_WORDS)


def _show_board(settings: Settings, engine: Engine) -> None:
    """Show the core board, and where its page is."""
    built = stored_leaderboard(engine, settings.clock.now())
    assert built is not None, "the sweep has stored one"
    rows = chosen_rows(built.rows, board="core", window_days=None, category=ALL, price_bin=ALL)
    click.echo()
    console().print(as_table(built, rows, simulated=is_simulated(stored_exchange(engine))))
    click.echo(f"{settings.home / PAGE / 'index.html'}")


def _print_own(engine: Engine, own: tuple[str, ...], summary: RunSummary) -> bool:
    """Print what came of the experiments that were added; false where one of them forecast nothing but failed."""
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
    """The program's name as it can be typed in this folder."""
    program = Path(sys.executable).parent / "predictbench"
    found = shutil.which("predictbench")
    if found is not None and Path(found).absolute() == program.absolute():
        return "predictbench"
    if not program.is_file():
        return f"{shlex.quote(sys.executable)} -m predictbench_assets.cli.main"
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
