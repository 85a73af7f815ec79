"""The manifest of a release: its contents, with a hash of each file and of each cohort's rows.

Because of the latter a manifest alone is enough to see that a later release changes nothing but resolutions.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Final

import msgspec

from predictbench_assets.dataset.files import DataFile
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RunKey
from predictbench_assets.texts import UndecodableFile, read_whole

MANIFEST: Final = "MANIFEST.json"
FORMAT: Final = "predictbench-release-1"


class ManifestUnreadable(PermanentError):
    """There is no manifest, or it is none of ours."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class HashedRows(_Record, frozen=True):
    """A cohort's rows of one table."""

    rows: int
    sha256: str
    """Hash of their JSON lines, in the order of the file."""


class ReleasedCohort(_Record, frozen=True):
    """One run of the release."""

    run_date: date
    window_days: int
    frozen_at: datetime
    """Moment at which it was released first: nothing that was stored later is in any release."""
    left_out: int
    """Forecasts that were stored after that, by later attempts."""
    digests: tuple[str, ...]
    """Digests of its forecasts, oldest first."""
    tables: Mapping[str, HashedRows]
    as_of: datetime | None = None
    """The instant that its snapshot reconstructs, which its forecasts are about; None where it was captured."""

    @property
    def key(self) -> RunKey:
        """The run."""
        return RunKey(self.run_date, self.window_days)


class Earlier(_Record, frozen=True):
    """The release that this one was checked against."""

    version: str
    manifest_sha256: str


class Manifest(_Record, frozen=True):
    """The contents of a release."""

    format: str
    """`FORMAT`, which changes with the form of this file and of the hashes in it."""
    version: str
    as_of: datetime
    """Resolutions that were observed later are not in it."""
    since: date | None
    until: date | None
    """The first and the last run date that were asked for, the last one itself included."""
    scoring_version: str
    git_sha: str | None
    previous: Earlier | None
    rows: Mapping[str, int]
    """Number of rows by table."""
    files: tuple[DataFile, ...]
    """All files but the manifest."""
    experiments: Mapping[str, str]
    """SHA-256 of the row of each version of each experiment, by name and version."""
    cohorts: tuple[ReleasedCohort, ...]
    exchange: str | None = None
    """The host that the markets were read from; not known of releases of before it was written down."""
    knowledge_cutoffs: Mapping[str, date] = msgspec.field(default_factory=dict)
    """The last day of which an experiment may know by itself, by name and version; those without one are not in it."""
    simulated: bool = False
    """True for a simulated exchange: nothing in the release is about the real world."""

    def encoded(self) -> bytes:
        """Encode the record as the bytes of its file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_manifest(place: Path) -> Manifest:
    """The manifest of a release, given its folder or the manifest itself.

    Raises:
        ManifestUnreadable: see there.
    """
    path = manifest_of(place)
    try:
        manifest = msgspec.json.decode(read_whole(path), type=Manifest)
    except UndecodableFile as error:
        raise ManifestUnreadable(f"{error}: name the folder of a release") from error
    except OSError as error:
        raise ManifestUnreadable(f"{path} cannot be read ({error.strerror}): name the folder of a release") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestUnreadable(f"{path} is not the manifest of a release: {on_one_line(str(error))}") from error
    if manifest.format != FORMAT:
        raise ManifestUnreadable(
            f"{path} is of format {manifest.format!r}, this version of Predictbench knows {FORMAT}"
        )
    return manifest


def manifest_of(place: Path) -> Path:
    """The manifest's path, given that of the folder or its own."""
    return place / MANIFEST if place.is_dir() else place


def changes(earlier: Manifest, later: Manifest) -> Iterator[str]:
    """Differences of a later release from an earlier one but for resolutions and scores: a sentence for each."""
    if later.version == earlier.version:
        yield f"the version {later.version} was released before: name another one with --version"
    if later.as_of < earlier.as_of:
        yield f"the earlier release is as of {earlier.as_of.isoformat()}, which is later"
    for name, row in earlier.experiments.items():
        if name not in later.experiments:
            yield f"the experiment {name} is gone"
        elif later.experiments[name] != row:
            yield f"the experiment {name} is described otherwise: what is released keeps its description"
    cohorts = {cohort.key: cohort for cohort in later.cohorts}
    for cohort in earlier.cohorts:
        if cohort.key not in cohorts:
            yield f"the cohort {cohort.key} is gone: it is not stored any more, or --since and --until leave it out"
        else:
            yield from _changes_of_cohort(cohort, cohorts[cohort.key])


def _changes_of_cohort(earlier: ReleasedCohort, later: ReleasedCohort) -> Iterator[str]:
    for table, was in earlier.tables.items():
        now = later.tables.get(table)
        if now is None:
            yield f"the cohort {earlier.key} has no {table} any more"
        elif now.rows != was.rows:
            yield f"the cohort {earlier.key} has {now.rows:,} rows of {table}, it had {was.rows:,}"
        elif now.sha256 != was.sha256:
            yield f"the cohort {earlier.key} has other rows of {table}, as many as it had"
