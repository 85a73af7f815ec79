"""The commit of this project that is running: runs are stored with it."""

import subprocess
from functools import lru_cache
from pathlib import Path

from predictbench_assets.settings import Settings


def running_commit(settings: Settings) -> str | None:
    """The commit that the settings name, else the one that this code is checked out at; None where there is none."""
    return settings.git_sha or _checked_out()


@lru_cache(maxsize=1)
def _checked_out() -> str | None:
    clone = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            ["git", "-C", str(clone), "rev-parse", "HEAD"],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
