"""The registry of frozen snapshots, as far as freezing needs it; persistence/snapshots.py keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID, uuid5

from predictbench_assets.runs import RunKey


@dataclass(frozen=True)
class SnapshotRecord:
    """One complete snapshot; its body is the staged file at `uri`."""

    key: RunKey
    captured_at: datetime
    sha256: str
    """Of the bytes received from the exchange."""
    content_hash: str
    """Of the staged rows, quotes included; every other table calls it `snapshot_hash`."""
    rows: int
    bytes: int
    """Received from the exchange."""
    uri: str
    exchange: str
    quotes_source: str
    api: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the reading: pages, requests, retries, throttle seconds."""
    refused: str | None = None
    """Which check stopped the run that captured it, and why; None of a snapshot that counts, or did."""

    @property
    def snapshot_id(self) -> UUID:
        """The same capture of the same content has the same id."""
        return uuid5(self.key.run_id, f"snapshot|{self.captured_at.isoformat()}|{self.content_hash}")


class SnapshotRegistry(Protocol):
    """Which snapshot counts for a run, and which ones a check refused."""

    def snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The snapshot that counts."""

    def refused_snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The newest one that a check refused."""

    def register(self, record: SnapshotRecord, dagster_run_id: str) -> None:
        """Make a snapshot the one that counts."""
