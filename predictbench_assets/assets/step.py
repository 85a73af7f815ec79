"""The frame of every asset: log fields, the run's heartbeat, redaction, and a recorded failure."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import cast

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError  # not exported
from sqlalchemy.exc import DBAPIError, OperationalError

from predictbench_assets.assets.dagster_run import EndOfRun, refuse_other_settings
from predictbench_assets.failures import PredictbenchError, Stage
from predictbench_assets.heap import trim_heap
from predictbench_assets.observability.logs import bound
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.runs import RunKey, UnknownPartition, parsed_key
from predictbench_assets.secrecy import redacted_error, redacted_output
from predictbench_assets.settings import Settings

_BEAT_AT_MOST_EVERY_S = 1.0
_INTERRUPTED = "stopped by a signal: cancelled, or over a time limit. Run it again, it goes on where it stopped."

OWNERS = ["team:predictbench"]

# Dagster compiles the checks of each of these classes at its first use, and keeps the local variables of whoever uses
# it for the rest of the process: in an asset that would be the whole cohort.
dg.MetadataValue.table([dg.TableRecord({"warm": 1})], schema=dg.TableSchema([dg.TableColumn("warm")]))


@contextmanager
def asset_step(
    context: dg.AssetExecutionContext, settings: Settings, database: RunDatabase, key: RunKey, name: Stage
) -> Iterator[Callable[[], None]]:
    """Bind the log fields of an asset of a run, renew the run's heartbeat, and redact output and errors.

    Yields a heartbeat function, limited to one write a second and stage. Call it right before something is staged: the
    names of staged files are shared by all attempts of a run, and one that was overtaken must not put its file in the
    place of the newer one's.

    Raises:
        LeaseLost: another attempt has taken the run over; this one must stop. The heartbeat function raises it too.
        OtherSettings: this process is not set up as the one that launched the run.
        RunEnded: the Dagster run has been cancelled, or has failed; the heartbeat function raises it too.
    """
    end, pulse = EndOfRun(context), _pulse(context.run.run_id, database, key)

    def beat() -> None:
        end.look()
        pulse.beat(name)

    trim_heap()
    fields = {"run_id": str(key.run_id), "process_stage": context.asset_key.to_user_string()}
    with bound(**fields):
        try:
            with redacting(settings):
                refuse_other_settings(context, settings)
                beat()
                yield beat
        except dg.DagsterExecutionInterruptedError:
            # Dagster calls no failure hook then, and the run would be taken for one under way.
            database.hurry()
            with suppress(PredictbenchError):
                database.fail(key, context.run.run_id, name, _INTERRUPTED, retriable=True)
            raise


class _Pulse:
    """The heartbeat of a Dagster run in this process."""

    def __init__(self, dagster_run_id: str, database: RunDatabase, key: RunKey) -> None:
        self._dagster_run_id, self._database, self._key = dagster_run_id, database, key
        self._stage, self._at = "", float("-inf")

    def beat(self, stage: Stage) -> None:
        """Renew it, unless that was done in the same stage less than a second ago."""
        if stage != self._stage or time.monotonic() - self._at > _BEAT_AT_MOST_EVERY_S:
            self._database.beat(self._key, self._dagster_run_id, stage)
            self._stage, self._at = stage, time.monotonic()


@lru_cache(maxsize=1)
def _pulse(dagster_run_id: str, database: RunDatabase, key: RunKey) -> _Pulse:
    """The one of all steps of a run in this process: small experiments would beat for longer than they work."""
    return _Pulse(dagster_run_id, database, key)


@contextmanager
def redacting(settings: Settings) -> Iterator[None]:
    """Take secrets out of the output printed in the block and of the error that leaves it: Dagster keeps both.

    An error that a signal caused leaves it as the signal's own: Dagster goes on with other steps after any other.
    """
    with redacted_output(settings.redact):
        try:
            yield
        except Exception as error:
            if _came_of_a_signal(error):
                raise dg.DagsterExecutionInterruptedError from None
            failure = redacted_error(error, settings.redact)
            if failure is error:
                raise
            # Drop the original from the chain: Dagster would print it.
            raise failure from failure.__cause__ or failure.__context__


def _came_of_a_signal(error: BaseException) -> bool:
    """True for an error raised while a signal unwound the stack: in clean-up, or in a stranger's `except`."""
    seen: set[int] = set()
    around: BaseException | None = error
    while around is not None and id(around) not in seen:
        if isinstance(around, dg.DagsterExecutionInterruptedError):
            return True
        seen.add(id(around))
        around = around.__cause__ or around.__context__
    return False


def stage_of(step_key: str) -> Stage:
    """The stage of a step by its key, also of one inside of an asset: `experiment_results__x.shard[3]`."""
    return cast(Stage, step_key.partition(".")[0].partition("__")[0])


def run_seconds(instance: dg.DagsterInstance, dagster_run_id: str) -> float:
    """Seconds since the Dagster run began, whichever processes its steps ran in."""
    record = instance.get_run_record_by_id(dagster_run_id)
    if record is None or record.start_time is None:
        return 0.0
    return round(time.time() - record.start_time, 3)


def step_seconds(instance: dg.DagsterInstance, dagster_run_id: str, step_key: str) -> float:
    """Seconds since a step of a Dagster run began, in whichever process."""
    stats = instance.get_run_step_stats(dagster_run_id, [step_key])
    if not stats or stats[0].start_time is None:
        return 0.0
    return round(time.time() - stats[0].start_time, 3)


@dg.failure_hook(required_resource_keys={"reporter"})
def record_failure(context: dg.HookContext) -> None:
    """Write status, stage and reason of a failed run, and its summary, wherever a step fails."""
    run = context.instance.get_run_by_id(context.run_id)
    try:
        key = parsed_key("" if run is None else run.tags.get("dagster/partition", ""))
    except UnknownPartition:
        return  # the failure is that there is no partition; there is no run to write it to
    error = context.op_exception
    reason = _reason(context, error)
    retriable = error.retriable if isinstance(error, PredictbenchError) else isinstance(error, OperationalError)
    name = stage_of(context.step_key)
    seconds = run_seconds(context.instance, context.run_id)
    context.resources.reporter.failed(key, context.run_id, name, reason, retriable=retriable, seconds=seconds)


def _reason(context: dg.HookContext, error: BaseException | None) -> str:
    """The failure of a step in a sentence, for people."""
    if isinstance(error, DagsterAssetCheckFailedError):
        return _failed_checks(context) or str(error)
    if isinstance(error, dg.Failure) and error.description:
        return error.description
    if isinstance(error, DBAPIError):  # those of our own database have become ours long before
        first = (str(error.orig).splitlines() or [type(error.orig).__name__])[0]
        return f"Dagster could not write to its own storage (DAGSTER_POSTGRES_URL): {first}"
    return str(error) if isinstance(error, PredictbenchError | UnknownPartition) else f"{type(error).__name__}: {error}"


def _failed_checks(context: dg.HookContext) -> str:
    """The descriptions of the checks that stopped a step; Dagster's exception has their names only."""
    records = context.instance.all_logs(context.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [record.get_dagster_event().asset_check_evaluation_data for record in records]
    return " ".join(
        f"{check.check_name}: {check.description}"
        for check in checks
        if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR and check.description
    )
