"""The IO manager: assets hand each other staged files, and what arrives is a lazy reader."""

import dagster as dg

from predictbench_assets.ingestion.names import POINTER, open_staged, staged_name
from predictbench_assets.runs import RunKey, parsed_key
from predictbench_assets.staging import Schema, StagedFile, StagingArea


class StagingIOManager(dg.IOManager):
    """Keeps what assets return under their own name, and opens it for those downstream.

    Args:
        area: the place of staged files.
        schemas: the schema of each asset's file, by the first part of its key.
    """

    def __init__(self, area: StagingArea, schemas: dict[str, Schema]) -> None:
        self._area = area
        self._schemas = schemas

    def handle_output(self, context: dg.OutputContext, obj: StagedFile) -> None:
        """Publish a pointer where the asset returned a file that lives elsewhere; its own is published already."""
        name = staged_name(context.asset_key.path, _key(context))
        if obj.path != self._area.path(name):
            meta = {"uri": obj.uri, "sha256": obj.sha256, "dagster_run_id": context.run_id}
            self._area.publish(name, POINTER, meta, ())
        elif not self._area.exists(name):
            raise dg.Failure(f"{obj.uri} was reported as staged and is not there", allow_retries=False)

    def load_input(self, context: dg.InputContext) -> StagedFile:
        """The upstream's staged file; its rows are read when it is iterated."""
        asset = context.asset_key
        return open_staged(self._area, asset.path, _key(context), self._schemas[asset.path[0]])


def _key(context: dg.OutputContext | dg.InputContext) -> RunKey:
    return parsed_key(str(context.asset_partition_key))
