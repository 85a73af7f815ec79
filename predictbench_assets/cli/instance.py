"""`predictbench ui` and `predictbench stop`: the UI on the local instance, and the end of what was left running."""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from predictbench_assets.cli.database import ready_database
from predictbench_assets.cli.demo import FOLDER, demo_exchange, enter_demo


@click.command(
    short_help="The Dagster UI.",
    epilog="""\
\b
Examples:
  predictbench ui
  predictbench ui --demo --port 3001
  predictbench ui --read-only
""",
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Where the UI listens, on this machine only.")
@click.option("--demo", is_flag=True, help="On the demo's data.")
@click.option("--read-only", is_flag=True, help="Only look, at the storage that DAGSTER_POSTGRES_URL names.")
def ui(port: int, demo: bool, read_only: bool) -> None:
    """Open the Dagster UI, with its daemon, on the instance that our commands run in.

    With --read-only it is the web server alone, on a deployment's storage: nothing can be launched, changed or
    migrated. It needs DAGSTER_POSTGRES_URL, and STAGING_URI with its keys to show what steps printed; nothing else.
    """
    from predictbench_assets import launch
    from predictbench_assets.cli.demo_world import present_demo, shown
    from predictbench_assets.experiments.registry import import_path, load_registry
    from predictbench_assets.settings import load_settings

    if demo and read_only:
        raise click.UsageError("--demo is this machine's own; --read-only is for a deployment's storage")
    if read_only:
        sys.exit(_look(port))
    with ExitStack() as stack:
        if demo:
            folder = enter_demo()
            present_demo(folder)
            stack.enter_context(shown(folder))
            demo_exchange()
        settings = load_settings()
        # What is wrong with an experiment is said here: the UI would show a code location that does not load.
        found_in = import_path(load_registry(settings.processing_experiments))
        stack.enter_context(ready_database(settings))
        home = launch.prepare_home(settings, settings.home / "dagster")
        command = launch.ui_command(settings, home=home, port=port, import_path=found_in)
        click.echo(f"$ {command}\n\nThe UI comes up at http://127.0.0.1:{port} (Ctrl-C ends it)\n", err=True)
        sys.exit(launch.run_in_foreground(command))


def _look(port: int) -> int:
    """The web server on a deployment's storage, until it is ended; returns its exit code.

    Raises:
        LaunchError: there is no such storage, or nothing that this version can read.
    """
    from predictbench_assets import launch
    from predictbench_assets.resources.dagster_storage import check_dagster_storage
    from predictbench_assets.settings import load_settings

    # Whatever ENVIRONMENT says: what is only looked at does not need the settings that a deployment's runs need.
    settings = load_settings(environment="development")
    if settings.dagster_postgres_url is None:
        raise launch.LaunchError(
            "DAGSTER_POSTGRES_URL is not set: put the address of the deployment's Dagster storage into .env "
            "(session pooler or direct, port 5432). `predictbench ui` without --read-only shows this machine's runs."
        )
    storage = check_dagster_storage(settings)
    if storage.state == "absent":
        raise launch.LaunchError(
            f"DAGSTER_POSTGRES_URL: no tables of Dagster's in the schema {storage.schema}; the first run makes them. "
            "If there have been runs, the role has another search path than theirs."
        )
    if storage.state == "ahead":
        raise launch.LaunchError(
            "DAGSTER_POSTGRES_URL: the storage was migrated by a newer Dagster than the one installed here: "
            "bring this clone up to date (`git pull`, `make setup`)."
        )
    if storage.state == "behind":
        click.echo("warning: the storage is older than this Dagster; `dagster instance migrate` upgrades it", err=True)
    if settings.staging_uri is None:
        click.echo("warning: STAGING_URI is not set, so that what steps printed is not shown", err=True)
    with tempfile.TemporaryDirectory(prefix="predictbench-ui-") as folder:
        home = launch.prepare_home(settings, Path(folder).resolve())
        command = launch.read_only_ui_command(settings, home=home, port=port)
        click.echo(f"$ {command}\n\nThe UI comes up at http://127.0.0.1:{port} (Ctrl-C ends it)\n", err=True)
        return launch.run_in_foreground(command)


@click.command(short_help="Stop what was left running.", epilog="\b\nExample:\n  predictbench stop")
def stop() -> None:
    """Stop what our commands left running here: the embedded databases and the demo's exchange."""
    from predictbench_assets.database.connection import embedded_server
    from predictbench_assets.database.embedded import EmbeddedPostgres
    from predictbench_assets.sandbox.process import stop_sandbox
    from predictbench_assets.settings import SettingsError, load_settings

    folder = FOLDER.resolve()
    if stop_sandbox(folder):
        click.echo("stopped the demo's exchange")
    servers: list[tuple[str, EmbeddedPostgres]] = [("the demo's database", EmbeddedPostgres(folder / "postgres"))]
    try:
        servers.append(("the embedded database", embedded_server(load_settings())))
    except SettingsError:
        servers.append(("the embedded database", EmbeddedPostgres(Path(".predictbench").resolve() / "postgres")))
    for name, server in servers:
        if server.folder.exists() and server.status().running:
            server.stop()
            click.echo(f"stopped {name}")
