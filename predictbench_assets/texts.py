"""Texts that come from outside: decoded by what they are, trimmed, and checked for characters that nothing can use."""

import codecs
import stat
import unicodedata
from pathlib import Path
from typing import Final

_MARKS = (
    # UTF-32 before UTF-16: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_QUOTES = ('"', "'")
MOST_BYTES: Final = 256_000_000
"""The most that a file may have which is read whole."""

# Control characters, line and paragraph separators, bytes that were not UTF-8.
_UNUSABLE = frozenset({"Cc", "Zl", "Zp", "Cs"})
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"


class UndecodableFile(ValueError):
    """A text file that cannot be read; the text names the file, the line, and what to do."""


def read_whole(file: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; a pipe or a device would be waited for, or read without an end.

    Raises:
        UndecodableFile: it is no file, or has more than `most` bytes.
        OSError: as `Path.read_bytes`.
    """
    found = file.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise UndecodableFile(f"{file} is a pipe or a device, and has to be a file")
    content = b""
    if found.st_size <= most:
        with file.open("rb") as opened:
            content = opened.read(most + 1)  # of /proc, or still being written
    if max(found.st_size, len(content)) > most:
        raise UndecodableFile(f"{file} has more than {most:,} bytes")
    return content


def read_text(file: Path, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 where it begins with their mark; line ends become `\n`.

    Raises:
        UndecodableFile: in another encoding, binary, of more than `most` bytes, a folder, not there, or not readable by
            this user.
    """
    return _decoded(file, most)[0].replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(file: Path) -> str:
    """The name of the encoding of a file that `read_text` can read.

    Raises: as there.
    """
    return _decoded(file)[1]


def _decoded(file: Path, most: int = MOST_BYTES) -> tuple[str, str]:
    try:
        content = read_whole(file, most)
    except IsADirectoryError:
        raise UndecodableFile(f"{file} is a folder, and has to be a file") from None
    except OSError as error:
        raise UndecodableFile(f"{file} cannot be read: {(error.strerror or type(error).__name__).lower()}") from None
    return _decoded_bytes(file, content)


def decoded(file: Path, content: bytes) -> str:
    """The text of a file's bytes, as `read_text` has it but for the line ends.

    Raises:
        UndecodableFile: as there.
    """
    return _decoded_bytes(file, content)[0]


def _decoded_bytes(file: Path, content: bytes) -> tuple[str, str]:
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UndecodableFile(
            f"{file}, line {line}, is not {encoding.removesuffix('-sig').upper()} text: save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UndecodableFile(f"{file}, line {line}, has NUL characters (UTF-16 without its mark?): save it as UTF-8")
    return text, encoding


def trimmed(text: str) -> str:
    """The text without blanks, line ends, byte order marks and one pair of quotes around it."""
    text = _without_blanks(text)
    if len(text) >= 2 and text[0] in _QUOTES and text[-1] == text[0]:
        text = _without_blanks(text[1:-1])
    return text


def unusable_character(text: str) -> str | None:
    """Name, for a person, of the first character that no setting can hold, with its place; None where none is."""
    for position, character in enumerate(text, 1):
        if unicodedata.category(character) in _UNUSABLE or character in _INVISIBLE:
            return f"{_named(character)} at position {position}"
    return None


def _named(character: str) -> str:
    if character in "\r\n\x85\u2028\u2029":
        return "a line break"
    if unicodedata.category(character) == "Cs":
        return "a byte that is not UTF-8"
    return f"the character U+{ord(character):04X}"


def _without_blanks(text: str) -> str:
    before = None
    while text != before:
        before, text = text, text.strip().strip(_INVISIBLE + "\0")
    return text


def is_unicode(text: str) -> bool:
    """False for a text with half a surrogate pair, which no database and no UTF-8 can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True
