"""Text of strangers on a terminal: an exchange's questions and a server's errors must not steer it."""

import re

# Control characters but line end and tab, marks that reorder a line, separators of lines, and lone surrogates.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write control characters and marks of direction as escapes, such as `\x1b`; line ends and tabs stay."""
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
