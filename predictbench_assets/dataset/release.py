"""A release: the benchmark's data as files that stay as they are, a version at a time.

What a release has of a cohort is what had been stored when the cohort was released first. So from one release to the
next nothing can change but resolutions and the scores that follow from them; where something has, nothing is released.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, Engine

from predictbench_assets.database.errors import classified
from predictbench_assets.dataset.card import CARD, dataset_card
from predictbench_assets.dataset.documents import NOTICE, license_notice
from predictbench_assets.dataset.frozen_files import TableWriter, sha256_of
from predictbench_assets.dataset.frozen_rows import StoredRun, StoredTables
from predictbench_assets.dataset.frozen_tables import (
    FROZEN_TABLES,
    RELEASED_DIGESTS,
    RELEASED_EXPERIMENTS,
    RELEASED_RESOLUTIONS,
    RELEASED_SCORES,
)
from predictbench_assets.dataset.manifest import (
    FORMAT,
    MANIFEST,
    Cohort,
    Earlier,
    HashedRows,
    Manifest,
    ReleasedFile,
    changes,
    manifest_of,
    read_manifest,
)
from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.stored_runs import stored_exchange
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring import rules

VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")

_SHOWN_CHANGES: Final = 10


class NothingToRelease(PermanentError):
    """No complete run is stored of the days asked for."""


class ReleaseExists(PermanentError):
    """Where the release is to go there is something already."""


class ReleaseChanged(PermanentError):
    """Something else than resolutions is otherwise than in the earlier release."""


class ReleaseUnwritable(PermanentError):
    """The place where the release is to go does not take it."""


def make_release(
    engine: Engine,
    output: Path,
    *,
    as_of: datetime,
    version: str,
    git_sha: str | None,
    since: date | None = None,
    until: date | None = None,
    previous: Path | None = None,
) -> Manifest:
    """Write a release of the complete runs into a new folder, whole or not at all.

    The same moment gives the same bytes. All tables are read in one read-only transaction.

    Args:
        output: must not be there yet.
        as_of: runs that ended and resolutions that were observed later are not in it.
        since: the first run date; default: that of the earlier release, or the first stored.
        until: the last run date, itself included.
        previous: an earlier release, or its manifest: its cohorts must be as they were.

    Raises:
        NothingToRelease, ReleaseExists, ReleaseChanged, ReleaseUnwritable: nothing was written.
        ManifestUnreadable: `previous` is no release.
        DatabaseUnavailable, DatabaseRefused: nothing was written.
    """
    if output.exists():
        raise ReleaseExists(f"{output} is there already, and a release is never overwritten: name a new folder")
    earlier = None if previous is None else read_manifest(previous)
    if since is None and earlier is not None:
        since = earlier.since
    exchange = stored_exchange(engine)
    simulated = is_simulated(exchange)
    partial = output.parent / f".{output.name}.partial-{uuid4().hex[:12]}"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        with classified(), engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            written = _Writing(connection, partial, as_of).write(_runs(connection, since, until, as_of, earlier))
        card = dataset_card(
            version=version,
            as_of=as_of,
            rows=written.rows,
            cohorts=written.cohorts,
            experiments=list(written.experiments),
            simulated=simulated,
        )
        (partial / CARD).write_text(card, encoding="utf-8")
        (partial / NOTICE).write_text(license_notice(simulated=simulated), encoding="utf-8")
        manifest = Manifest(
            format=FORMAT,
            version=version,
            as_of=as_of,
            since=since,
            until=until,
            scoring_version=rules.SCORING_VERSION,
            git_sha=git_sha,
            previous=None if previous is None else _named(previous),
            rows=written.rows,
            files=tuple(_described(path, written.rows) for path in sorted(partial.iterdir())),
            experiments=written.experiments,
            cohorts=tuple(written.cohorts),
            exchange=exchange,
            simulated=simulated,
        )
        if earlier is not None:
            _refuse_changes(earlier, manifest)
        (partial / MANIFEST).write_bytes(manifest.encoded())
        partial.rename(output)
    except OSError as error:
        raise ReleaseUnwritable(
            f"the release cannot be written to {output} ({error}): see to the space and the rights there"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _runs(
    connection: Connection, since: date | None, until: date | None, as_of: datetime, earlier: Manifest | None
) -> list[StoredRun]:
    frozen = {} if earlier is None else {cohort.key: cohort.frozen_at for cohort in earlier.cohorts}
    counted = StoredTables(connection, as_of).counted_runs(since, until)
    runs = [replace(run, frozen_at=frozen.get(run.key, as_of)) for run in counted]
    if not runs:
        days = f"from {since or 'the first'} to {until or 'the last'}"
        raise NothingToRelease(f"no run of the days {days} was complete by {as_of.isoformat()}: nothing to release")
    return runs


class _Writing:
    """Writes the tables of a release into a folder."""

    def __init__(self, connection: Connection, folder: Path, as_of: datetime) -> None:
        self._stored = StoredTables(connection, as_of)
        self._folder = folder
        self.rows: dict[str, int] = {}
        self.experiments: dict[str, str] = {}
        self.cohorts: list[Cohort] = []

    def write(self, runs: Sequence[StoredRun]) -> "_Writing":
        """Write all tables, and keep what the manifest says of them."""
        digests: dict[RunKey, list[str]] = {run.key: [] for run in runs}
        tables: dict[RunKey, dict[str, HashedRows]] = {run.key: {} for run in runs}
        for table in FROZEN_TABLES:
            with TableWriter(self._folder, table) as writer:
                for run in runs:
                    hashed, before = hashlib.sha256(), writer.rows
                    for rows in self._stored.of_run(table, run):
                        hashed.update(writer.write(rows))
                        if table is RELEASED_DIGESTS:
                            digests[run.key] += [row.digest for row in rows]
                    tables[run.key][table.name] = HashedRows(rows=writer.rows - before, sha256=hashed.hexdigest())
                self.rows[table.name] = writer.rows
        self._write_experiments(runs)
        self._write_resolutions(runs)
        self._write_scores(runs)
        self.cohorts = [
            Cohort(
                run_date=run.key.run_date,
                window_days=run.key.window_days,
                frozen_at=run.frozen_at,
                left_out=self._stored.left_out(run),
                digests=tuple(digests[run.key]),
                tables=tables[run.key],
            )
            for run in runs
        ]
        return self

    def _write_experiments(self, runs: Sequence[StoredRun]) -> None:
        with TableWriter(self._folder, RELEASED_EXPERIMENTS) as writer:
            for rows in self._stored.of_runs(RELEASED_EXPERIMENTS, runs):
                for row in rows:
                    line = writer.write([row])
                    self.experiments[f"{row.experiment} {row.version}"] = hashlib.sha256(line).hexdigest()
            self.rows[RELEASED_EXPERIMENTS.name] = writer.rows

    def _write_resolutions(self, runs: Sequence[StoredRun]) -> None:
        with TableWriter(self._folder, RELEASED_RESOLUTIONS) as writer:
            for rows in self._stored.of_runs(RELEASED_RESOLUTIONS, runs):
                writer.write(rows)
            self.rows[RELEASED_RESOLUTIONS.name] = writer.rows

    def _write_scores(self, runs: Sequence[StoredRun]) -> None:
        with TableWriter(self._folder, RELEASED_SCORES) as writer:
            for run in runs:
                for rows in self._stored.of_run(RELEASED_SCORES, run):
                    writer.write(rows)
            self.rows[RELEASED_SCORES.name] = writer.rows


def _described(path: Path, rows: Mapping[str, int]) -> ReleasedFile:
    table = path.name.partition(".")[0]
    return ReleasedFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path), rows=rows.get(table))


def _named(previous: Path) -> Earlier:
    path = manifest_of(previous)
    return Earlier(version=read_manifest(path).version, manifest_sha256=sha256_of(path))


def _refuse_changes(earlier: Manifest, later: Manifest) -> None:
    found = list(changes(earlier, later))
    if not found:
        return
    shown = "\n".join(f"- {one}" for one in found[:_SHOWN_CHANGES])
    more = f"\n- and {len(found) - _SHOWN_CHANGES:,} more" if len(found) > _SHOWN_CHANGES else ""
    raise ReleaseChanged(
        f"only resolutions may change after release {earlier.version}, and there is more, so nothing was released:\n"
        f"{shown}{more}"
    )
