"""`predictbench export`: not written yet."""

import click


@click.command(short_help="Markets, forecasts and failures as files.")
def export() -> None:
    """Markets, forecasts and failures as files."""
    raise click.ClickException("not written yet")
