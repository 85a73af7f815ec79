"""Text of strangers: what would steer a terminal is written out, everything else stays."""

import pytest

from predictbench_assets.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\rb\x08c\x7f", r"a\rb\x08c\x7f"),
        ("csi \x9b31m", r"csi \x9b31m"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("one\u2028two", r"one\u2028two"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_letters_of_any_script_emoji_and_line_ends_stay() -> None:
    text = "Zürich 東京 عربي \N{NO-BREAK SPACE}👩\u200d👩\u200d👧 50 %\n\tindented"
    assert printable(text) == text
