"""The data dictionary tells of every column, and nothing else."""

from typing import Any

import pytest

from predictbench_assets.database.schema import metadata
from predictbench_assets.dataset.files import StoredValueUnusable, as_written, parquet_schema
from predictbench_assets.dataset.tables import (
    EXPORTED_TABLES,
    FORECASTS,
    RELEASED_CONTRACTS,
    dictionary,
    dictionary_markdown,
)


def test_every_column_is_in_the_dictionary_with_a_meaning() -> None:
    told = dictionary()
    assert set(told) == {table.name for table in EXPORTED_TABLES}
    for table in EXPORTED_TABLES:
        columns = told[table.name]["columns"]  # type: ignore[index]
        assert [column["name"] for column in columns] == parquet_schema(table).names
        assert all(column["meaning"] for column in columns)
        for column in table.columns:
            assert f"| `{column.name}` | {column.kind} |" in dictionary_markdown()


def test_an_export_never_reads_raw_snapshots() -> None:
    assert "raw_snapshot" in metadata.tables["predictbench.processed_markets"].c
    assert not any("raw_snapshot" in table.query for table in EXPORTED_TABLES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("probabilities", {"a": "b"}), ("probabilities", ["x", None]), ("probabilities", 7), ("forecast_at", "yesterday")],
)
def test_a_row_that_was_spoilt_by_hand_is_named(name: str, wrong: Any) -> None:
    row = [wrong if column.name == name else None for column in FORECASTS.columns]
    row[[column.name for column in FORECASTS.columns].index("market_id")] = "250400000"
    with pytest.raises(StoredValueUnusable) as caught:
        list(as_written(FORECASTS, [row]))
    assert str(caught.value).startswith("forecasts: the row ")
    assert "250400000" in str(caught.value)
    assert f" has {wrong} stored as its {name} " in str(caught.value)


def test_a_required_value_that_a_hand_has_removed_is_named() -> None:
    row = [None if column.name in ("position", "price") else column.name for column in RELEASED_CONTRACTS.columns]
    with pytest.raises(StoredValueUnusable, match=r"contract_id name has nothing usable stored as its position"):
        list(as_written(RELEASED_CONTRACTS, [row]))
