"""The heap of the C library, where it can be told how to keep memory (glibc); elsewhere nothing is done."""

import ctypes
import sys
from typing import Final

_M_ARENA_MAX: Final = -8
"""The parameter of `mallopt` for the number of heaps, in glibc's malloc.h."""


def share_heap() -> None:
    """Give all threads of this process one heap: each experiment's would fill and leave holes in heaps of their own."""
    _call("mallopt", _M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Return the memory of the asset before to the system.

    All assets of a run share a process, and 20,000 rows of a few kilobytes leave a heap full of holes.
    """
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)  # musl has none of them
        if function is not None:
            function(*arguments)
