"""The example notebook runs in a kernel, and what docs/notebooks.md and the README show runs, on a demo's database."""

import re
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient

from predictbench_assets_tests.integration.dataset.planted import DAYS, MARKETS
from predictbench_assets_tests.kit.places import CLONE

NOTEBOOKS = sorted((CLONE / "examples").glob("*.ipynb"))
PYTHON = re.compile(r"^```python\n(?P<body>.*?)^```", re.M | re.S)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_first_look_runs_from_above(demo_project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = read(CLONE / "examples" / "first-look.ipynb")
    where = {"metadata": {"path": str(demo_project / "examples")}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type in ("error", "stream")]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) == 3
    assert "Will it happen" in tables[0]
    # Those who are apart from the price by 0.05 somewhere.
    assert all(f">&quot;{name}&quot;<" in tables[1] for name in ("bold", "oracle", "tardy", "uniform")), tables[1]
    assert "lazy" not in tables[1]


def run(document: Path, monkeypatch: pytest.MonkeyPatch, demo_project: Path) -> dict[str, Any]:
    """The names that the document's blocks leave, run one after the other."""
    monkeypatch.chdir(demo_project)
    names: dict[str, Any] = {}
    blocks = [found["body"] for found in PYTHON.finditer(document.read_text())]
    for block in blocks:
        if "class " not in block:
            exec(compile(block, document.name, "exec"), names)
    return names


def test_what_the_document_shows_runs(demo_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(CLONE / "docs" / "notebooks.md", monkeypatch, demo_project)
    assert len(names["markets"]) == DAYS * MARKETS
    assert set(names["forecasts"]["experiment"]) == {"baseline_snapshot", "uniform"}
    assert len(names["shown"]) == len(names["board"])
    assert f"of {len(names['board'].columns)} columns" in (CLONE / "docs" / "notebooks.md").read_text()
    assert len(names["cuts"]) > len(names["board"]) > 0
    assert names["earlier"].as_of.date() == names["bench"].as_of.date()
    assert names["meanings"].filter(pl.col("name") == "price")["unit"].to_list() == ["probability"]
    counted = {(experiment, status): n for experiment, status, n in names["counts"]}
    assert counted["lazy", "completed"] == DAYS * 20
    assert counted["lazy", "skipped"] == DAYS * (MARKETS - 20)


def test_what_the_readme_shows_runs(demo_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = run(CLONE / "README.md", monkeypatch, demo_project)["bench"]
    assert set(bench.boards(board="core")["board"]) == {"core"}
