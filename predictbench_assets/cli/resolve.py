"""`predictbench resolve`: how stored markets settled."""

import click


@click.command(short_help="How closed markets settled.", epilog="\b\nExample:\n  predictbench resolve")
def resolve() -> None:
    """Say how many stored markets are past their close and not known to be final.

    Nothing is fetched: the sweep that observes how they settled is not part of this version.
    """
