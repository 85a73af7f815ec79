"""`predictbench release`: the benchmark's data as files that stay as they are."""

from datetime import date, datetime
from pathlib import Path

import click

from predictbench_assets.cli.options import as_of_instant, as_of_option, configured_settings, day_option, demo_option
from predictbench_assets.commit import running_commit
from predictbench_assets.database.connection import opened_database
from predictbench_assets.dataset.release import VERSION, make_release


@click.command(
    epilog="""\
\b
Examples:
  predictbench release --output releases/2026-11 --until 2026-11-30
  predictbench release --output releases/2026-12 --previous releases/2026-11
  predictbench verify --release releases/2026-12
""",
)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A folder that is not there yet."
)
@click.option("--version", metavar="NAME", help="Of the release.  [default: the day of --as-of]")
@day_option("--since", help="The first run date.  [default: of --previous, else the first one stored]")
@day_option("--until", help="The last run date, itself included.  [default: the last one stored]")
@as_of_option
@click.option(
    "--previous",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR|MANIFEST",
    help="An earlier release: refuse if more than resolutions has changed since.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@demo_option
def release(
    output: Path,
    version: str | None,
    since: date | None,
    until: date | None,
    moment: date | datetime | None,
    previous: Path | None,
    as_json: bool,
) -> None:
    """Write markets, contracts, forecasts, experiments, resolutions, scores and digests of all complete runs as files.

    Parquet and JSON lines, with a card (README.md), a notice and a manifest that has the SHA-256 of each. A run of
    today may still be forecast again, which a later release would refuse: leave it out with --until.
    """
    settings = configured_settings()
    as_of = as_of_instant(moment, settings.clock.now())
    named = version or as_of.date().isoformat()
    if VERSION.fullmatch(named) is None:
        raise click.BadParameter(
            f"{named!r}: use letters, digits, dots and dashes, such as 2026-11.1", param_hint="--version"
        )
    if since is not None and until is not None and since > until:
        raise click.UsageError(f"--since {since} is after --until {until}")
    with opened_database(settings) as engine:
        manifest = make_release(
            engine,
            output.expanduser().resolve(),
            as_of=as_of,
            version=named,
            git_sha=running_commit(settings),
            since=since,
            until=until,
            previous=previous,
        )
    if as_json:
        click.echo(manifest.encoded(), nl=False)
        return
    for table, rows in manifest.rows.items():
        click.echo(f"{table:12} {rows:>12,} rows")
    left_out = sum(cohort.left_out for cohort in manifest.cohorts)
    if left_out:
        click.echo(f"left out: {left_out:,} forecasts that were stored after their cohort was released first")
    kind = "simulated release" if manifest.simulated else "release"
    click.echo(f"{kind} {manifest.version}, {len(manifest.cohorts):,} cohorts: {output}")
