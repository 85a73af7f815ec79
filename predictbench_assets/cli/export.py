"""`predictbench export`: markets, forecasts and failures as files, or a day as a question set."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import click

from predictbench_assets.cli.options import as_usage_errors, configured_settings, day_option, demo_option, windows_begun
from predictbench_assets.clock import utc_text
from predictbench_assets.commit import running_commit
from predictbench_assets.database.connection import opened_database
from predictbench_assets.dataset.export import MANIFEST, ExportManifest, export_tables
from predictbench_assets.dataset.question_set import export_question_set
from predictbench_assets.experiments.outside.file import deadline
from predictbench_assets.launch.request import RunRefused, requested_key
from predictbench_assets.reporting.output import size
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea

QUESTION_SET = "forecastbench"

_LINE_EVERY_S = 2.0


@click.command(
    epilog="""\
\b
Examples:
  predictbench export --since 2026-11-01 --format parquet --to november
  predictbench export --since 2026-11-01 --until 2026-11-07 --format jsonl \\
    --to s3://bucket/exports/week
  predictbench export --format forecastbench --blind --to questions
""",
)
@day_option("--since", help="The first run date.")
@day_option("--until", help="The last run date, itself included.  [default: today, UTC]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["parquet", "jsonl", QUESTION_SET]),
    default="parquet",
    help="Of the files; forecastbench: a run's questions in that benchmark's form.",
)
@day_option("--run-date", help="With forecastbench: the day of the run.  [default: today, UTC]")
@click.option(
    "--window-days",
    type=int,
    metavar="N",
    shell_complete=windows_begun,
    help="With forecastbench: days from there to the close.  [default: TARGET_CLOSE_WINDOW_DAYS]",
)
@click.option("--blind", is_flag=True, help="With forecastbench: without prices and without links to markets.")
@click.option("--to", required=True, metavar="URI", help="A folder, or s3://bucket/prefix with the keys of staging.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@demo_option
def export(
    since: date | None,
    until: date | None,
    format_: str,
    run_date: date | None,
    window_days: int | None,
    blind: bool,
    to: str,
    as_json: bool,
) -> None:
    """Write runs, markets, forecasts and failures as files, with a data dictionary and a manifest.

    All files show the database at one moment. An earlier export in the same place is replaced. The manifest is written
    last: without one an export is not whole.

    With --format forecastbench: the questions of one run, for forecasters that answer by `predictbench submit`.
    """
    if not to.strip():
        raise click.UsageError("--to is empty: name a folder, or s3://bucket/prefix")
    if format_ == QUESTION_SET:
        if since is not None or until is not None:
            raise click.UsageError("--format forecastbench is of one run: name it by --run-date and --window-days")
        _export_question_set(run_date, window_days, to, blind=blind, as_json=as_json)
        return
    if run_date is not None or window_days is not None or blind:
        raise click.UsageError("--run-date, --window-days and --blind are for --format forecastbench")
    if since is None:
        raise click.UsageError("say from which day on: --since")
    settings = configured_settings()
    now = settings.clock.now()
    last = until or now.date()
    if since > last:
        raise click.UsageError(f"--since {since} is after --until {last}")
    area = _place(settings, to)
    with opened_database(settings) as engine:
        manifest = export_tables(
            engine,
            area,
            since=since,
            until=last,
            format_="jsonl" if format_ == "jsonl" else "parquet",
            now=now,
            git_sha=running_commit(settings),
            progress=_Progress(),
        )
    if as_json:
        click.echo(json.dumps(json.loads(area.read_bytes(MANIFEST)), indent=2))
    else:
        _show(manifest, settings.redact(area.uri(MANIFEST)))


def _place(settings: Settings, to: str) -> StagingArea:
    address = to if "://" in to else str(Path(to).expanduser().resolve())
    return StagingArea(address, settings.storage_options(address))


def _export_question_set(
    run_date: date | None, window_days: int | None, to: str, *, blind: bool, as_json: bool
) -> None:
    settings = configured_settings()
    with as_usage_errors(RunRefused):
        key = requested_key(settings, run_date, window_days)
    area, place = StagingArea(settings.staging, settings.staging_options), _place(settings, to)
    made = export_question_set(area, place, key, exchange=settings.exchange, blind=blind)
    address, until = settings.redact(place.uri(made.name)), utc_text(deadline(made.captured_at))
    if as_json:
        facts = {"questions": made.questions, "left_out": made.left_out, "deadline": until, "address": address}
        click.echo(json.dumps(facts, indent=2))
        return
    left_out = f", {made.left_out:,} markets without exactly two outcomes left out" if made.left_out else ""
    click.echo(f"{made.questions:,} questions{left_out}")
    click.echo(f"answers are taken until {until}")
    click.echo(address)


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
