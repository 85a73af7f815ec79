"""`predictbench doctor`: not written yet."""

import click


@click.command(short_help="Is everything set up?")
def doctor() -> None:
    """Is everything set up?"""
    raise click.ClickException("not written yet")
