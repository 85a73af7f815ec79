"""`predictbench notify`: not written yet."""

import click


@click.command(short_help="Tell a webhook how a run went.")
def notify() -> None:
    """Tell a webhook how a run went."""
    raise click.ClickException("not written yet")
