"""`predictbench ui` and `predictbench stop`: the UI on the local instance, and the end of what was left running."""

import sys
from pathlib import Path

import click

from predictbench_assets.cli.demo import (
    FOLDER,
    enter_demo,
    start_sandbox,
    stop_sandbox,
    use_sandbox,
)


@click.command(
    short_help="The Dagster UI.", epilog="\b\nExamples:\n  predictbench ui\n  predictbench ui --demo --port 3001"
)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, help="Where the UI listens, on this machine only.")
@click.option("--demo", is_flag=True, help="On the demo's data.")
def ui(port: int, demo: bool) -> None:
    """Open the Dagster UI, with its daemon, on the instance that our commands run in."""
    from predictbench_assets import launch
    from predictbench_assets.cli.daily import local_database
    from predictbench_assets.settings import load_settings

    if demo:
        use_sandbox(start_sandbox(enter_demo()))
    settings = load_settings()
    with local_database(settings):
        home = launch.prepare_home(settings, settings.home / "dagster")
        command = launch.ui_command(settings, home=home, port=port)
        click.echo(f"$ {command}\n\nThe UI comes up at http://127.0.0.1:{port} (Ctrl-C ends it)\n", err=True)
        sys.exit(launch.run_in_foreground(command))


@click.command(short_help="Stop what was left running.", epilog="\b\nExample:\n  predictbench stop")
def stop() -> None:
    """Stop what our commands left running here: the embedded databases and the demo's exchange."""
    from predictbench_assets.database.connection import embedded_server
    from predictbench_assets.database.embedded import EmbeddedPostgres
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
