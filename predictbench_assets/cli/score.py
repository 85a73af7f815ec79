"""`predictbench score`: what settled forecasts are worth."""

import json
from dataclasses import asdict

import click

from predictbench_assets.cli.options import configured_settings, demo_option
from predictbench_assets.database.connection import opened_database
from predictbench_assets.scoring.store.scores import score_settled


@click.command(
    epilog="\b\nExamples:\n  predictbench score\n  predictbench score --json",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@demo_option
def score(as_json: bool) -> None:
    """Score every forecast whose market has settled and that is not scored yet, or was scored by another resolution.

    Nothing is fetched: `predictbench resolve` looks up how markets settled.
    """
    settings = configured_settings()
    with opened_database(settings) as engine:
        report = score_settled(engine, settings.clock.now(), dry_run=settings.predictbench_dry_run)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    would = "would be " if settings.predictbench_dry_run else ""
    click.echo(f"{report.scored:,} forecasts {would}scored for the first time, of {report.markets:,} markets")
    if report.rescored:
        click.echo(f"{report.rescored:,} {would}scored anew: their resolution or the rules had changed")
    if report.removed:
        click.echo(f"{report.removed:,} scores {would}removed: their markets are not settled any more")
    click.echo(f"{report.scores:,} scores in all, {report.waiting:,} forecasts wait for their market")
