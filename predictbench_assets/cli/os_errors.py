"""Refusals of the operating system as a sentence: which path, why, and which setting leads there."""

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from predictbench_assets.settings import SettingsError, is_local, usable_settings

_WHY: Mapping[int, str] = {
    errno.EACCES: "this user may not read or write it",
    errno.EPERM: "this user may not change it",
    errno.EROFS: "it is on a file system that can only be read",
    errno.ENOSPC: "there is no room left on its disk",
    errno.EDQUOT: "this user's share of its disk is used up",
    errno.EFBIG: "it would be larger than a file may be here",
    errno.EIO: "its disk cannot be read or written",
    errno.ENOENT: "it does not exist",
    errno.EEXIST: "something else is in its place",
    errno.ENOTDIR: "a part of its path is a file, and has to be a folder",
    errno.EISDIR: "it is a folder, and has to be a file",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
}


def explained(error: OSError) -> str | None:
    """A sentence on an error of the operating system; None for one that is none of files, or is a fault of ours."""
    why = _WHY.get(error.errno or 0)
    if why is None:
        return None
    if error.filename is None:
        return _without_a_path(error)
    path = Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename))
    return f"{path}: {why}.{_setting(path)}"


def _without_a_path(error: OSError) -> str | None:
    if not _has_current_folder():
        return "the current folder was removed: change to one that is there."
    if "temporary directory" in str(error):
        return f"TMPDIR: {error.strerror or error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return f"a file could not be written ({os.strerror(error.errno).lower()}).{_setting(None)}"
    return None


def _has_current_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _setting(path: Path | None) -> str:
    """A sentence on the setting that names the folder of a path; without a path, on all that name one."""
    try:
        settings = usable_settings()
        folders = {
            "ARTIFACTS_DIR": settings.artifacts,
            **({"STAGING_URI": Path(settings.staging)} if is_local(settings.staging) else {}),
            **({"ARCHIVE_URI": Path(settings.archive)} if is_local(settings.archive) else {}),
            "PREDICTBENCH_HOME": settings.home,
            "TMPDIR": Path(tempfile.gettempdir()),
        }
        # A folder that is not set is part of PREDICTBENCH_HOME, which is.
        given = {name: place for name, place in folders.items() if place != settings.home / place.name}
    except (SettingsError, OSError):
        return ""
    if path is None:
        return " Things are written to " + ", ".join(f"{place} ({name})" for name, place in given.items()) + "."
    found = next((name for name, place in given.items() if path == place or _related(path, place)), None)
    return f" {found} names another place." if found else ""


def _related(path: Path, place: Path) -> bool:
    """Return whether one is inside of the other: a folder that could not be made is above its place."""
    path = path.absolute()
    return place in path.parents or (path in place.parents and path != Path(path.anchor))
