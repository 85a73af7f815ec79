"""`predictbench resolve`: how stored markets settled."""

import click


@click.command(short_help="How closed markets settled.", epilog="\b\nExample:\n  predictbench resolve")
def resolve() -> None:
    """Say how many stored markets are past their close and not known to be final.

    Nothing is fetched: the sweep that observes how markets settled is not part of this version.
    """
    from predictbench_assets.database import migrations
    from predictbench_assets.database.connection import database_url
    from predictbench_assets.database.engine import make_engine
    from predictbench_assets.database.queries import unsettled_markets
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    configure_logging(settings)
    engine = make_engine(database_url(settings), pool_size=0, application_name="predictbench resolve")
    if migrations.current(engine) is None:
        click.echo("the database has no tables yet: `predictbench db upgrade` makes them")
        return
    unsettled, closed = unsettled_markets(engine, settings.clock.now())
    click.echo(f"{unsettled:,} of {closed:,} stored markets past their close are not known to be final.")
    if unsettled:
        click.echo("This version does not fetch how they settled; they are kept for the one that does.")
