"""Output of steps, kept in the staging area: it is still there when the runner is not, and a UI elsewhere shows it.

dagster-aws has a manager for S3. This one is ours because
- it goes where staging goes, a folder or S3, with the settings and keys that staging has already;
- no secret leaves with it: each text is redacted before it is stored;
- it copies output as it is printed. Dagster points the process's streams at a file and shows that file by
  `tail`: four processes more a run (0.2 s of processor time; this takes 0.02 s), and the last lines of a run may be
  lost to the console, which is what `predictbench daily` and the Action read. The price is that what native code or a
  child process writes is shown but not kept.

In the staging area it is `compute_logs/<run id>/compute_logs/<key>.out` and `.err`, with `.partial` while a run lasts.
"""

import logging
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import dagster as dg
from dagster._core.storage.cloud_storage_compute_log_manager import (  # not exported
    CloudStorageComputeLogManager,
    PollingComputeLogSubscriptionManager,
)
from dagster._core.storage.compute_log_manager import CapturedLogContext, CapturedLogSubscription, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from predictbench_assets.settings import Settings, usable_settings
from predictbench_assets.staging import StagingArea

FOLDER = "compute_logs"
"""The folder of the staging area; `predictbench prune` removes what is in it together with the runs."""

LIMIT_BYTES = 10 * 1024 * 1024
"""Bytes of a log that are kept, from its end: a failing run gives its reason there."""

_logger = logging.getLogger(__name__)


class StagingComputeLogManager(CloudStorageComputeLogManager[dg.DagsterInstance], ConfigurableClass):
    """Named by `deploy/dagster.yaml`.

    Args:
        upload_interval: seconds between two uploads of what a run has printed so far; a run that is killed leaves the
            last of them.
    """

    def __init__(self, upload_interval: int = 30, inst_data: ConfigurableClassData | None = None) -> None:
        self._upload_interval = upload_interval
        self._inst_data = inst_data
        self._subscriptions = PollingComputeLogSubscriptionManager(self)  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"upload_interval": dg.Field(dg.IntSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "StagingComputeLogManager":
        return cls(inst_data=inst_data, **config_value)

    @property
    def upload_interval(self) -> int:
        return self._upload_interval

    # Not before they are needed: an instance must load with settings that are not usable, and name the problem then.
    @cached_property
    def _settings(self) -> Settings:
        # A deployment's web server shows logs without having its database's secrets.
        return usable_settings()

    @cached_property
    def _area(self) -> StagingArea:
        return StagingArea(self._settings.staging, self._settings.staging_options)

    @cached_property
    def local_manager(self) -> LocalComputeLogManager:
        folder = tempfile.mkdtemp(prefix="predictbench-compute-logs-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return LocalComputeLogManager(folder)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Keep the output of this process inside the block, also when an exception leaves it."""
        out, err = (self._local(log_key, io_type) for io_type in (ComputeIOType.STDOUT, ComputeIOType.STDERR))
        try:
            with self._uploaded_meanwhile(log_key), _copied("stdout", out), _copied("stderr", err):
                yield CapturedLogContext(log_key)
        finally:
            self._upload(log_key)
            self.local_manager.delete_logs(log_key=log_key)

    def upload_to_cloud_storage(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> None:
        """Store the content of the local file, without secrets."""
        local = self._local(log_key, io_type)
        content = _end_of(local, LIMIT_BYTES) if local.exists() else b""
        if partial:
            content = content[: content.rfind(b"\n") + 1]  # half a line could end in half a secret
        text = self._settings.redact(content.decode("utf-8", errors="replace"))
        self._area.write_bytes(_name(log_key, io_type, partial), text.encode())
        if not partial:
            self._area.delete(_name(log_key, io_type, partial=True))

    def download_from_cloud_storage(
        self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False
    ) -> None:
        """Put a stored log where Dagster reads it from."""
        local = self._local(log_key, io_type, partial)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(self._area.read_bytes(_name(log_key, io_type, partial)))

    def cloud_storage_has_logs(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> bool:
        return self._area.exists(_name(log_key, io_type, partial))

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        self.local_manager.delete_logs(log_key=log_key, prefix=prefix)
        if log_key:
            names = [_name(log_key, io_type, partial) for io_type in ComputeIOType for partial in (False, True)]
        else:
            names = self._area.list("/".join((FOLDER, *(prefix or ()))))
        for name in names:
            self._area.delete(name)

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        """The web server's own address: it reads staging, the browser need not."""
        return "/".join(("/logs", *log_key, IO_TYPE_EXTENSION[io_type]))

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return self._area.uri(_name(log_key, io_type))

    def on_subscribe(self, subscription: CapturedLogSubscription) -> None:
        self._subscriptions.add_subscription(subscription)

    def on_unsubscribe(self, subscription: CapturedLogSubscription) -> None:
        self._subscriptions.remove_subscription(subscription)

    def dispose(self) -> None:
        self._subscriptions.dispose()
        super().dispose()  # type: ignore[no-untyped-call]

    def _local(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> Path:
        return Path(self.local_manager.get_captured_local_path(log_key, IO_TYPE_EXTENSION[io_type], partial=partial))

    def _upload(self, log_key: Sequence[str], *, partial: bool = False) -> None:
        try:
            for io_type in ComputeIOType:
                self.upload_to_cloud_storage(log_key, io_type, partial)
        except Exception as error:  # the run itself has not failed
            _logger.warning("compute logs were not uploaded: %s", self._settings.redact(str(error)))

    @contextmanager
    def _uploaded_meanwhile(self, log_key: Sequence[str]) -> Iterator[None]:
        ended = threading.Event()

        def upload() -> None:
            while not ended.wait(self._upload_interval):
                self._upload(log_key, partial=True)

        thread = threading.Thread(target=upload, name="compute-logs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(self._upload_interval)


class _Copying:
    """A text stream that writes to another and to a file; its other attributes are those of the other."""

    def __init__(self, terminal: TextIO, file: TextIO) -> None:
        self._terminal, self._file = terminal, file

    def write(self, text: str) -> int:
        # A full disk must not end the run, nor must somebody who holds on to this stream after the file is closed.
        with suppress(OSError, ValueError):
            self._file.write(text)
        return self._terminal.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)


@contextmanager
def _copied(name: Literal["stdout", "stderr"], file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    before: TextIO = getattr(sys, name)
    # Line by line, so that what is uploaded meanwhile is up to date.
    with file.open("a", encoding="utf-8", errors="replace", buffering=1) as kept:
        setattr(sys, name, cast(TextIO, _Copying(before, kept)))
        try:
            yield
        finally:
            setattr(sys, name, before)


def _name(log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> str:
    return "/".join((FOLDER, *log_key)) + f".{IO_TYPE_EXTENSION[io_type]}{'.partial' if partial else ''}"


def _end_of(file: Path, limit: int) -> bytes:
    """The content of a file, or whole lines of its end with a note of what was left out."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= limit:
            return stream.read()
        stream.seek(size - limit)
        stream.readline()
        left_out = stream.tell()
        return f"[{left_out:,} bytes left out]\n".encode() + stream.read()
