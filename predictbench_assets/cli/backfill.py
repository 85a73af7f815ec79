"""`predictbench backfill`: not written yet."""

import click


@click.command(short_help="Run stored days again.")
def backfill() -> None:
    """Run stored days again."""
    raise click.ClickException("not written yet")
