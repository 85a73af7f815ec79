"""The first stage: the day on which a run's markets close."""

import msgspec

from predictbench_assets.ingestion.headers import WindowHeader
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import Schema, StagedFile, StagingArea

WINDOW = Schema("target_window", 1)


def describe_window(key: RunKey) -> dict[str, str | int]:
    """The run and its window, `[start, end)` in UTC, as plain JSON."""
    return {
        "run_id": str(key.run_id),
        "run_date": key.run_date.isoformat(),
        "window_days": key.window_days,
        "target_date": key.target_date.isoformat(),
        "start": key.start.isoformat(),
        "end": key.end.isoformat(),
    }


def open_window(area: StagingArea, key: RunKey, *, dagster_run_id: str) -> StagedFile:
    """Stage the window of a run: a file with one row, `describe_window`."""
    row = msgspec.json.encode(describe_window(key))
    return area.publish(staged_name([WINDOW.name], key), WINDOW, WindowHeader(dagster_run_id=dagster_run_id), [row])
