"""Statements of a person's SQL: parted where Postgres parts them."""

import pytest

from predictbench_assets.database.ad_hoc import split_statements, typed


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


def test_values_keep_their_type_in_json() -> None:
    assert typed("5", 23) == 5
    assert typed("0.25", 1700) == 0.25
    assert typed("NaN", 701) == "NaN"
    assert typed("true", 16) is True
    assert typed('{"a": [1]}', 3802) == {"a": [1]}
    assert typed("5", 25) == "5"
    assert typed(None, 23) is None
