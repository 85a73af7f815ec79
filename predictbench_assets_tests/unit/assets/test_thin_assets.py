"""Assets are Dagster's face of a stage: the work itself stands in functions of its room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictbench_assets import assets

LONGEST_BODY = 30
"""Lines of an asset's body, without its signature and docstring."""

_DECORATORS = {"asset", "multi_asset", "asset_check", "multi_asset_check", "graph_asset", "observable_source_asset"}
_FILES = sorted(Path(assets.__path__[0]).glob("*.py"))


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of the body of every function that is decorated as an asset or an asset check."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _DECORATORS & set(_decorators(node)):
            documented = ast.get_docstring(node) is not None
            body = node.body[1:] if documented else node.body
            yield node.name, (node.body[-1].end_lineno or 0) - body[0].lineno + 1


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        yield called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.name)
def test_the_body_of_an_asset_is_short(file: Path) -> None:
    too_long = {name: lines for name, lines in bodies(file.read_text(encoding="utf-8")) if lines > LONGEST_BODY}
    assert not too_long, f"move the work into a function of the stage's room: {too_long}"


def test_every_asset_is_counted() -> None:
    found = [name for file in _FILES for name, _ in bodies(file.read_text(encoding="utf-8"))]
    assert sorted(found) == [
        "benchmark_report",
        "experiment_results",
        "experiment_scores",
        "leaderboard",
        "market_data",
        "market_resolutions",
        "normalized_markets",
        "persisted_run",
        "raw_markets",
        "target_window",
    ]
