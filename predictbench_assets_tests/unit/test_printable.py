"""Text of strangers: what would steer a terminal is written out, everything else stays."""

import json

import pytest

from predictbench_assets.printable import continued, in_json, on_one_line, printable, visible


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::add-mask::a", r"\x3a:add-mask::a"),
        ("asked ::error file=a,line=1::stop", r"asked \x3a:error file=a,line=1::stop"),
        ("one\n  ::stop-commands::x", "one\n  \\x3a:stop-commands::x"),
        ("it says ##[error]no", r"it says \x23#[error]no"),
        ("a::b, ::1, std::vector ::, ## [x] ##", "a::b, ::1, std::vector ::, ## [x] ##"),
    ],
)
def test_no_command_reaches_a_runner(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_line_of_a_text_can_be_taken_for_another_entry() -> None:
    forged = "asked A\n12:00:00 INFO    all is well"
    assert on_one_line(forged) == r"asked A\n12:00:00 INFO    all is well"
    assert continued(forged) == "asked A\n    | 12:00:00 INFO    all is well"


def test_json_means_the_same() -> None:
    text = "##[add-mask]a\x7f\x1b"
    encoded = in_json(json.dumps(text))
    assert json.loads(encoded) == text
    assert "##[" not in encoded
    assert encoded.isprintable()


def test_what_nobody_can_see_is_written_out_and_emoji_and_scripts_stay() -> None:
    hidden = "a\u200bb\u00adc\U000e0041d\u3164e\ufeff\u2060\U000e0101"
    assert visible(hidden) == r"a\u200bb\xadc\U000e0041d\u3164e\ufeff\u2060\U000e0101"
    for text in ("👩\u200d💻", "\u0645\u06cc\u200c\u062e", "❤\ufe0f", "Ünïcode ✓", "日本語"):
        assert visible(text) == text
    assert visible("\u202eevil") == r"\u202eevil"
