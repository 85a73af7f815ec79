"""Statements of a person's SQL: parted where Postgres parts them."""

import pytest

from predictbench_assets.database.ad_hoc import as_json, distinct, split_statements


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        (" ; -- nothing; here\n; /* nor /* here; */ ; */", []),
        ("select ';' as \"a;b\"; select 2", ["select ';' as \"a;b\"", "select 2"]),
        ("select 'it''s; one'; select 2", ["select 'it''s; one'", "select 2"]),
        (r"select e'a\'; b'; select 2", [r"select e'a\'; b'", "select 2"]),
        (r"select 'a\'; select 2", [r"select 'a\'", "select 2"]),
        ("do $$ begin; end $$; select 2", ["do $$ begin; end $$", "select 2"]),
        ("do $x$ a; $$; $y$; $x$; select 2", ["do $x$ a; $$; $y$; $x$", "select 2"]),
        ("select $1; select 2$$;", ["select $1", "select 2$$"]),
        ("select 1 -- one; still\n, 2; select 3", ["select 1 -- one; still\n, 2", "select 3"]),
        ("-- why\nselect 1; select 2", ["-- why\nselect 1", "select 2"]),
        ("create rule r as on insert to t do (select 1; select 2); select 3", None),
        ("select 'never closed; select 2", ["select 'never closed; select 2"]),
        ("select /* never closed; select 2", ["select /* never closed; select 2"]),
    ],
)
def test_statements_are_parted_as_postgres_parts_them(sql: str, statements: list[str] | None) -> None:
    expected = [sql[: -len("; select 3")], "select 3"] if statements is None else statements
    assert split_statements(sql) == expected


@pytest.mark.parametrize(
    ("text", "oid", "written"),
    [
        ("5", 23, "5"),
        ("0.10", 1700, "0.10"),
        ("1e+20", 701, "1e+20"),
        ("9" * 5000, 1700, "9" * 5000),
        ("NaN", 701, '"NaN"'),
        ("-Infinity", 1700, '"-Infinity"'),
        ("true", 16, "true"),
        ('{"a": [1e400]}', 3802, '{"a": [1e400]}'),
        ("[" * 9000 + "]" * 9000, 114, "[" * 9000 + "]" * 9000),
        ('{\n"ü": "\U0001f600"}', 114, '{ "\\u00fc": "\\ud83d\\ude00"}'),
        ("5", 25, '"5"'),
        (None, 23, "null"),
    ],
)
def test_values_are_written_as_postgres_printed_them(text: str | None, oid: int, written: str) -> None:
    assert as_json(text, oid) == written


def test_columns_of_one_name_are_numbered() -> None:
    assert distinct(["id", "id", "id_2", "id", "x"]) == ["id", "id_3", "id_2", "id_4", "x"]
