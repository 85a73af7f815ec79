"""JSON of strangers as slices of its text, so that one value that no strict parser takes costs that value alone.

A row can be legal JSON that a strict parser refuses: a lone surrogate, a number of a thousand digits, deep nesting.
"""

import re
from collections.abc import Iterator

import msgspec

DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""The errors of msgspec for text that it will not read."""

_STRING = rb'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(_STRING + rb'|[\[\]{},:]|[^\s\[\]{},:"]+|"', re.DOTALL)


MOST_DIGITS = 80
"""Integers with more digits are no ids."""


class UnreadableJson(ValueError):
    """Text that is not one JSON value, not even structurally."""


def object_members(text: bytes) -> dict[str, bytes]:
    """The members of a JSON object as slices of its text, so that one that cannot be read costs that one alone.

    Raises:
        UnreadableJson: the text is not a JSON object, not even structurally.
    """
    try:
        return {key: bytes(value) for key, value in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    except DECODE_ERRORS:
        found = list(json_members(text))
    if any(key is None for key, _ in found) or not text.lstrip().startswith(b"{"):
        raise UnreadableJson("no object")
    return {str(key): value for key, value in found}


def json_members(text: bytes) -> Iterator[tuple[str | None, bytes]]:
    """The members of a JSON object (key, value) or array (None, value) as slices of the text, values not decoded.

    Only brackets and strings are looked at, so a member that no parser would take is handed out like any other. A
    scalar has no members.

    Raises:
        UnreadableJson: the brackets do not close, or a string does not end: the text was cut.
    """
    closing = {b"{"[0]: b"}", b"["[0]: b"]"}
    stack: list[bytes] = []
    key: str | None = None
    start: int | None = None
    finished = False
    for found in _TOKEN.finditer(text):
        token = found.group()
        if finished or token == b'"':
            raise UnreadableJson("more than one value, or a string that does not end")
        if token in (b"{", b"["):
            if len(stack) == 1 and start is None:
                start = found.start()
            stack.append(closing[token[0]])
        elif token in (b"}", b"]"):
            if not stack or stack.pop() != token:
                raise UnreadableJson("brackets that do not match")
            if not stack:
                finished = True
                if start is not None:
                    yield key, text[start : found.start()].rstrip()
        elif len(stack) != 1:
            finished = not stack
        elif token == b",":
            if start is not None:
                yield key, text[start : found.start()].rstrip()
            key, start = None, None
        elif token == b":" and start is not None and key is None and stack[0] == b"}":
            key, start = _key(text[start : found.start()].strip()), None
        elif start is None:
            start = found.start()
    if not finished:
        raise UnreadableJson("brackets that do not close")


def _key(literal: bytes) -> str:
    try:
        return msgspec.json.decode(literal, type=str)
    except DECODE_ERRORS:
        return literal.strip(b'"').decode("utf-8", "replace")


def scalar_text(value: bytes | msgspec.Raw | None) -> str | None:
    """The text of an encoded string or integer, as ids are sent; None for anything else, and for an empty one."""
    if value is None:
        return None
    try:
        decoded = msgspec.json.decode(value)
    except DECODE_ERRORS:
        return None
    if isinstance(decoded, int) and not isinstance(decoded, bool) and abs(decoded) < 10**MOST_DIGITS:
        return str(decoded)
    return decoded if isinstance(decoded, str) and decoded else None
