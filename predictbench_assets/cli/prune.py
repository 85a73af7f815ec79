"""`predictbench prune`: what is old leaves the database, the staging area and Dagster's storage."""

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from sqlalchemy import Engine

from predictbench_assets.cli.options import as_usage_errors, configured_settings, demo_option
from predictbench_assets.database.connection import opened_database
from predictbench_assets.failures import TransientError
from predictbench_assets.observability.console import print_item, print_table
from predictbench_assets.printable import on_one_line
from predictbench_assets.reporting.output import size
from predictbench_assets.retention.local_files import prune_artifacts, prune_leftovers
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.raw_snapshots import prune_raw_snapshots, restore_raw_snapshots, verify_archives
from predictbench_assets.retention.staged_files import archive_snapshots, prune_journals, prune_staged
from predictbench_assets.runs import UnknownPartition, parsed_key
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea

Part = Literal["raw", "staging", "journals", "dagster"]
PARTS: tuple[Part, ...] = ("raw", "staging", "journals", "dagster")

_log = logging.getLogger(__name__)


@click.command(
    epilog="""\
\b
Examples:
  predictbench prune --dry-run
  predictbench prune --only raw --only dagster
  predictbench prune --verify                  read all archives again
  predictbench prune --restore 1234567         a market's raw snapshots, back
  predictbench prune --restore "2026-11-23|7"  those of a run
""",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--only", "parts", multiple=True, type=click.Choice(PARTS), help="Only this part (repeatable).  [default: all]"
)
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, help="The most rows in a transaction.")
@click.option("--verify", is_flag=True, help="Read all archives again instead; exit code 1 if one is damaged.")
@click.option("--restore", metavar="WHAT", help="Put raw snapshots back instead: of a market (its id), or of a run.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@demo_option
def prune(dry_run: bool, parts: tuple[Part, ...], batch: int, verify: bool, restore: str | None, as_json: bool) -> None:
    """Archive and remove what is old.

    \b
    raw       raw snapshots of markets that are final since RAW_RETENTION_DAYS
              go to ARCHIVE_URI
    staging   staged files and folders of runs older than
              STAGING_RETENTION_DAYS go; frozen snapshots go to ARCHIVE_URI
    journals  journals of experiments older than STAGING_RETENTION_DAYS go
    dagster   Dagster's runs and event logs older than DAGSTER_RETENTION_DAYS go

    Nothing leaves the database before its archive was read back. What is cut short goes on the next time.
    """
    if sum((dry_run, verify, restore is not None)) > 1:
        raise click.UsageError("--dry-run, --verify and --restore exclude each other")
    if parts and (verify or restore is not None):
        raise click.UsageError("--only is for pruning: --verify reads all archives, --restore says itself what")
    settings = configured_settings()
    dry_run = dry_run or settings.predictbench_dry_run
    if dry_run and restore is not None:
        raise click.UsageError("--restore writes to the database, which PREDICTBENCH_DRY_RUN forbids")
    with opened_database(settings) as engine, _folders():
        if verify:
            sys.exit(_verify(settings, engine, as_json=as_json))
        if restore is not None:
            _restore(settings, engine, restore, as_json=as_json)
            return
        lines = _prune(settings, engine, parts or PARTS, batch=batch, dry_run=dry_run)
    _show(lines, dry_run=dry_run, as_json=as_json)


class FolderFailed(TransientError):
    """The folder of staging or the archive does not take, or give, what is asked; what was done before stays done."""


@contextmanager
def _folders() -> Iterator[None]:
    """Errors of folders, as one that names their settings; an object store's name their settings already."""
    try:
        yield
    except OSError as error:
        raise FolderFailed(
            f"{type(error).__name__}: {error}. Check STAGING_URI, ARCHIVE_URI, and the rights and the space there; "
            "then run `predictbench prune` again, it goes on where it stopped."
        ) from error


def _prune(settings: Settings, engine: Engine, parts: Sequence[Part], *, batch: int, dry_run: bool) -> list[Pruned]:
    area = StagingArea(settings.staging, settings.staging_options)
    archive = StagingArea(settings.archive, settings.staging_options)
    common: dict[str, Any] = {"now": settings.clock.now(), "dry_run": dry_run}
    staging_days, raw_days = settings.staging_retention_days, settings.raw_retention_days
    lines = []
    if "raw" in parts:
        lines.append(prune_raw_snapshots(engine, archive, days=raw_days, batch=batch, **common))
    if "staging" in parts:
        lines.append(archive_snapshots(engine, area, archive, days=staging_days, settled_days=raw_days, **common))
        lines.append(prune_staged(engine, area, days=staging_days, **common))
        lines.append(prune_artifacts(settings.artifacts, days=staging_days, **common))
        folders = [Path(one.root) for one in (area, archive) if one.is_local]
        lines.append(prune_leftovers(folders, Path(tempfile.gettempdir()), **common))
    if "journals" in parts:
        lines.append(prune_journals(engine, area, days=staging_days, **common))
    if "dagster" in parts:
        # Loads Dagster, which takes longer than the help of this command may.
        from predictbench_assets.instance.run_retention import RUNS, dagster_instance, prune_runs

        with dagster_instance(settings) as instance:
            if instance is not None:
                lines.append(prune_runs(instance, days=settings.dagster_retention_days, **common))
            else:
                nowhere = "no run was made on this machine, and DAGSTER_POSTGRES_URL names no other storage"
                lines.append(Pruned(RUNS, notes=[nowhere]))
    return lines


def _verify(settings: Settings, engine: Engine, *, as_json: bool) -> int:
    found = verify_archives(engine, StagingArea(settings.archive, settings.staging_options))
    problems = [settings.redact(problem) for problem in found.problems]
    if as_json:
        click.echo(json.dumps({"archives": found.archives, "rows": found.rows, "problems": problems}, indent=2))
    else:
        for line in (f"{found.archives:,} archives with {found.rows:,} raw snapshots", *problems):
            print_item("", on_one_line(line))
    return 1 if problems else 0


def _restore(settings: Settings, engine: Engine, what: str, *, as_json: bool) -> None:
    archive = StagingArea(settings.archive, settings.staging_options)
    with as_usage_errors(UnknownPartition):
        selection: dict[str, Any] = {"key": parsed_key(what)} if "|" in what else {"market_id": what}
    restored = restore_raw_snapshots(engine, archive, **selection)
    if as_json:
        click.echo(json.dumps({"restored": restored}))
    else:
        click.echo(f"{restored:,} raw snapshots are in the database again, until the next prune")


def _show(lines: list[Pruned], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        pruned = [
            {"what": one.what, "count": one.count, "bytes": one.bytes, "kept": one.kept, "notes": one.notes}
            for one in lines
        ]
        click.echo(json.dumps({"dry_run": dry_run, "pruned": pruned}, indent=2))
        return

    rows = []
    for one in lines:
        room = "?" if one.bytes is None else size(one.bytes)
        rows.append((one.what, f"{one.count:,}", room if one.count else "", f"{one.kept:,}" if one.kept else ""))
    print_table(("what", "would go" if dry_run else "gone", "size", "kept"), rows)
    for one in lines:
        for note in one.notes:
            print_item(f"{one.what}: ", on_one_line(note))
