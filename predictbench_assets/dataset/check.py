"""Checks a release by itself, without a database: its files, its two formats, and the digests of its forecasts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import msgspec

from predictbench_assets.dataset.files import RELEASED_FORMATS, file_of, line_of, read_lines, read_parquet, sha256_of
from predictbench_assets.dataset.manifest import MANIFEST, Manifest, ReleasedCohort, read_manifest
from predictbench_assets.dataset.tables import LEAKED, RELEASED_DIGESTS, RELEASED_FORECASTS, RELEASED_TABLES, Table
from predictbench_assets.experiments.digest import ALGORITHM, DigestedForecast, ForecastHasher
from predictbench_assets.runs import RunKey


@dataclass(frozen=True)
class CheckedRelease:
    """Findings of a check."""

    manifest: Manifest
    manifest_sha256: str
    """The one number that stands for the whole release."""
    digests: int
    """Number of digests that were computed again."""
    forecasts: int
    """Rows of forecasts."""
    problems: tuple[str, ...]


class _Cohort(msgspec.Struct):
    run_date: date
    window_days: int


class _Digest(_Cohort):
    digest: str
    algorithm: str
    forecasts: int
    made_at: datetime


class _Forecast(_Cohort):
    experiment: str
    version: str
    attempt: int
    market_id: str
    probability: float | None
    forecast_at: datetime | None
    snapshot_hash: str | None
    config_hash: str | None
    status: str
    stored_at: datetime | None


_DIGESTED: Final = slice(2, 10)
"""Fields of `_Forecast` that a digest holds, in its order."""


@dataclass
class _Checking:
    folder: Path
    manifest: Manifest
    problems: list[str] = field(default_factory=list)
    digests: dict[RunKey, list[tuple[_Digest, ForecastHasher]]] = field(default_factory=dict)
    forecasts: int = 0

    def files(self) -> bool:
        """Compare the files with the manifest; returns False where a table is missing."""
        named = {file.name: file for file in self.manifest.files}
        found = {path.name: path.is_file() for path in self.folder.iterdir() if path.name != MANIFEST}
        there = {name for name, is_file in found.items() if is_file}  # a pipe would be waited for
        self.problems += [f"{name} is no file" for name in sorted(found.keys() - there)]
        self.problems += [f"{name} is missing" for name in sorted(named.keys() - found.keys())]
        self.problems += [f"{name} is not in the manifest" for name in sorted(there - named.keys())]
        for name in sorted(named.keys() & there):
            if sha256_of(self.folder / name) != named[name].sha256:
                self.problems.append(f"{name} is not as it was released: its SHA-256 is another one")
        wanted = {file_of(self.folder, table, one).name for table in RELEASED_TABLES for one in RELEASED_FORMATS}
        self.problems += [f"{name} is not in the release" for name in sorted(wanted - named.keys())]
        return wanted <= there

    def readable(self, table: Table) -> bool:
        """Check a table; returns False where its files cannot be read as one, which is a problem like the others."""
        try:
            self.table(table)
        except Exception as error:  # libraries raise what they like of bytes that somebody else has chosen
            self.problems.append(f"{table.name} cannot be read: {type(error).__name__}: {error}")
            return False
        return True

    def table(self, table: Table) -> None:
        """Compare the formats with each other, and the rows of each cohort with the manifest."""
        hashes: dict[RunKey, Any] = {}
        rows = 0
        for line in self._lines(table):
            rows += 1
            if table.frozen:
                cohort = msgspec.json.decode(line, type=_Cohort)
                hashes.setdefault(RunKey(cohort.run_date, cohort.window_days), hashlib.sha256()).update(line)
            if table is RELEASED_DIGESTS:
                self._expect(msgspec.json.decode(line, type=_Digest))
            if table is RELEASED_FORECASTS:
                self._digest(msgspec.json.decode(line, type=_Forecast))
        released = self.manifest.rows.get(table.name)
        if rows != released:
            stated = "nothing of it" if released is None else f"{released:,}"
            self.problems.append(f"{table.name} has {rows:,} rows, the manifest says {stated}")
        if table.frozen:
            self._compare(table, hashes)

    def conclude(self) -> int:
        """Compare the digests, once the forecasts were read; returns how many there are."""
        checked = 0
        for cohort in self.manifest.cohorts:
            expected = self.digests.pop(cohort.key, [])
            if tuple(digest.digest for digest, _ in expected) != cohort.digests:
                self.problems.append(f"the digests of the cohort {cohort.key} are not those of the manifest")
            for digest, hasher in _of_one_instant(expected):
                checked += 1
                found = hasher.made_at(digest.made_at)
                if digest.algorithm != ALGORITHM:
                    self.problems.append(f"the digest of {cohort.key} is of the unknown algorithm {digest.algorithm}")
                elif (found.digest, found.forecasts) != (digest.digest, digest.forecasts):
                    self.problems.append(
                        f"the {found.forecasts:,} forecasts of {cohort.key} come to the digest {found.digest}, "
                        f"not to {digest.digest} of {digest.forecasts:,}"
                    )
        self.problems += [f"{key} has digests and is no cohort of the manifest" for key in self.digests]
        return checked

    def _lines(self, table: Table) -> Iterator[bytes]:
        names = [column.name for column in table.columns]
        from_parquet = (line_of(names, row) for row in read_parquet(self.folder, table))
        same = True
        for line, other in zip_longest(read_lines(self.folder, table), from_parquet):
            if line != other and same:
                same = False
                self.problems.append(f"{table.name}.parquet and {table.name}.jsonl.zst do not have the same rows")
            if line is not None:
                yield line

    def _expect(self, digest: _Digest) -> None:
        key = RunKey(digest.run_date, digest.window_days)
        self.digests.setdefault(key, []).append((digest, ForecastHasher(key)))

    def _digest(self, forecast: _Forecast) -> None:
        self.forecasts += 1
        if forecast.status not in ("completed", LEAKED) or forecast.probability is None:
            return
        line = DigestedForecast(*msgspec.structs.astuple(forecast)[_DIGESTED]).line()
        for digest, hasher in self.digests.get(RunKey(forecast.run_date, forecast.window_days), ()):
            if forecast.stored_at is None or forecast.stored_at <= digest.made_at:
                hasher.update(line)

    def _compare(self, table: Table, hashes: dict[RunKey, Any]) -> None:
        for cohort in self.manifest.cohorts:
            found = hashes.pop(cohort.key, hashlib.sha256()).hexdigest()
            if table.name not in cohort.tables or cohort.tables[table.name].sha256 != found:
                self.problems.append(
                    f"the rows of {table.name} of the cohort {cohort.key} are not those of the manifest"
                )
        self.problems += [f"{table.name} has rows of {key}, which is no cohort of the manifest" for key in hashes]


def check_release(folder: Path) -> CheckedRelease:
    """Check the files against the manifest, both formats against each other, and compute the digests again.

    Raises:
        ManifestUnreadable: the folder is no release.
    """
    manifest = read_manifest(folder)
    checking = _Checking(folder, manifest)
    digests = 0
    if checking.files():
        tables = (RELEASED_DIGESTS, *(one for one in RELEASED_TABLES if one is not RELEASED_DIGESTS))
        read = [checking.readable(table) for table in tables]
        if all(read):
            digests = checking.conclude()
    return CheckedRelease(manifest, sha256_of(folder / MANIFEST), digests, checking.forecasts, tuple(checking.problems))


def _of_one_instant(expected: list[tuple[_Digest, ForecastHasher]]) -> Iterator[tuple[_Digest, ForecastHasher]]:
    """The digests to compare: of several of one instant, by a clock that stands still, the last has all forecasts."""
    newest: dict[datetime, tuple[_Digest, ForecastHasher]] = {digest.made_at: (digest, one) for digest, one in expected}
    yield from newest.values()


def released_digests(cohorts: tuple[ReleasedCohort, ...]) -> set[str]:
    """Set of all digests of a release."""
    return {digest for cohort in cohorts for digest in cohort.digests}
