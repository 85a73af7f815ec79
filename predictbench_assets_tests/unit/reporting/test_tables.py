"""Tables on terminals of any width: no number and no word is broken, no line is longer than the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from predictbench_assets.reporting.tables import Facts, FittedTable, Row, fitted_widths, hanging, wrapped

HEAD = ("rank", "experiment", "markets", "remarks")
ROWS: list[Row] = [
    ("1", "shrunk_market 1", "12,345", "the control beats the market, few events"),
    ("2", "baseline_snapshot 1", None, ""),
]


def printed(head: tuple[str, ...], rows: list[Row], width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(FittedTable(head, rows))
    return file.getvalue().splitlines()


def test_with_room_every_row_is_a_line_and_numbers_stand_below_each_other() -> None:
    assert printed(HEAD, ROWS, 100) == [
        "rank  experiment           markets  remarks",
        "1     shrunk_market 1       12,345  the control beats the market, few events",
        "2     baseline_snapshot 1     NULL",
    ]


def test_sentences_wrap_between_words_where_room_is_short() -> None:
    assert printed(HEAD, ROWS, 60) == [
        "rank  experiment           markets  remarks",
        "1     shrunk_market 1       12,345  the control beats the",
        "                                    market, few events",
        "2     baseline_snapshot 1     NULL",
    ]


def test_a_row_that_cannot_stand_in_a_line_becomes_a_block() -> None:
    assert printed(HEAD, ROWS, 30) == [
        "rank        1",
        "experiment  shrunk_market 1",
        "markets     12,345",
        "remarks     the control beats",
        "            the market, few",
        "            events",
        "",
        "rank        2",
        "experiment  baseline_snapshot",
        "            1",
        "markets     NULL",
        "remarks",
    ]


WORDS = st.text("abcdefghij-0123456789日", min_size=1, max_size=16)
CELLS = st.one_of(st.none(), st.lists(WORDS, max_size=12).map(" ".join))


@given(st.data(), st.integers(1, 9), st.integers(40, 130))
def test_at_every_width_words_stay_whole_and_lines_within(data: st.DataObject, columns: int, width: int) -> None:
    head = tuple(f"column{index}" for index in range(columns))
    rows = data.draw(st.lists(st.tuples(*[CELLS] * columns), min_size=1, max_size=4))
    lines = printed(head, list(rows), width)
    assert max(map(cell_len, lines)) <= width
    found = sorted(word for line in lines for word in line.split())
    cells = [word for row in rows for cell in row for word in ("NULL" if cell is None else cell).split()]
    heads = [word for word in found if word.startswith("column")]
    assert sorted(word for word in found if not word.startswith("column")) == sorted(cells)
    assert len(heads) in (columns, columns * len(rows))


def test_a_name_breaks_after_its_underscore_before_rows_become_blocks() -> None:
    assert printed(("name", "processed_markets"), [("an_experiment_with_a_name", "12")], 27) == [
        "name             processed_",
        "                    markets",
        "an_experiment_           12",
        "with_a_name",
    ]


def test_facts_stand_below_each_other_and_what_is_too_long_below_its_name() -> None:
    file = io.StringIO()
    facts = [("digest", "0" * 31), ("took", "9.7 s, of which the most was spent waiting")]
    Console(file=file, width=40).print(Facts(facts))
    assert file.getvalue().splitlines() == [
        "  digest",
        "    " + "0" * 31,
        "  took    9.7 s, of which the most was",
        "          spent waiting",
    ]


def test_text_of_strangers_does_not_reach_the_terminal_raw() -> None:
    assert printed(("question", "price"), [("\x1b[2Jgone\x07", "0.5")], 80)[1] == r"\x1b[2Jgone\x07    0.5"


def test_a_long_word_without_blanks_breaks_after_a_separator() -> None:
    address = "postgresql://somebody@a-host.example:5432/database?application_name=something&sslmode=require"
    lines = wrapped(address, 50)
    assert "".join(lines) == address
    assert [line[-1] for line in lines[:-1]] == ["/", "="]
    assert wrapped("0" * 64, 64) == ["0" * 64]


def test_an_interval_is_not_parted_at_its_no_break_space() -> None:
    assert wrapped("+0.0012 [-0.0100,\N{NO-BREAK SPACE}+0.0200]", 20) == ["+0.0012", "[-0.0100, +0.0200]"]


@pytest.mark.parametrize(
    ("lead", "text", "lines"),
    [
        ("ok    size  ", "8 MB in all, one of them ours", ["ok    size  8 MB in all, one of", "            them ours"]),
        ("a name that takes half  ", "and a sentence", ["a name that takes half", "    and a sentence"]),
        ("run: ", "digest " + "0" * 28, ["run:", "    digest", "    " + "0" * 28]),
        ("", "a sentence of more words than fit", ["a sentence of more words than", "fit"]),
    ],
)
def test_a_sentence_hangs_behind_what_it_is_about(lead: str, text: str, lines: list[str]) -> None:
    assert hanging(lead, text, 32).split("\n") == lines


def test_widths_are_given_first_to_what_needs_them() -> None:
    assert fitted_widths([5, 80, 40], [5, 10, 10], 65) == [5, 30, 30]
    assert fitted_widths([5, 80, 12], [5, 10, 10], 65) == [5, 48, 12]
    assert fitted_widths([5, 80], [5, 10], 14) is None


def test_a_line_end_in_a_cell_begins_no_line() -> None:
    forged = "Will it?\n1     baseline_snapshot 1    12,345"
    assert printed(("question",), [(forged,)], 200) == [
        "question",
        r"Will it?\n1     baseline_snapshot 1    12,345",
    ]
