"""Names of staged files: where each asset's output for a partition is found."""

from collections.abc import Sequence

from predictbench_assets.ingestion.headers import PointerHeader
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagingArea

POINTER = Schema("pointer", 1)
"""A staged file without rows that names another: how a partition refers to a snapshot it did not write."""


def staged_name(asset: Sequence[str], key: RunKey) -> str:
    """Name of an asset's staged file for a partition: `<path of its key>/<run date>/<window>.jsonl.zst`."""
    return "/".join((*asset, key.run_date.isoformat(), f"{key.window_days}{SUFFIX}"))


def open_staged(area: StagingArea, asset: Sequence[str], key: RunKey, schema: Schema) -> StagedFile:
    """An asset's output for a partition, pointers followed.

    Raises:
        StagedFileMissing: the asset has not been materialized for the partition, or its file is gone.
        StagedSchemaUnknown: it was written by a version of the code that this one cannot read.
    """
    name = staged_name(asset, key)
    if area.peek(name)["schema"] != POINTER.name:
        return area.open(name, schema)
    return area.open_uri(area.open(name, POINTER).header(PointerHeader).uri, schema)
