"""`predictbench ui` and `predictbench stop`: the UI on the local instance, and the end of what was left running."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from predictbench_assets.database.connection import EmbeddedUnsupported, embedded_in, ready_database
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.registry import import_path
from predictbench_assets.launch import commands
from predictbench_assets.launch.commands import Command, LaunchError
from predictbench_assets.launch.demo import (
    FOLDER,
    demo_exchange,
    enter_demo,
    list_experiments,
    loadable_experiments,
)
from predictbench_assets.launch.demo_world import present_demo, showing, shown
from predictbench_assets.launch.ui import require_free, run_in_foreground
from predictbench_assets.sandbox.process import stop_sandbox
from predictbench_assets.settings import SettingsError, load_settings


@click.command(
    epilog="""\
\b
Examples:
  predictbench ui
  predictbench ui --open
  predictbench ui --demo --port 3001
  predictbench ui --read-only
""",
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Where the UI listens, on this machine only.")
@click.option("--demo", is_flag=True, help="On the demo's data.")
@click.option("--read-only", is_flag=True, help="Only look, at the storage that DAGSTER_POSTGRES_URL names.")
@click.option("--open", "open_", is_flag=True, help="Open it in the browser when it answers.")
def ui(port: int, demo: bool, read_only: bool, open_: bool) -> None:
    """Open the Dagster UI, with its daemon, on the instance that our commands run in.

    With --read-only it is the web server alone, on a deployment's storage: nothing can be launched, changed or
    migrated. It needs DAGSTER_POSTGRES_URL, and STAGING_URI with its keys to show what steps printed; nothing else.
    """
    if demo and read_only:
        raise click.UsageError("--demo is this machine's own; --read-only is for a deployment's storage")
    if read_only:
        sys.exit(_serve_read_only(port, open_=open_))
    require_free(port)
    with ExitStack() as stack:
        if demo:
            folder = enter_demo()
            kept = present_demo(folder)
            stack.enter_context(shown(folder))
            demo_exchange()
            list_experiments(loadable_experiments(kept.experiments))
        settings = load_settings()
        # A faulty experiment is reported here: the UI would show a code location that does not load.
        found_in = import_path(registry_of(settings))
        stack.enter_context(ready_database(settings))
        if not demo and settings.writer_url is None:
            stack.enter_context(shown(settings.home))
        home = commands.prepare_home(settings, settings.home / "dagster", starting=True)
        command = commands.ui_command(settings, home=home, port=port, import_path=found_in)
        sys.exit(_serve(command, port, open_=open_))


def _serve(command: Command, port: int, *, open_: bool) -> int:
    """Run a UI in this terminal until it is ended, and print its address once it answers."""
    address = f"http://{commands.LOCAL}:{port}"

    def answered() -> None:
        click.echo(f"\nThe UI is at {address} (Ctrl-C ends it)\n", err=True)
        if open_ and click.launch(address) != 0:
            click.echo("no browser was found to open it in", err=True)

    click.echo(f"$ {command}\n\nThe UI is starting ...\n", err=True)
    return run_in_foreground(command, address, answered)


def _serve_read_only(port: int, *, open_: bool) -> int:
    """The web server on a deployment's storage, until it is ended; returns its exit code.

    Raises:
        LaunchError: there is no such storage, or nothing that this version can read.
    """
    # Loads Dagster, which takes longer than the help of this command may.
    from predictbench_assets.instance.storage import check_dagster_storage

    # Whatever ENVIRONMENT is: looking needs none of the settings that the runs of a deployment need.
    settings = load_settings(environment="development")
    if settings.dagster_postgres_url is None:
        raise LaunchError(
            "DAGSTER_POSTGRES_URL is not set: put the address of the deployment's Dagster storage into .env "
            "(session pooler or direct, port 5432). `predictbench ui` without --read-only shows this machine's runs."
        )
    require_free(port)
    storage = check_dagster_storage(settings)
    if storage.state == "absent":
        raise LaunchError(
            f"DAGSTER_POSTGRES_URL: no tables of Dagster's in the schema {storage.schema}; the first run makes them. "
            "If there have been runs, the role has another search path than theirs."
        )
    if storage.state == "ahead":
        raise LaunchError(
            "DAGSTER_POSTGRES_URL: the storage was migrated by a newer Dagster than the one installed here: "
            "bring this clone up to date (`git pull`, `make setup`)."
        )
    if storage.state == "behind":
        click.echo("warning: the storage is older than this Dagster; `dagster instance migrate` upgrades it", err=True)
    if settings.staging_uri is None:
        click.echo("warning: STAGING_URI is not set, so that what steps printed is not shown", err=True)
    with tempfile.TemporaryDirectory(prefix="predictbench-ui-") as folder:
        home = commands.prepare_home(settings, Path(folder).resolve())
        command = commands.read_only_ui_command(settings, home=home, port=port)
        return _serve(command, port, open_=open_)


@click.command(epilog="\b\nExample:\n  predictbench stop")
def stop() -> None:
    """Stop what our commands left running here: the embedded databases and the demo's exchange.

    A UI is left to the terminal that it runs in; that one is running is mentioned.
    """
    folder = FOLDER.resolve()
    if stop_sandbox(folder):
        click.echo("stopped the demo's exchange")
    try:
        settings = load_settings()
    except SettingsError:
        settings = None
    home = Path(".predictbench").resolve() if settings is None else settings.home
    try:
        servers = [
            ("the demo's database", "ui --demo", folder, embedded_in(folder / "postgres")),
            ("the embedded database", "ui", home, embedded_in(home / "postgres")),
        ]
    except EmbeddedUnsupported:
        if settings is not None and settings.writer_url is not None:
            return  # this system has no embedded server, and none is needed
        raise

    for name, ui_of_it, of, server in servers:
        if server.stop():
            click.echo(f"stopped {name}")
        if (process := showing(of)) is not None:
            click.echo(
                f"`predictbench {ui_of_it}`{process} is still running, without {name}: end it with Ctrl-C in its "
                "terminal, and start it again when it is needed",
                err=True,
            )
