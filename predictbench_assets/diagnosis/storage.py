"""Checks of what is stored beside the database: staging, the archive, and Dagster's own storage."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from predictbench_assets import web
from predictbench_assets.diagnosis.checks import Finding, failed, megabytes
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea

PROBE = ".doctor-"
"""Beginning of the name of the one file that doctor writes, and removes."""

_TIMEOUT_S = 6.0
"""Twice as long, for a write and the removal after it, is within the limit of a check."""
_CREDENTIALS = "check STAGING_URI, STAGING_S3_ENDPOINT_URL, STAGING_S3_ACCESS_KEY_ID and STAGING_S3_SECRET_ACCESS_KEY"


def staging_findings(settings: Settings) -> Iterator[Finding]:
    """Write, read and delete one small file; a folder that does not exist yet is only looked at."""
    area = StagingArea(settings.staging, _impatient(settings))
    if not area.is_local:
        web.check_store_environment()
    if area.is_local and not Path(area.root).is_dir():
        yield _local_folder("staging", Path(area.root), "STAGING_URI or PREDICTBENCH_HOME")
        return
    name, content = f"{PROBE}{uuid4().hex}", uuid4().bytes
    try:
        try:
            area.write_bytes(name, content)
            found = area.read_bytes(name)
        finally:
            area.delete(name)
    except PredictbenchError as error:
        yield failed("staging", error)
        return
    except Exception as error:  # each store raises its own
        message = " ".join(str(error).split())
        yield Finding("fail", "staging", f"{settings.staging}: {type(error).__name__}: {message}", _CREDENTIALS)
        return
    if found != content or area.exists(name):
        yield Finding("fail", "staging", f"{settings.staging} does not hold what is written to it", _CREDENTIALS)
    else:
        yield Finding("ok", "staging", f"{settings.staging}: written, read, deleted")


def archive_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the archive's place can be read. Nothing is written to it."""
    area = StagingArea(settings.archive, _impatient(settings))
    if area.is_local:
        yield _local_folder("archive", Path(area.root), "ARCHIVE_URI")
        return
    bucket = area.root.partition("/")[0]
    try:
        there = area.fs.exists(area.root)
        # The bucket of the staging area is written to anyway; its root need not be open to us.
        if not there and bucket != settings.staging.partition("://")[2].partition("/")[0]:
            area.fs.ls(bucket)
    except PredictbenchError as error:
        yield failed("archive", error)
        return
    except Exception as error:
        message = " ".join(str(error).split())
        yield Finding(
            "fail", "archive", f"{settings.archive}: {type(error).__name__}: {message}", f"{_CREDENTIALS}, ARCHIVE_URI"
        )
        return
    yield Finding("ok", "archive", settings.archive if there else f"{settings.archive}: nothing archived yet")


def dagster_findings(settings: Settings) -> Iterator[Finding]:
    """Check that Dagster's storage is there and fits the installed Dagster."""
    # Dagster takes a second to import.
    from predictbench_assets.instance.storage import DagsterStorageError, check_dagster_storage

    name = "Dagster's storage"
    try:
        storage = check_dagster_storage(settings)
    except DagsterStorageError as error:
        yield failed(name, error, "check DAGSTER_POSTGRES_URL (session pooler or direct connection)")
        return
    if storage.kind == "sqlite":
        if settings.deployed:
            found = "SQLite on this machine: what runs did is gone with it, and no UI elsewhere shows it"
            yield Finding("warn", name, found, "set DAGSTER_POSTGRES_URL (session pooler or direct connection)")
        else:
            yield Finding("ok", name, f"SQLite below {settings.home}")
        return
    where = f"Postgres, schema {storage.schema}"
    match storage.state:
        case "absent":
            yield Finding("warn", name, f"{where}: no tables yet, the first run makes them")
        case "behind":
            yield Finding("fail", name, f"{where}: older than the installed Dagster", "dagster instance migrate")
        case "ahead":
            found = f"{where}: a newer Dagster has migrated it"
            yield Finding("fail", name, found, "install the Dagster that the other machines use: `make setup`")
        case "current":
            counts = f"{storage.runs:,} runs, {storage.events:,} events, {megabytes(storage.bytes)}"
            yield Finding("ok", name, f"{where}: {counts}")


def _impatient(settings: Settings) -> dict[str, Any]:
    """The options of the stores, with short time-outs where one is reached over the network."""
    options = settings.staging_options
    return options | {"time_limit": min(_TIMEOUT_S, settings.staging_timeout_seconds)} if options else {}


def _local_folder(name: str, folder: Path, setting: str) -> Finding:
    """A folder here, or the one that it would be made in."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("fail", name, f"{folder}: {there} may not be written to", f"correct {setting}")
    return Finding("ok", name, str(folder) if there == folder else f"{folder}: made when it is needed")
