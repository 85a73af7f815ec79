"""`predictbench prune`: not written yet."""

import click


@click.command(short_help="Archive and remove what is old.")
def prune() -> None:
    """Archive and remove what is old."""
    raise click.ClickException("not written yet")
