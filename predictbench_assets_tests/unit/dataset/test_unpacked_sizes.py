"""A few bytes of a release that unpack to more than memory are refused before they do."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from predictbench_assets.dataset import files
from predictbench_assets.dataset.files import batch_rows, read_lines, read_parquet
from predictbench_assets.dataset.tables import RELEASED_EXPERIMENTS

TABLE = RELEASED_EXPERIMENTS


def test_a_line_without_an_end_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LONGEST_LINE", 100)
    packed = zstandard.compress(b"{}\n" + b"x" * 99 + b"\n" + b" " * 50_000_000)
    (tmp_path / f"{TABLE.name}.jsonl.zst").write_bytes(packed)
    lines = read_lines(tmp_path, TABLE)
    assert [len(next(lines)), len(next(lines))] == [3, 100]
    with pytest.raises(ValueError, match="a line unpacks to more than 100 bytes"):
        next(lines)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x" * 70_000_000]),
        pa.DictionaryArray.from_arrays(pa.array([0] * 6_000_000, pa.int8()), pa.array(["x"])),
    ],
    ids=["a long text", "many values"],
)
def test_a_column_that_unpacks_to_too_much_is_not_read(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / f"{TABLE.name}.parquet"
    pq.write_table(pa.table({"name": column}), path, compression="zstd", row_group_size=10_000_000)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(pa.ArrowInvalid, match="name unpacks to"):
        next(read_parquet(tmp_path, TABLE))


def test_what_is_repeated_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int8()), pa.array(["x" * 4_000_000]))
    pq.write_table(pa.table({"name": long}), tmp_path / "long.parquet", compression="zstd")
    pq.write_table(pa.table({"name": pa.array(["x"] * 5_000)}), tmp_path / "short.parquet")
    with pq.ParquetFile(tmp_path / "long.parquet") as file:
        assert batch_rows(file) * 4_000_000 <= 256_000_000
    with pq.ParquetFile(tmp_path / "short.parquet") as file:
        assert batch_rows(file) == 5_000
