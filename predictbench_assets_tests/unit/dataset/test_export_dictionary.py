"""The data dictionary tells of every column, and nothing else."""

from predictbench_assets.database.schema import metadata
from predictbench_assets.dataset.files import parquet_schema
from predictbench_assets.dataset.tables import TABLES, dictionary, dictionary_markdown


def test_every_column_is_in_the_dictionary_with_a_meaning() -> None:
    told = dictionary()
    assert set(told) == {table.name for table in TABLES}
    for table in TABLES:
        columns = told[table.name]["columns"]  # type: ignore[index]
        assert [column["name"] for column in columns] == parquet_schema(table).names
        assert all(column["meaning"] for column in columns)
        for column in table.columns:
            assert f"| `{column.name}` | {column.kind} |" in dictionary_markdown()


def test_an_export_never_reads_raw_snapshots() -> None:
    assert "raw_snapshot" in metadata.tables["predictbench.processed_markets"].c
    assert not any("raw_snapshot" in table.query for table in TABLES)
