"""The card of a release: a head that hubs of data sets read, and first queries that work as they are pasted."""

import math
import re
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

import predictbench_assets as pb
from predictbench_assets.dataset.card import dataset_card
from predictbench_assets.dataset.manifest import read_manifest
from predictbench_assets.dataset.tables import RELEASED_TABLES
from predictbench_assets_tests.integration.dataset.planted import EXPERIMENTS, THEN

FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```", re.M | re.S)


def blocks(folder: Path, language: str) -> list[str]:
    card = (folder / "README.md").read_text()
    return [found["body"] for found in FENCE.finditer(card) if found["language"] == language]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_head_is_what_hubs_of_data_sets_read(world: tuple[str, Path]) -> None:
    _, folder = world
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["pretty_name"] == "Predictbench 2026-02"
    assert (told["license"], told["license_name"]) == ("other", "see-notice")
    assert (folder / told["license_link"]).is_file()
    assert told["language"] == ["en"]
    assert told["size_categories"] == ["1K<n<10K"]
    assert "forecasting" in told["tags"]
    configs = {config["config_name"]: config for config in told["configs"]}
    assert set(configs) == {table.name for table in RELEASED_TABLES}
    assert [name for name, config in configs.items() if config.get("default")] == ["forecasts"]
    for config in configs.values():
        assert pq.ParquetFile(folder / config["data_files"]).metadata.num_rows > 0
    for name in EXPERIMENTS:
        assert f"`{name} 1`" in body
    assert "4 runs from 2026-02-02 to 2026-02-05, of markets that close 7 days ahead" in body
    for title in ("First queries", "What it does not know", "Checksums", "Terms", "Citation", "Data dictionary"):
        assert f"\n## {title}\n" in body
    assert re.findall(r"^# .*", body, re.M) == ["# Predictbench 2026-02"]


def test_the_queries_agree_with_each_other_and_with_the_board(
    world: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world[1])
    polars, ours, checksums = blocks(world[1], "python")
    edges, board = run(polars)["edges"], run(ours)["board"]
    assert "mean_edge" in capsys.readouterr().out
    run(checksums)
    [query] = blocks(world[1], "sql")
    with duckdb.connect() as connection:
        names = [column[0] for column in connection.execute(query).description]
        rows = connection.fetchall()
    assert names == edges.columns
    assert len(rows) == len(edges) == len(EXPERIMENTS)
    for row, other in zip(sorted(rows), sorted(edges.iter_rows()), strict=True):
        assert row[:5] == other[:5]
        assert all(math.isclose(*pair, abs_tol=1e-12) for pair in zip(row[5:], other[5:], strict=True))
    timely = board.filter(pl.col("experiment") != "tardy")
    for name, markets, edge in timely.select("experiment", "n_markets", "mean_edge").iter_rows():
        [[counted, mean]] = edges.filter(pl.col("experiment") == name).select("markets", "edge").rows()
        # The market that was withdrawn is in the files, and not on the board.
        assert 0 <= counted - markets <= 1, name
        assert math.isclose(mean, edge, abs_tol=2 / markets), name


def test_a_file_that_was_touched_is_found_without_our_code(
    world: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in world[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    check = blocks(tmp_path, "python")[-1]
    run(check)
    (tmp_path / "markets.parquet").write_bytes(b"PAR1")
    with pytest.raises(AssertionError, match=r"markets\.parquet"):
        run(check)


def test_a_sandbox_is_called_simulated(world: tuple[str, Path]) -> None:
    manifest = read_manifest(world[1])
    card = dataset_card(
        version="1", as_of=THEN, rows=manifest.rows, cohorts=manifest.cohorts, experiments=[], simulated=True
    )
    _, head, body = card.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["pretty_name"] == "Predictbench 1 (simulated)"
    assert "synthetic" in told["tags"]
    assert "**Simulated.**" in body
    assert "**Simulated.**" not in (world[1] / "README.md").read_text()
    assert pb.open_benchmark(release=world[1]).as_of == THEN
