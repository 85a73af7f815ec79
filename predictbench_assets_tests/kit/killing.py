"""Dagster's command line in a process that kills itself at a chosen moment.

A point is `module:name` or `module:Class.method`, a colon, `before` or `after`, and the number of the call (of a
generator: before the item of that number), as in `predictbench_assets.persistence.leases:Lease.finish:after:1`. Also a
program: `python -m predictbench_assets_tests.kit.killing POINT job execute ...`.
"""

import functools
import importlib
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

NOWHERE = "nowhere"
"""The point of a process that lives."""


def run(point: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
    """Run `dagster` in this process, with that folder, environment and output; does not return."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    main([point, *arguments])


def main(arguments: Sequence[str]) -> None:
    """Arm the point that comes first, then be `dagster` with the rest."""
    point, *rest = arguments
    small_batches()
    if point != NOWHERE:
        arm(point)
    sys.argv = ["dagster", *rest]
    from dagster._cli import main as dagster

    dagster()


def small_batches() -> None:
    """Several batches for a small day."""
    from predictbench_assets.persistence import run_write
    from predictbench_assets.persistence.writer import RunWriter

    run_write.RunWriter = small(RunWriter)  # type: ignore[misc]


def small(writer: Any, **arguments: Any) -> Any:
    """The writer, five markets at a time."""
    arguments = {"batch_size": 5, **arguments}
    return type("SmallBatches", (writer,), {"__init__": functools.partialmethod(writer.__init__, **arguments)})


def arm(point: str, victims: Callable[[], Sequence[int]] = lambda: [os.getpid()]) -> None:
    """Put a SIGKILL around a call, of this process where no other victims are named."""
    module_name, path, when, number = point.split(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    wrapped = lethal(getattr(owner, name), when, int(number), victims)
    original = getattr(owner, name)
    setattr(owner, name, wrapped)
    # Names that were imported from there already.
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("predictbench_assets.") and vars(module).get(name) is original:
            setattr(module, name, wrapped)


def lethal(
    function: Callable[..., Any], when: str, number: int, victims: Callable[[], Sequence[int]]
) -> Callable[..., Any]:
    """The function, the n-th call or item of which is the end of some processes."""
    calls = itertools.count(1)

    def end(*, at: str, call: int) -> None:
        if at == when and call == number:
            for victim in victims():
                os.kill(victim, signal.SIGKILL)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generated(*args: Any, **kwargs: Any) -> Any:
            for item in function(*args, **kwargs):
                end(at="before", call=next(calls))
                yield item

        return generated

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            call = next(calls)
            end(at="before", call=call)
            value = await function(*args, **kwargs)
            end(at="after", call=call)
            return value

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        end(at="before", call=call)
        value = function(*args, **kwargs)
        end(at="after", call=call)
        return value

    return called


if __name__ == "__main__":
    main(sys.argv[1:])
