"""Log lines: one JSON object each where a machine reads them, a readable line where a person does.

Dagster's own lines and ours have the same fields. `dagster.yaml` names `DagsterHandler`, so this holds in a bare
`dagster dev` as well. Records that Dagster has already handled are not printed a second time by the root handler.
"""

import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from predictbench_assets.printable import continued, in_json, on_one_line
from predictbench_assets.runs import RunKey
from predictbench_assets.secrecy import Redact, redact_records
from predictbench_assets.settings import Settings, SettingsError, get_settings

FIELDS = ("run_id", "process_stage", "market_id")
"""The fields of every line, null where one does not apply."""

_DAGSTER = "dagster_meta"  # set by Dagster on a record that it has taken over
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", _DAGSTER, "taskName"}
_OURS = f"{__name__.partition('.')[0]}."
_NOISY = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "botocore", "aiobotocore", "asyncio", "alembic")

_MILESTONES = frozenset({"STEP_START", "STEP_SUCCESS", "PIPELINE_SUCCESS"})
_INTENDED = (r".* is currently in (beta|preview)", r".* is superseded")
"""Warnings of Dagster's about parts of it that we use knowing that they may change; tests pin what we rely on."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("predictbench_log_fields", default=_NOTHING)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields (`run_id`, `process_stage`, `market_id`, ...) to every line logged inside the block.

    Blocks nest; threads and tasks started through contextvars-aware calls (asyncio, `asyncio.to_thread`) inherit.
    """
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure_logging(settings: Settings) -> None:
    """Send everything logged in this process to stderr, in the format that the settings ask for, without secrets.

    Calling it again replaces what the first call set up.
    """
    redact_records(settings.redact)
    handler = StderrHandler()
    handler.setFormatter(_formatter(settings))
    handler.addFilter(lambda record: not hasattr(record, _DAGSTER))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    for message in _INTENDED:
        warnings.filterwarnings("ignore", message=message)


def wants_json(settings: Settings) -> bool:
    """True where lines are JSON: by LOG_FORMAT, and for `auto` whenever stderr is not a terminal."""
    if settings.log_format == "auto":
        return not sys.stderr.isatty()
    return settings.log_format == "json"


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at that moment, so that captures and redirections are honoured."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class DagsterHandler(StderrHandler):
    """The handler that `dagster.yaml` names: Dagster's lines in our format.

    It takes no arguments, since Dagster makes it from YAML. With unusable settings it still prints: the definitions
    will name the problem.
    """

    def __init__(self) -> None:
        super().__init__()
        self._least = logging.INFO
        try:
            settings = get_settings()
        except SettingsError:
            self.setFormatter(JsonLines(str))
        else:
            self._least = logging.getLevelNamesMapping()[settings.log_level]
            self.setFormatter(_formatter(settings))

    def filter(self, record: logging.LogRecord) -> bool:
        """Serious enough lines, and the begin and end of every step and run: Dagster counts those as debugging."""
        if record.levelno < self._least and _event_type(getattr(record, _DAGSTER, None)) not in _MILESTONES:
            return False
        return bool(super().filter(record))


class JsonLines(JsonFormatter):
    """One flat JSON object a line: `timestamp`, `level`, `logger`, `message`, `FIELDS`, then whatever was added."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return in_json(super().format(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill the line's object; secrets are replaced in every text of it."""
        fields = record_fields(record)
        if record.exc_info and record.exc_info[0] is not None:
            fields.setdefault("exception", self.formatException(record.exc_info))
        log_data.update({key: _clean(value, self._redact) for key, value in (fields | message_dict).items()})


class TextLines(logging.Formatter):
    """A line for people: time, level, stage, message, and what was added as `key=value`."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The line; an exception's traceback follows it."""
        fields = record_fields(record)
        if record.exc_info and record.exc_info[0] is not None:
            fields.setdefault("exception", self.formatException(record.exc_info))
        return self._redact(readable(fields))


def readable(fields: Mapping[str, Any]) -> str:
    """A line for people from a line's fields: what `JsonLines` wrote, or what it would have, but for nested counts."""
    hidden = {"timestamp", "level", "logger", "message", "process_stage", "run_id", "dagster_run_id", "event"}
    hidden |= {"exception", "reason"}
    given = (
        (key, value)
        for key, value in fields.items()
        if key not in hidden and value is not None and not isinstance(value, Mapping)
    )
    extra = "".join(on_one_line(f" {key}={value}") for key, value in given)
    stage = f"{fields['process_stage']}: " if fields.get("process_stage") else ""
    line = f"{fields['timestamp'][11:19]} {fields['level']:<7} {stage}{fields['message']}"
    exception = f"\n{fields['exception']}" if fields.get("exception") else ""
    return continued(line) + extra + continued(exception)


def record_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line, flat. What was given with the record wins over what is bound, and both over Dagster's."""
    line: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **dict.fromkeys(FIELDS),
    }
    given = {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
    for event in ("dagster_event", "dagster_event_batch_metadata"):
        given.pop(event, None)
    return line | _dagster_fields(getattr(record, _DAGSTER, None)) | dict(_bound.get()) | given


def asset_of(step_key: str) -> str:
    """The path of the asset that a step makes, or makes a part of (`experiment_results__slow.shard[3]`)."""
    return step_key.partition(".")[0].replace("__", "/")


def _dagster_fields(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Dagster's fields of a line, under our names. Read by attribute: this room does not import Dagster."""
    if meta is None:
        return {}
    fields: dict[str, Any] = {"message": meta["orig_message"], "dagster_run_id": meta["run_id"]}
    if meta["step_key"]:
        fields["process_stage"] = asset_of(meta["step_key"])
        if part := meta["step_key"].partition(".")[2]:
            fields["part"] = part
    tags = meta["job_tags"] or {}
    if "dagster/partition/run_date" in tags and "dagster/partition/window_days" in tags:
        run_date = date.fromisoformat(tags["dagster/partition/run_date"])
        fields["run_id"] = str(RunKey(run_date, int(tags["dagster/partition/window_days"])).run_id)
    if (event := meta["dagster_event"]) is not None:
        fields["event"] = event.event_type_value
        if event.event_type_value in _MILESTONES:
            fields["level"] = "INFO"
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            fields["exception"] = error.to_string()
            fields["reason"] = _reason(error)
    return fields


def _event_type(meta: Mapping[str, Any] | None) -> str | None:
    event = meta["dagster_event"] if meta else None
    return str(event.event_type_value) if event is not None else None


def _reason(error: Any) -> str:
    """The error of the chain that a person should read: the last of ours, which names the cause, else the first."""
    while error.cause is not None and not str(error.message).startswith(_OURS):
        error = error.cause
    kind, _, text = str(error.message).strip().partition(": ")
    name = kind.rpartition(".")[2]
    return text if name == "Failure" else f"{name}: {text}" if text else name


def _formatter(settings: Settings) -> logging.Formatter:
    return JsonLines(settings.redact) if wants_json(settings) else TextLines(settings.redact)


def _clean(value: Any, redact: Redact) -> Any:
    """The value without secrets, and without the numbers that JSON does not have."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, redact) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    return redact(str(value))
