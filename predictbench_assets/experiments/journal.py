"""The durable journal of an experiment: what it has answered so far, so that a killed run never pays twice.

A journal is a folder of segments in the staging area, one folder per experiment, version, snapshot and configuration.
Every attempt writes segments of its own, so two attempts never write to one file. A segment is JSON lines, and a line
is the list of one call's outcomes, of a market, an event or the cohort, so that no event is half there.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import msgspec

from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.segments import contents, segment
from predictbench_assets.failures import TransientError
from predictbench_assets.staging import StagingArea

_logger = logging.getLogger(__name__)


class JournalUnwritable(TransientError):
    """A result could not be made durable (disk full, store away); the experiment stops rather than lose results."""


@dataclass(frozen=True)
class JournalKey:
    """The identity of a journal: a change in any of these begins an empty one."""

    run_slug: str
    """`RunKey.slug`."""
    experiment: str
    version: str
    snapshot_hash: str
    config_hash: str

    @property
    def folder(self) -> str:
        """The journal's folder in the staging area."""
        name = f"{self.version}_{self.snapshot_hash[:16]}_{self.config_hash[:16]}"
        return f"journals/{self.run_slug}/{self.experiment}/{name}"


class Journal:
    """The journal of one experiment on one snapshot.

    Args:
        area: the staging area; a folder is appended to and synced, any other place gets an object per group.
        key: which journal.
        writer_id: names the segments of this attempt, for a reader of the folder, for example by Dagster's run id.
    """

    def __init__(self, area: StagingArea, key: JournalKey, writer_id: str) -> None:
        self._area = area
        self._folder = key.folder
        self._own = f"{self._folder}/{writer_id}-"
        self.own: set[str] = set()
        """Ids of the markets whose outcome, as it was loaded, this writer recorded, or one named after it."""
        name = f"{self._folder}/{writer_id}-{uuid4().hex[:8]}"  # a retried attempt must not append to a torn line
        self._segment = segment(area, name)
        self._writing = threading.Lock()

    def load(self) -> dict[str, Outcome]:
        """All outcomes that were recorded, by market id, from every attempt so far.

        A torn line, the trace of a kill, was never acknowledged and is passed over with a warning.
        """
        known: dict[str, Outcome] = {}
        self.own.clear()
        for name, content in contents(self._area, self._folder):
            *lines, tail = content.split(b"\n")
            broken = bool(tail)
            for line in lines:
                try:
                    outcomes = msgspec.json.decode(line, type=list[Outcome])
                except msgspec.MsgspecError:
                    broken = True
                    continue
                for outcome in outcomes:
                    if _better(outcome, known.get(outcome.market_id)):
                        known[outcome.market_id] = outcome
                        (self.own.add if name.startswith(self._own) else self.own.discard)(outcome.market_id)
            if broken:
                _logger.warning("the journal segment %s has a torn line, its call is made again", name)
        return known

    async def append(self, calls: Sequence[Sequence[Outcome]]) -> None:
        """Record the outcomes of some calls, those of one call all or none; returns only once they are durable.

        One append is one write and one sync, or one object, however many calls it has. One that is cancelled ends
        only after it has written: its answers were given, and a write that waits for a free thread would be dropped.

        Raises:
            JournalUnwritable: the place does not take it.
        """
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, calls))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            if (error := writing.exception()) is not None:
                _logger.warning("%s", error)
            raise

    async def close(self) -> None:
        """Finish what is being written and close the segment."""
        await asyncio.to_thread(self._close)

    def discard(self) -> None:
        """Remove the journal with all its segments; the next run calls the experiment for every market."""
        for name in self._area.list(self._folder):
            self._area.delete(name)

    def _write(self, calls: Sequence[Sequence[Outcome]]) -> None:
        lines = [msgspec.json.encode(outcomes) for outcomes in calls]
        try:
            with self._writing:  # appends may overlap
                self._segment.write(lines)
        except Exception as error:  # an object store raises what it likes
            raise JournalUnwritable(
                f"the journal at {self._area.uri(self._folder)} cannot be written ({type(error).__name__}: {error}): "
                "check the space and the rights of the place that STAGING_URI names, then run again"
            ) from error

    def _close(self) -> None:
        with self._writing:
            self._segment.close()


def _better(outcome: Outcome, known: Outcome | None) -> bool:
    """Two attempts at once can both have answered: a forecast wins, else the one read first."""
    return known is None or (outcome.status == "completed" and known.status != "completed")
