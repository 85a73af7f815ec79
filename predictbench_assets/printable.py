"""Text of strangers on a terminal: an exchange's questions and a server's errors must not steer it."""

import re

# Control characters but line end and tab, marks that reorder a line, separators of lines, and lone surrogates.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Characters without a shape: soft hyphen, fillers, blanks of no width, tags and variation selectors that carry data.
_UNSEEN = re.compile(
    r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\u2800\u3164\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

# Starts that a runner of GitHub Actions takes for a command, wherever a table or a wrapped sentence puts it.
_COMMAND = re.compile(r"(?<!\S)::(?=[A-Za-z-]+(?:\s[^\n]*)?::)|##(?=\[[A-Za-z-]+)")


def printable(text: str) -> str:
    r"""Write control characters and marks of direction as escapes, such as `\x1b`; line ends and tabs stay.

    A command to a runner of GitHub Actions loses its first character to an escape as well.
    """
    shown = _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
    return _COMMAND.sub(lambda found: rf"\x{ord(found.group()[0]):02x}{found.group()[1]}", shown)


def on_one_line(text: str) -> str:
    r"""The same with line ends as `\n`, where a line of its own would be taken for another entry."""
    return printable(text).replace("\n", "\\n")


def visible(text: str) -> str:
    r"""Write what nobody can see as escapes too, such as `\u200b`: words may be hidden in it from a reader.

    The joiners of emoji and of several scripts stay.
    """
    return printable(_UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text))


def in_json(encoded: str) -> str:
    """Encoded JSON that means the same, without what a runner of GitHub Actions takes for a command inside a line."""
    return encoded.replace("##[", "#\\u0023[").replace("\x7f", "\\u007f")


def continued(text: str) -> str:
    """The same with further lines behind a mark, so that none of them can be taken for another entry."""
    return printable(text).replace("\n", "\n    | ")


def shortened(value: object, longest: int = 80) -> str:
    """Show a value in a reason: a text quoted and escaped, at most `longest` characters of it, whatever was sent."""
    text = value if isinstance(value, str) else repr(value)[: 4 * longest]
    cut = text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
    return ascii(cut) if isinstance(value, str) else cut
