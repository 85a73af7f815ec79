"""`predictbench resolve`: not written yet."""

import click


@click.command(short_help="How closed markets settled.")
def resolve() -> None:
    """How closed markets settled."""
    raise click.ClickException("not written yet")
