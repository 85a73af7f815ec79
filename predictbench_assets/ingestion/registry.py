"""The registry of frozen snapshots, as far as freezing needs it; persistence/snapshots.py keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

from predictbench_assets.runs import Began, RunKey


@dataclass(frozen=True)
class SnapshotRecord:
    """One complete snapshot; its body is the staged file at `uri`."""

    key: RunKey
    captured_at: datetime
    sha256: str
    """Hash of the bytes received from the exchange."""
    content_hash: str
    """Hash of the staged rows, quotes included; every other table calls it `snapshot_hash`."""
    rows: int
    bytes: int
    """Received from the exchange."""
    uri: str
    exchange: str
    quotes_source: str
    as_of: datetime | None = None
    """The instant that was reconstructed; None of a snapshot that was captured."""
    api: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the reading: pages, requests, retries, throttle seconds."""
    refused: str | None = None
    """The check that stopped the run that captured it, and its reason; None of a snapshot that counts, or did."""

    @property
    def snapshot_id(self) -> UUID:
        """An id of the capture and its content."""
        return uuid5(self.key.run_id, f"snapshot|{self.captured_at.isoformat()}|{self.content_hash}")


class SnapshotRegistry(Protocol):
    """The snapshot that counts for each run, and those that a check refused."""

    def snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The snapshot that counts."""

    def refused_snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The newest one that a check refused."""

    def register(self, record: SnapshotRecord, dagster_run_id: str, began: Began | None = None) -> None:
        """Make a snapshot the one that counts, for a Dagster run that began then."""
