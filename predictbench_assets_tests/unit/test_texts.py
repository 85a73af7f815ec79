"""Texts from outside: decoded by their marks, trimmed, and refused where nobody can mean them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.texts import MOST_BYTES, UndecodableFile, read_text, read_whole, trimmed, unusable_character

TEXT = "# Zürich\r\nMAX_MARKETS=5\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_with_a_mark_is_read_in_its_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "file").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "file") == "# Zürich\nMAX_MARKETS=5\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\nB=2\n# Z\xfcrich\n", r"file, line 3, is not UTF-8 text: save the file as UTF-8"),
        ("A=1\nB=2\n".encode("utf-16-le"), r"file, line 1, has NUL characters"),
        (b"A=1\nB=\0\n", r"file, line 2, has NUL characters"),
        (b"\xff\xfeA", r"file, line 1, is not UTF-16 text"),
    ],
)
def test_another_encoding_is_refused_with_the_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UndecodableFile, match=said):
        read_text(tmp_path / "file")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndecodableFile, match="is a folder, and has to be a file"):
        read_text(tmp_path)
    with pytest.raises(UndecodableFile, match=r"none cannot be read: no such file"):
        read_text(tmp_path / "none")


@pytest.mark.parametrize(
    "around", ["{}\n", "\r\n{}", "\ufeff{}", '"{}"', "'{}\n'", ' "{}" \n', "\u200b{}\u00a0", "{}\0"]
)
def test_what_is_around_a_text_goes(around: str) -> None:
    assert trimmed(around.format("a 'b' c")) == "a 'b' c"


@given(st.text())
def test_trimming_twice_is_trimming_once_but_for_quotes(text: str) -> None:
    once = trimmed(text)
    assert once == once.strip()
    assert once in text
    assert trimmed(f"\ufeff{once}\n") == trimmed(once)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ab\nc", "a line break at position 3"),
        ("a\u2028", "a line break at position 2"),
        ("\x07", "the character U+0007 at position 1"),
        ("a\ufeffb", "the character U+FEFF at position 2"),
        ("a\udcffb", "a byte that is not UTF-8 at position 2"),
        ("Zürich, ✓ 'x'", None),
    ],
)
def test_a_character_that_nobody_can_mean_is_named(text: str, found: str | None) -> None:
    assert unusable_character(text) == found


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UndecodableFile, match="is a pipe or a device, and has to be a file"):
            read_text(endless)
    (tmp_path / "file").write_bytes(b"1234")
    assert read_whole(tmp_path / "file", 4) == b"1234"
    with pytest.raises(UndecodableFile, match="has more than 3 bytes"):
        read_whole(tmp_path / "file", 3)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(40 * MOST_BYTES)
    with pytest.raises(UndecodableFile, match="has more than"):
        read_whole(tmp_path / "sparse")
