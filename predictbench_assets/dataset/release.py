"""A release: the benchmark's data as files that stay as they are, a version at a time.

What a release has of a cohort is what had been stored when the cohort was released first. So from one release to the
next nothing can change but resolutions and the scores that follow from them; where something has, nothing is released.
"""

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from sqlalchemy import Engine

from predictbench_assets.dataset.card import CARD, NOTICE, dataset_card, license_notice
from predictbench_assets.dataset.files import RELEASED_FORMATS, TableWriter, described, sha256_of
from predictbench_assets.dataset.manifest import (
    FORMAT,
    MANIFEST,
    Earlier,
    HashedRows,
    Manifest,
    ReleasedCohort,
    changes,
    manifest_of,
    read_manifest,
)
from predictbench_assets.dataset.stored_tables import RunToRead, StoredTables, stored_tables
from predictbench_assets.dataset.tables import RELEASED_DIGESTS, RELEASED_EXPERIMENTS, RELEASED_TABLES
from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.stored_runs import stored_exchange
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring import rules

VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")

_SHOWN_CHANGES: Final = 10


class NothingToRelease(PermanentError):
    """No complete run is stored of the days asked for."""


class ReleaseExists(PermanentError):
    """The folder of the release is there already."""


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
        with stored_tables(engine, as_of) as stored:
            written = _write(stored, partial, _runs(stored, since, until, as_of, earlier))
            cutoffs = stored.knowledge_cutoffs()
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
            files=tuple(
                described(path, written.rows.get(path.name.partition(".")[0])) for path in sorted(partial.iterdir())
            ),
            experiments=written.experiments,
            cohorts=tuple(written.cohorts),
            exchange=exchange,
            knowledge_cutoffs={name: day for name, day in cutoffs.items() if name in written.experiments},
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
    stored: StoredTables, since: date | None, until: date | None, as_of: datetime, earlier: Manifest | None
) -> list[RunToRead]:
    frozen = {} if earlier is None else {cohort.key: cohort.frozen_at for cohort in earlier.cohorts}
    counted = stored.counted_runs(since, until)
    runs = [replace(run, frozen_at=frozen.get(run.key, as_of)) for run in counted]
    if not runs:
        days = f"from {since or 'the first'} to {until or 'the last'}"
        raise NothingToRelease(f"no run of the days {days} was complete by {as_of.isoformat()}: nothing to release")
    return runs


@dataclass
class _Written:
    """The tables in the folder, as the manifest describes them."""

    rows: dict[str, int]
    experiments: dict[str, str]
    cohorts: list[ReleasedCohort]


def _write(stored: StoredTables, folder: Path, runs: Sequence[RunToRead]) -> _Written:
    """Write all tables of a release into a folder."""
    written = _Written({}, {}, [])
    digests: dict[RunKey, list[str]] = {run.key: [] for run in runs}
    hashed: dict[RunKey, dict[str, HashedRows]] = {run.key: {} for run in runs}
    for table in RELEASED_TABLES:
        hashes = {run.key: hashlib.sha256() for run in runs}
        counts = dict.fromkeys(hashes, 0)
        with TableWriter(folder, table, RELEASED_FORMATS) as writer:
            for run, rows in stored.read(table, runs):
                lines = writer.write(rows)
                if run is not None and table.frozen:
                    hashes[run.key].update(lines)
                    counts[run.key] += len(rows)
                if run is not None and table is RELEASED_DIGESTS:
                    digests[run.key] += [row.digest for row in rows]
                if table is RELEASED_EXPERIMENTS:
                    for row, line in zip(rows, lines.splitlines(keepends=True), strict=True):
                        written.experiments[f"{row.experiment} {row.version}"] = hashlib.sha256(line).hexdigest()
        written.rows[table.name] = writer.rows
        if table.frozen:
            for key, found in hashes.items():
                hashed[key][table.name] = HashedRows(rows=counts[key], sha256=found.hexdigest())
    written.cohorts = [
        ReleasedCohort(
            run_date=run.key.run_date,
            window_days=run.key.window_days,
            frozen_at=run.frozen_at,
            left_out=stored.left_out(run),
            digests=tuple(digests[run.key]),
            tables=hashed[run.key],
            as_of=run.as_of,
        )
        for run in runs
    ]
    return written


def _named(previous: Path) -> Earlier:
    path = manifest_of(previous)
    return Earlier(version=read_manifest(path).version, manifest_sha256=sha256_of(path))


def _refuse_changes(earlier: Manifest, later: Manifest) -> None:
    found = list(changes(earlier, later))
    if not found:
        return
    shown = "\n".join(f"- {on_one_line(one)}" for one in found[:_SHOWN_CHANGES])
    more = f"\n- and {len(found) - _SHOWN_CHANGES:,} more" if len(found) > _SHOWN_CHANGES else ""
    raise ReleaseChanged(
        f"only resolutions may change after release {earlier.version}, and there is more, so nothing was released:\n"
        f"{shown}{more}"
    )
