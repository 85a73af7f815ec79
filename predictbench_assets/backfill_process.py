"""The child process of a backfill: several runs of the daily job one after another, see `launch.backfill`.

A process for each run imports everything again, which takes longer than a small run does. Each run is otherwise what
`dagster job execute` makes of it: the same job, executor, lease and event log.
"""

import importlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import dagster as dg

from predictbench_assets.database.connection import opened_database
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.ingestion.snapshot import reconstruct_ahead
from predictbench_assets.instance.local import instance_for_many_runs
from predictbench_assets.launch.commands import (
    DAILY_RUN,
    RESOLUTION_SWEEP,
    RUN_ENDED,
    RUN_STARTED,
    SUMMARY_VARIABLE,
    BackfillRun,
)
from predictbench_assets.persistence.snapshots import find_refused_snapshot, find_snapshot
from predictbench_assets.runs import RunKey, parsed_key, partition_tags
from predictbench_assets.settings import load_settings

_log = logging.getLogger(__name__)


def daily_run() -> dg.JobDefinition:
    """The job, for executors that load it again in processes of their own."""
    from predictbench_assets.definitions import defs

    return defs().resolve_job_def(DAILY_RUN)


def run_all(planned: Iterable[BackfillRun], prepare: Callable[[RunKey], object] | None = None) -> None:
    """Make the runs in the order given. One that fails does not stop the others, a signal does.

    Each leaves its summary where it is planned; a log line marks its begin, and another its end with the exit code.

    Args:
        planned: the runs; each is taken when the one before has ended.
        prepare: called in a thread with the partition that follows, while a run is at work. That one begins when it
            has returned, however it did.
    """
    shared, ahead = Path(os.environ[SUMMARY_VARIABLE]), Ahead(prepare)
    with instance_for_many_runs() as instance:
        for run in planned:
            _log.info(
                "run of %s", run.partition or RESOLUTION_SWEEP, extra={"event": RUN_STARTED, "partition": run.partition}
            )
            ahead.wait()
            if run.following is not None:
                ahead.begin(parsed_key(run.following))
            result = _execute(run, instance)
            for suffix in (shared.suffix, ".md"):  # the same place for all, since a process reads it once
                if (left := shared.with_suffix(suffix)).exists():
                    left.replace(Path(run.summary).with_suffix(suffix))
            ended = {"event": RUN_ENDED, "partition": run.partition, "exit_code": 0 if result.success else 1}
            _log.info("run of %s ended", run.partition or RESOLUTION_SWEEP, extra=ended)
            if _was_interrupted(result):
                return
            for name in run.modules:
                importlib.import_module(name)


class Ahead:
    """The preparation of one partition at a time, beside the run before it; the end of the process ends it."""

    def __init__(self, prepare: Callable[[RunKey], object] | None) -> None:
        self._prepare = prepare
        self._thread: threading.Thread | None = None

    def begin(self, key: RunKey) -> None:
        """Prepare a partition; the one before has been waited for."""
        if self._prepare is not None:
            # Of a daemon: one that hangs must not keep a process that was asked to end.
            self._thread = threading.Thread(target=self._work, args=(key,), name=f"prepare {key}", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the one that was begun; signals are heard meanwhile."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, key: RunKey) -> None:
        assert self._prepare is not None
        try:
            self._prepare(key)
        except Exception as error:  # the run itself will tell what is wrong
            _log.debug("%s could not be prepared: %s", key, error)


def _execute(run: BackfillRun, instance: dg.DagsterInstance) -> dg.JobExecutionResult | dg.ExecuteInProcessResult:
    config: dict[str, Any] = json.loads(Path(run.config_file).read_text(encoding="utf-8"))
    tags = {} if run.partition is None else partition_tags(parsed_key(run.partition))
    if run.variables is None:
        job = dg.reconstructable(daily_run)
        return dg.execute_job(job, instance=instance, run_config=config, tags=tags, raise_on_error=False)
    from predictbench_assets.definitions import build_defs

    # Clocks stand still and are handed to everything: at another time it is another job.
    for name, value in run.variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    own_job = build_defs(load_settings()).resolve_job_def(RESOLUTION_SWEEP if run.partition is None else DAILY_RUN)
    return own_job.execute_in_process(instance=instance, run_config=config, tags=tags, raise_on_error=False)


def _was_interrupted(result: dg.JobExecutionResult | dg.ExecuteInProcessResult) -> bool:
    """Return whether a signal ended the run: Dagster ends that run alone, but the signal was meant for all of them."""
    errors = (event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    return any(event.event_type is dg.DagsterEventType.RUN_CANCELED for event in result.all_events) or any(
        error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__ for error in errors
    )


def _reconstruct_ahead(key: RunKey) -> None:
    """Read what a partition without a snapshot will need from the exchange."""
    settings = load_settings()
    with opened_database(settings) as engine:
        if find_snapshot(engine, key) is None and find_refused_snapshot(engine, key) is None:
            reconstruct_ahead(configured_exchange(settings), key, key.at(settings.pipeline_run_at_utc))


def _own_input() -> TextIO:
    """The standard input, for this process alone: whatever an experiment reads there is empty."""
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return lines


def main() -> None:
    """Make the runs that are handed over, a line each, until there is none any more."""
    with _own_input() as lines:
        daily_run()  # sets up the log, and raises for unusable settings before the first run
        run_all((BackfillRun(**json.loads(line)) for line in lines), prepare=_reconstruct_ahead)


if __name__ == "__main__":
    # Imported under its own name, which `reconstructable` needs.
    from predictbench_assets import backfill_process

    backfill_process.main()
