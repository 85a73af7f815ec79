"""Retention of Dagster's own runs and event logs: Dagster's `retention:` clears ticks only.

The UI knows a partition by its run's events. Deleted, they take the logs and the metadata with them; the fact that the
partition was materialized is kept, in the summary that Dagster caches for each asset and extends with new events only.
So that summary is brought up to date before anything is deleted. The newest materialization of an asset stays whatever
its age, and with it what freshness is judged by.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage  # not exported

from predictbench_assets.instance.storage import classified
from predictbench_assets.launch.commands import prepare_home
from predictbench_assets.partitions import run_partitions
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.settings import Settings

RUNS = "Dagster's runs with their event logs"

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
_PAGE = 200

_log = logging.getLogger(__name__)


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance | None]:
    """The instance that runs of these settings are recorded in; None where there has never been one.

    Raises:
        DagsterStorageError: here or in the block, its storage in Postgres was not reached or refused.
    """
    secret = settings.dagster_postgres_url
    home = settings.home / "dagster"
    if secret is None and not home.is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="predictbench-dagster-") as temporary:
        if secret is not None:
            # Read by Dagster itself, from the place in its configuration.
            os.environ["DAGSTER_POSTGRES_URL"] = secret.get_secret_value()
            home = Path(temporary)
        config = str(prepare_home(settings, home))
        with classified(settings), dg.DagsterInstance.from_config(config) as instance:
            yield instance


def prune_runs(instance: dg.DagsterInstance, *, now: datetime, days: int, dry_run: bool = False) -> Pruned:
    """Delete finished runs that were made more than `days` ago, with their events and their compute logs.

    Runs that hold the newest materialization of an asset stay, and runs that have not ended.
    """
    pruned = Pruned(RUNS, bytes=None)
    before = now - timedelta(days=days)
    newest = _newest_materializations(instance)
    old = [run for run in _run_ids(instance, _FINISHED, before) if run not in newest]
    pruned.add(len(old), 0)
    pruned.kept = len(_run_ids(instance, _UNFINISHED, before))
    if pruned.kept:
        pruned.notes.append(
            "a run that never ended died with its machine: a daemon's run monitoring ends it, or a person in the UI"
        )
    if old and not dry_run:
        _remember_partitions(instance)
        for number, run_id in enumerate(old, start=1):
            _delete(instance, run_id)
            if number % _PAGE == 0:
                _log.info("%s of %s runs of Dagster's are deleted", f"{number:,}", f"{len(old):,}")
    return pruned


def _run_ids(instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus], before: datetime) -> list[str]:
    filters = dg.RunsFilter(statuses=statuses, created_before=before)
    found: list[str] = []
    while page := instance.get_run_ids(filters, cursor=found[-1] if found else None, limit=_PAGE):
        found.extend(page)
    return found


def _newest_materializations(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the runs with the newest materialization of each asset."""
    events = (instance.get_latest_materialization_event(key) for key in instance.all_asset_keys())
    return {event.run_id for event in events if event is not None}


def _remember_partitions(instance: dg.DagsterInstance) -> None:
    """Have Dagster note the materialized partitions of each asset while their events are there."""
    for key in instance.all_asset_keys():
        if partitions := instance.get_materialized_partitions(key):
            instance.get_status_by_partition(key, sorted(partitions), run_partitions)


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """The run's row after its events: one that is cut short here is found again the next time."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    events = instance.event_log_storage
    events.delete_events(run_id)
    instance.delete_run(run_id)
    if isinstance(events, SqliteEventLogStorage):  # one file a run; emptied, it would stay
        Path(events.path_for_shard(run_id)).unlink(missing_ok=True)
