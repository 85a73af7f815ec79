"""The Dagster run that a step belongs to: when it began, with which settings it was launched, and whether it has ended.

With some executors a step runs on another machine than the one that launched the run, with an environment of its own.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from predictbench_assets.commit import running_commit
from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import Began
from predictbench_assets.settings import DIGEST, Settings

DRY_RUN_TAG, SETTINGS_TAG = "predictbench/dry_run", "predictbench/settings"
_COMMIT = "GIT_SHA"

_LOOK_EVERY_S = 10.0
_ENDED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)

_log = logging.getLogger(__name__)


class OtherSettings(PermanentError):
    """A step was handed to a process whose settings are not those that its run was launched with."""


class RunEnded(PermanentError):
    """The Dagster run of this step has ended without it: cancelled, failed, or removed. Nothing waits for the step."""


class EndOfRun:
    """A look at whether a step's Dagster run has ended, every ten seconds at most; the first one at the first call.

    A signal ends the steps of a run in one process. One on another machine may hear of no end but by looking. The
    steps beside one that has failed go on: the run has not ended before they have.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._instance, self._run_id = context.instance, context.run.run_id
        self._looked = float("-inf")

    def look(self) -> None:
        """Look, if it is time.

        Raises:
            RunEnded: it has.
        """
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            run = self._instance.get_run_by_id(self._run_id)
        except Exception as error:  # of whichever storage; one that does not answer has not ended the run
            _log.debug("Dagster's storage does not tell whether the run has ended: %s", error)
            return
        if run is None or run.status in _ENDED:
            state = "gone" if run is None else run.status.value.lower()
            raise RunEnded(f"the Dagster run {self._run_id} is {state}: its remaining steps stop. Run it again.")


def launch_tags(settings: Settings) -> dict[str, str]:
    """The tags of a job by which its runs carry the settings of the process that launched them."""
    deciding = settings.deciding_rows | ({_COMMIT: settings.git_sha} if settings.git_sha else {})
    return {
        DRY_RUN_TAG: str(settings.predictbench_dry_run).lower(),
        SETTINGS_TAG: json.dumps(deciding, separators=(",", ":")),
    }


def refuse_other_settings(context: dg.AssetExecutionContext, settings: Settings) -> None:
    """Refuse a step where this process would make something else of it than the one that launched its run.

    A run without the tags, such as one of single assets from the UI, is let through.

    Raises:
        OtherSettings: the settings differ; the text names them.
    """
    _refuse_other_dryness(context.run.tags, settings)
    launched = json.loads(context.run.tags.get(SETTINGS_TAG, "{}"))
    if context.run.parent_run_id is not None:
        launched.pop(_COMMIT, None)  # executed again, a run has the tags of the first time, and perhaps newer code
    if differences := "; ".join(_differences(launched, settings)):
        raise OtherSettings(
            "the process of this step is set up otherwise than the one that launched the run: "
            f"{differences}. Give both the same settings and code (reload the code location), and launch a new run."
        )


def _refuse_other_dryness(tags: Mapping[str, str], settings: Settings) -> None:
    told = tags.get(DRY_RUN_TAG)
    if told == "true" and not settings.predictbench_dry_run:
        raise OtherSettings(
            "the run is a dry run, and the process of this step would write: nothing was done. Steps of a dry run stay "
            "in the process that launched it, with EXECUTOR=in_process."
        )
    if told == "false" and settings.predictbench_dry_run:
        raise OtherSettings(
            "the process of this step has PREDICTBENCH_DRY_RUN set and would write nothing, and the run is no dry run: "
            "unset it where the steps run."
        )


def _differences(launched: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """A sentence for each setting that both sides know and have otherwise."""
    here = dict(settings.deciding_rows)
    if (commit := running_commit(settings)) is not None:
        here[_COMMIT] = commit
    for name in sorted(launched.keys() & here.keys()):
        there, own = launched[name], here[name]
        if there == own:
            continue
        hashed = any(isinstance(value, str) and value.startswith(DIGEST) for value in (there, own))
        yield f"{name} differs" if hashed else f"{name} is {_told(there)} there and {_told(own)} here"


def _told(value: Any) -> str:
    return "unset" if value is None or value == "" else str(value)


def run_began(context: dg.AssetExecutionContext) -> Began | None:
    """The beginning of the step's Dagster run; None where the storage has lost the run.

    The order is that of the rows in Dagster's storage: its creation time is the clock of whoever launched the run.
    """
    instance = context.instance
    own = instance.get_run_record_by_id(context.run.run_id)
    if own is None:
        return None

    def before(other: str) -> bool | None:
        record = instance.get_run_record_by_id(other)
        return None if record is None else own.storage_id < record.storage_id

    return Began(own.create_timestamp, before)
