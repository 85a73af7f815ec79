"""A Dagster run followed by its event log: what its steps log on other machines, as if they logged it here."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from predictbench_assets.instance.run_retention import dagster_instance
from predictbench_assets.instance.storage import DagsterStorageError, classified
from predictbench_assets.launch.child import Follow, Line
from predictbench_assets.observability.logs import DagsterHandler, JsonLines
from predictbench_assets.settings import Settings

POLL_SECONDS = 2.0
_PAGE = 500

_log = logging.getLogger(__name__)


def followed(settings: Settings) -> Follow:
    """What follows a run of these settings, for `launch.child.run_child`."""

    @contextmanager
    def follow(dagster_run_id: str, take: Callable[[Line], None]) -> Iterator[None]:
        ended = threading.Event()

        def work() -> None:
            with dagster_instance(settings) as instance:
                if instance is None:
                    return
                log = _EventLog(instance, dagster_run_id, settings)
                while not ended.wait(POLL_SECONDS):
                    log.hand_over(take)
                log.hand_over(take)

        thread = threading.Thread(target=_warned(work, settings), name="event log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(settings.db_timeout_seconds)

    return follow


def _warned(work: Callable[[], None], settings: Settings) -> Callable[[], None]:
    def warned() -> None:
        try:
            work()
        except Exception as error:  # the run itself goes on, and what it stores is read from the database
            _log.warning("the run's event log cannot be followed: %s", settings.redact(str(error)))

    return warned


class _EventLog:
    """The event log of one run, from where it was read to the last time."""

    def __init__(self, instance: dg.DagsterInstance, dagster_run_id: str, settings: Settings) -> None:
        self._instance, self._run_id, self._settings = instance, dagster_run_id, settings
        self._cursor: str | None = None
        self._shown, self._lines = DagsterHandler(), JsonLines(settings.redact)
        run = instance.get_run_by_id(dagster_run_id)
        self._tags = {} if run is None else run.tags

    def hand_over(self, take: Callable[[Line], None]) -> None:
        """Hand over what is new; an outage of the storage is waited for."""
        more = True
        while more:
            try:
                with classified(self._settings):
                    page = self._instance.get_records_for_run(self._run_id, cursor=self._cursor, limit=_PAGE)
            except DagsterStorageError as error:
                _log.debug("the run's event log was not read this time: %s", self._settings.redact(str(error)))
                return
            self._cursor, more = page.cursor, page.has_more
            for record in map(self._as_log_record, (one.event_log_entry for one in page.records)):
                if self._shown.filter(record):
                    take(json.loads(self._lines.format(record)))

    def _as_log_record(self, entry: dg.EventLogEntry) -> logging.LogRecord:
        """The record that Dagster's handler was given where the entry was made."""
        meta = {
            "orig_message": entry.user_message,
            "run_id": entry.run_id,
            "step_key": entry.step_key,
            "job_tags": self._tags,
            "dagster_event": entry.dagster_event,
        }
        level = entry.level if isinstance(entry.level, int) else logging.getLevelNamesMapping()[entry.level]
        fields = {"name": "dagster", "levelno": level, "levelname": logging.getLevelName(level)}
        fields |= {"msg": entry.user_message, "created": entry.timestamp, "dagster_meta": meta}
        return logging.makeLogRecord(fields)
