"""`predictbench export`: markets, forecasts and failures as files."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import click

from predictbench_assets.cli.options import configured_settings, day_option, demo_option
from predictbench_assets.commit import running_commit
from predictbench_assets.database.connection import opened_database
from predictbench_assets.dataset.export import MANIFEST, ExportManifest, export_tables
from predictbench_assets.dataset.files import Format
from predictbench_assets.reporting.output import size
from predictbench_assets.staging import StagingArea

_LINE_EVERY_S = 2.0


@click.command(
    epilog="""\
\b
Examples:
  predictbench export --since 2026-11-01 --format parquet --to november
  predictbench export --since 2026-11-01 --until 2026-11-07 --format jsonl \\
    --to s3://bucket/exports/week
""",
)
@day_option("--since", required=True, help="The first run date.")
@day_option("--until", help="The last run date, itself included.  [default: today, UTC]")
@click.option("--format", "format_", type=click.Choice(["parquet", "jsonl"]), default="parquet", help="Of the files.")
@click.option("--to", required=True, metavar="URI", help="A folder, or s3://bucket/prefix with the keys of staging.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@demo_option
def export(since: date, until: date | None, format_: Format, to: str, as_json: bool) -> None:
    """Write runs, markets, forecasts and failures as files, with a data dictionary and a manifest.

    All files show the database at one moment. An earlier export in the same place is replaced. The manifest is written
    last: without one an export is not whole.
    """
    if not to.strip():
        raise click.UsageError("--to is empty: name a folder, or s3://bucket/prefix")
    settings = configured_settings()
    now = settings.clock.now()
    last = until or now.date()
    if since > last:
        raise click.UsageError(f"--since {since} is after --until {last}")
    address = to if "://" in to else str(Path(to).expanduser().resolve())
    area = StagingArea(address, settings.storage_options(address))
    with opened_database(settings) as engine:
        manifest = export_tables(
            engine,
            area,
            since=since,
            until=last,
            format_=format_,
            now=now,
            git_sha=running_commit(settings),
            progress=_Progress(),
        )
    if as_json:
        click.echo(json.dumps(json.loads(area.read_bytes(MANIFEST)), indent=2))
    else:
        _show(manifest, settings.redact(area.uri(MANIFEST)))


class _Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._last_line_at = time.monotonic()

    def __call__(self, table: str, rows: int) -> None:
        if time.monotonic() - self._last_line_at >= _LINE_EVERY_S:
            self._last_line_at = time.monotonic()
            click.echo(f"{table}: {rows:,} rows", err=True)


def _show(manifest: ExportManifest, address: str) -> None:
    files: list[Any] = [file for file in manifest.files if file.rows is not None]
    for file in files:
        click.echo(f"{file.name:20} {file.rows:>12,} rows {size(file.bytes):>12}")
    if not manifest.rows:
        click.echo(f"no run is stored from {manifest.since} to {manifest.until}: the files have no rows")
    click.echo(address)
