"""The Dagster run that a step belongs to: when it began, and with which settings it was launched.

With some executors a step runs on another machine than the one that launched the run, with an environment of its own.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from predictbench_assets.commit import running_commit
from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import Began
from predictbench_assets.settings import DIGEST, Settings

DRY_RUN_TAG, SETTINGS_TAG = "predictbench/dry_run", "predictbench/settings"
_COMMIT = "GIT_SHA"


class OtherSettings(PermanentError):
    """A step was handed to a process whose settings are not those that its run was launched with."""


def launch_tags(settings: Settings) -> dict[str, str]:
    """The tags of a job by which its runs carry the settings of the process that launched them."""
    deciding = settings.deciding_rows() | ({_COMMIT: settings.git_sha} if settings.git_sha else {})
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
    if (launched := context.run.tags.get(SETTINGS_TAG)) is None:
        return
    if differences := "; ".join(_differences(json.loads(launched), settings)):
        raise OtherSettings(
            "the process of this step is set up otherwise than the one that launched the run: "
            f"{differences}. Give both the same settings and the same code, and launch a new run."
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
    here = settings.deciding_rows()
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
