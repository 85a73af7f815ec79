"""Readable copies of what is staged, for a person who wants to look."""

import json
from pathlib import Path

import msgspec

from predictbench_assets.ingestion.snapshot import snapshot_rows
from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFile


def write_debug_artifacts(artifacts: Path, key: RunKey, snapshot: StagedFile, cohort: Cohort) -> Path:
    """Write the raw rows, the markets and the rejected rows of a run as indented JSON; returns the folder."""
    folder = artifacts / "debug" / key.slug
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "normalized_markets.json", [market.model_dump(mode="json") for market in cohort.markets])
    _write(folder / "rejected_markets.json", [one.model_dump(mode="json") for one in cohort.rejected])
    with (folder / "raw_markets.json").open("wb") as file:
        # Row by row and as received: a row that no parser takes must still be there to be looked at.
        for index, row in enumerate(snapshot_rows(snapshot)):
            file.write((b",\n" if index else b"[\n") + _indented(row.raw))
        file.write(b"\n]\n" if snapshot.rows else b"[]\n")
    return folder


def _indented(raw: bytes) -> bytes:
    try:
        return msgspec.json.format(raw, indent=2)
    except msgspec.DecodeError:
        return raw


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
