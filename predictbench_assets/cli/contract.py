"""`predictbench contract`: not written yet."""

import click


@click.command(short_help="Does the live API behave as we rely on?")
def contract() -> None:
    """Does the live API behave as we rely on?"""
    raise click.ClickException("not written yet")
