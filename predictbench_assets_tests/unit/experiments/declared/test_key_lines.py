"""Where the keys of a TOML file stand, against files whose places are known."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.declared.lines import key_lines, line_of

TEXT = '''# a comment with = and [brackets]

[first]
kind = "a # b"   # and [another]
prompt = """
[not_a_table]
key = "no key"
"""
list = [
  "x = 1",  # [no]
  {inner = 2},
]
"quoted key" = 'it''s'
dotted.key.deep = 1
[first.limits]
markets = 3

[ "second" . "a.b" ]
x = {y = {z = 1}}
[[array]]
last = true'''


def test_each_key_has_the_line_that_it_begins_in() -> None:
    text = TEXT.replace("'it''s'", "'its'")
    lines = key_lines(text)
    expected = {
        ("first",): 3,
        ("first", "kind"): 4,
        ("first", "prompt"): 5,
        ("first", "list"): 9,
        ("first", "quoted key"): 13,
        ("first", "dotted", "key", "deep"): 14,
        ("first", "limits"): 15,
        ("first", "limits", "markets"): 16,
        ("second", "a.b", "x"): 19,
        ("array", "last"): 21,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert not any("not_a_table" in path or "inner" in path for path in lines)
    assert line_of(lines, ("first", "list", 1, "inner")) == 9
    assert line_of(lines, ("second", "a.b", "x", "y", "z")) == 19
    assert line_of(lines, ("absent",)) == 1


_KEYS = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
_VALUES = st.one_of(
    st.integers(-9, 9).map(str),
    st.text("ab#[]{}='\n ", max_size=8).map(lambda text: '"""' + text + '"""'),
    st.text('ab#[]{}="\n ', max_size=8).map(lambda text: "'''" + text + "'''"),
    st.lists(st.integers(0, 9), max_size=3).map(lambda numbers: "[\n" + ",\n".join(map(str, numbers)) + "\n]"),
    st.just("{a = 1, b = [2]} # end"),
)


@given(st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=4))
def test_whatever_the_values_are_every_key_is_found(tables: dict[str, dict[str, str]]) -> None:
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}
    for table, content in tables.items():
        expected[table,] = len(lines) + 1
        lines.append(f"[{table}]")
        for key, value in content.items():
            expected[table, key] = len(lines) + 1
            lines += f"{key} = {value}".split("\n")
    text = "\n".join(lines)
    tomllib.loads(text)
    assert key_lines(text) == expected
