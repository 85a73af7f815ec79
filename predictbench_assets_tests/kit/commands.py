"""The command `predictbench` as a person runs it: in a process of its own."""

import subprocess
import sys
from collections.abc import Callable

Predictbench = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    """The command line of a `predictbench` of this interpreter."""
    return [sys.executable, "-m", "predictbench_assets.cli.main", *arguments]
