"""An experiment's own code: where in it a call failed, and whether it is still what it was."""

import ast
import hashlib
import inspect
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from predictbench_assets.experiments.protocol import METHODS, Experiment, unit_of

_DIGITS: Final = 12
_OURS = Path(__file__).resolve().parents[1]
_INSTALLED = "site-packages"
_PARSING = threading.Lock()
"""In some releases of Python 3.11 two threads that parse at once share a count of their depth: a SystemError."""


class ExperimentSource:
    """The code of one experiment. Without files to read (a class that was typed in), nothing is known of it."""

    def __init__(self, experiment: Experiment) -> None:
        self._kind, self._method = type(experiment), METHODS[unit_of(experiment)]
        own = [kind for kind in self._kind.__mro__ if kind not in Experiment.__mro__]
        self._files = {_resolved(file) for kind in own if (file := _file_of(kind)) is not None}
        self._root, self._area = self._places()

    def digest(self) -> str | None:
        """A digest of the code of the experiment's module, comments, layout and other experiments left out."""
        try:
            source = inspect.getsource(sys.modules[self._kind.__module__])
            with _PARSING:
                tree = ast.parse(source)
        except (KeyError, TypeError, OSError, SyntaxError):
            return None
        own = {kind.__name__ for kind in self._kind.__mro__}
        body = [node for node in tree.body if not isinstance(node, ast.ClassDef) or node.name in own]
        return hashlib.sha256(ast.dump(ast.Module(body, [])).encode()).hexdigest()[:_DIGITS]

    def place_of(self, error: BaseException | None) -> str | None:
        """Locate the failure as `file.py:12 in function`, the file relative to where it is imported from.

        The innermost line of the class's own package or folder: neither the runner is at fault nor a library that was
        called. An error without such a line, as of an answer that cannot be stored, gets the line of the method.
        """
        own = [frame for frame in _frames(error) if self._is_own(_resolved(frame[0]))]
        if own:
            file, line, function = own[-1]
            return f"{self._name(file)}:{line} in {function}"
        method: Any = inspect.unwrap(getattr(self._kind, self._method))
        code = getattr(method, "__code__", None)
        if code is None or not self._files:
            return None
        return f"{self._name(code.co_filename)}:{code.co_firstlineno} in {code.co_name}"

    def _places(self) -> tuple[Path | None, Path | None]:
        """The folder that files are named from, and the folder or the file of the experiment's own code."""
        file = _file_of(self._kind)
        if file is None:
            return None, None
        path, package = _resolved(file), self._kind.__module__.split(".")
        if len(package) > 1:
            root = path.parents[len(package) - 1 + (path.name == "__init__.py")]
            return root, root / package[0]
        return path.parent, path if _INSTALLED in path.parts else path.parent

    def _is_own(self, path: Path) -> bool:
        if path in self._files:
            return True
        area = self._area
        if area is None or _OURS in path.parents or area not in path.parents:
            return False
        return _INSTALLED not in path.relative_to(area).parts

    def _name(self, file: str) -> str:
        path, root = _resolved(file), self._root
        return path.name if root is None or root not in path.parents else path.relative_to(root).as_posix()


def _file_of(kind: type) -> str | None:
    try:
        return inspect.getfile(kind)
    except (TypeError, OSError):
        return None


@cache
def _resolved(file: str) -> Path:
    return Path(file).resolve()


def _frames(error: BaseException | None) -> list[tuple[str, int | None, str]]:
    """File, line and function of what an error went through; a group of errors has those of its first one too."""
    if error is None:
        return []
    inner = _frames(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else []
    codes = ((trace.tb_frame.f_code, trace.tb_lineno) for trace in _walk(error.__traceback__))
    return [*((code.co_filename, line, code.co_name) for code, line in codes), *inner]


def _walk(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next
