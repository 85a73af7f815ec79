"""`predictbench due`: not written yet."""

import click


@click.command(short_help="Which runs are due.")
def due() -> None:
    """Which runs are due."""
    raise click.ClickException("not written yet")
