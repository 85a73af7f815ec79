"""The child process of a backfill: several runs of the daily job one after another, see `launch.backfill`.

A process for each run imports everything again, which takes longer than a small run does. Each run is otherwise what
`dagster job execute` makes of it: the same job, executor, lease and event log.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from predictbench_assets.instance.local import instance_for_many_runs
from predictbench_assets.launch.commands import DAILY_RUN, RUN_ENDED, RUN_STARTED, SUMMARY_VARIABLE, BackfillRun
from predictbench_assets.runs import parsed_key, partition_tags

_log = logging.getLogger(__name__)


def daily_run() -> dg.JobDefinition:
    """The job, for executors that load it again in processes of their own."""
    from predictbench_assets.definitions import defs

    return defs().resolve_job_def(DAILY_RUN)


def run_all(planned: Sequence[BackfillRun]) -> None:
    """Make the runs in the order given. One that fails does not stop the others, a signal does.

    Each leaves its summary where it is planned; a log line marks its begin, and another its end with the exit code.
    """
    shared = Path(os.environ[SUMMARY_VARIABLE])
    with instance_for_many_runs() as instance:
        for run in planned:
            _log.info("run of %s", run.partition, extra={"event": RUN_STARTED, "partition": run.partition})
            result = dg.execute_job(
                dg.reconstructable(daily_run),
                instance=instance,
                run_config=json.loads(Path(run.config_file).read_text(encoding="utf-8")),
                tags=partition_tags(parsed_key(run.partition)),
                raise_on_error=False,
            )
            for suffix in (shared.suffix, ".md"):  # the same place for all, since a process reads it once
                if (left := shared.with_suffix(suffix)).exists():
                    left.replace(Path(run.summary).with_suffix(suffix))
            ended = {"event": RUN_ENDED, "partition": run.partition, "exit_code": 0 if result.success else 1}
            _log.info("run of %s ended", run.partition, extra=ended)
            if _was_interrupted(result):
                return


def _was_interrupted(result: dg.JobExecutionResult) -> bool:
    """Return whether a signal ended the run: Dagster ends that run alone, but the signal was meant for all of them."""
    errors = (event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    return any(event.event_type is dg.DagsterEventType.RUN_CANCELED for event in result.all_events) or any(
        error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__ for error in errors
    )


def main() -> None:
    """Make the runs of the file that is named on the command line."""
    daily_run()  # sets up the log, and raises for unusable settings before the first run
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run_all([BackfillRun(**run) for run in plan])


if __name__ == "__main__":
    # Imported under its own name, which `reconstructable` needs.
    from predictbench_assets import backfill_process

    backfill_process.main()
