"""Marks of experiments that ended the process that they ran in, on this machine, which only the dead leave behind."""

import atexit
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

_FOLDER: Final = "crashes"
_SLACK_S: Final = 2.0
"""Tolerance for a process that seems to have begun after its mark: clocks are corrected."""

_logger = logging.getLogger(__name__)


@dataclass
class CrashMark:
    """The mark of one experiment's version, set while it runs: a process that is killed or crashes does not clear it.

    It is a small file that is not synced: it has to outlive the process, not the machine.
    """

    home: Path
    """The folder of local state."""
    run_slug: str
    """`RunKey.slug` of the run that it is set in; a mark that was left counts for every run."""
    experiment: str
    version: str
    _file: Path | None = field(default=None, init=False)

    def is_left(self) -> bool:
        """True if a dead process left one."""
        return next(self._left(), None) is not None

    def set(self) -> None:
        """Note that this process runs the experiment now; where that cannot be written, a crash is not remembered."""
        folder = self._folder
        file = folder / f"{self.run_slug}_{os.getpid()}_{uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            _logger.warning("a crash of %s could not be remembered in %s (%s)", self.experiment, folder, error.strerror)
        else:
            self._file = file

    def clear(self, *, at_exit: bool = False) -> None:
        """Remove the mark, now or when this process ends."""
        if self._file is not None:
            if at_exit:
                atexit.register(self._file.unlink, missing_ok=True)
            else:
                self._file.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what dead processes left: the experiment runs as all others do again."""
        for file in list(self._left()):
            file.unlink(missing_ok=True)

    @property
    def _folder(self) -> Path:
        return self.home / _FOLDER / self.experiment / self.version

    def _left(self) -> Iterator[Path]:
        return (file for file in self._folder.glob("*") if _is_left(file))


def left_marks(home: Path, run_slug: str) -> dict[Path, str]:
    """The marks that dead processes left of a run, each with the name of its experiment."""
    marks = (home / _FOLDER).glob(f"*/*/{run_slug}_*")
    return {file: file.parent.parent.name for file in marks if _is_left(file)}


def _is_left(file: Path) -> bool:
    """True if the process that set a mark is dead; its number may have been given to another since."""
    import psutil  # type: ignore[import-untyped]  # takes longer than all else here, where there are no marks

    try:
        process, marked = psutil.Process(int(file.name.split("_")[-2])), file.stat().st_mtime
        return bool(process.create_time() > marked + _SLACK_S or process.status() == psutil.STATUS_ZOMBIE)
    except (FileNotFoundError, psutil.NoSuchProcess):
        return file.exists()
    except (psutil.Error, IndexError, ValueError):
        return False  # another user's, or nothing of ours
