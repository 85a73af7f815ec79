"""The expressions of GitHub's workflows, as far as ours use them. What is not understood raises.

`a || b`, `a && b`, `==`, `!=`, `!`, parentheses, literals, `context.path.to_it`, and the functions it is given.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Value = Any
Functions = Mapping[str, Callable[..., Value]]

_TOKEN = re.compile(
    r"\s*(?:(?P<operator>\|\||&&|==|!=|[!(),])|'(?P<string>(?:[^']|'')*)'|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<path>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*))"
)
_EMBEDDED = re.compile(r"\$\{\{(.*?)\}\}", re.S)
_WORDS = {"true": True, "false": False, "null": None}


class NotUnderstood(Exception):
    """An expression that this reader does not know, or a name that GitHub would not know."""


class Declared(dict[str, Value]):
    """A context whose members are all known: asking for another one raises instead of giving null."""


class Open(dict[str, Value]):
    """A context that anything may be asked of: variables, secrets and outputs that are not set are null."""


def filled(text: Value, contexts: Mapping[str, Value], functions: Functions) -> Value:
    """A value with its `${{ }}` replaced; one that is nothing else keeps its type."""
    if not isinstance(text, str):
        return text
    whole = _EMBEDDED.fullmatch(text.strip())
    if whole and text.count("${{") == 1:
        return evaluated(whole[1], contexts, functions)
    return _EMBEDDED.sub(lambda match: as_text(evaluated(match[1], contexts, functions)), text)


def as_text(value: Value) -> str:
    """A value as it appears in a variable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def evaluated(text: str, contexts: Mapping[str, Value], functions: Functions) -> Value:
    """What an expression comes to."""
    reader = _Reader(text, contexts, functions)
    value = reader.any_of()
    if reader.token is not None:
        raise NotUnderstood(f"{text!r} goes on with {reader.token!r}")
    return value


class _Reader:
    """Recursive descent; both sides of `||` and `&&` are read, which is harmless as nothing here has effects."""

    def __init__(self, text: str, contexts: Mapping[str, Value], functions: Functions) -> None:
        self._text, self._at, self._contexts, self._functions = text.strip(), 0, contexts, functions
        self.token: tuple[str, str] | None = None
        self._advance()

    def any_of(self) -> Value:
        value = self._all_of()
        while self._took("||"):
            other = self._all_of()
            value = value if _true(value) else other
        return value

    def _all_of(self) -> Value:
        value = self._compared()
        while self._took("&&"):
            other = self._compared()
            value = other if _true(value) else value
        return value

    def _compared(self) -> Value:
        value = self._unary()
        if self._took("=="):
            return _equal(value, self._unary())
        if self._took("!="):
            return not _equal(value, self._unary())
        return value

    def _unary(self) -> Value:
        if self._took("!"):
            return not _true(self._unary())
        if self._took("("):
            value = self.any_of()
            self._demand(")")
            return value
        if self.token is None:
            raise NotUnderstood(f"{self._text!r} ends too early")
        kind, text = self.token
        self._advance()
        if kind == "string":
            return text.replace("''", "'")
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind != "path":
            raise NotUnderstood(f"{text!r} in {self._text!r}")
        if self._took("("):
            return self._called(text)
        return _WORDS[text] if text in _WORDS else self._looked_up(text)

    def _called(self, name: str) -> Value:
        arguments = []
        while not self._took(")"):
            arguments.append(self.any_of())
            self._took(",")
        if name not in self._functions:
            raise NotUnderstood(f"function {name} in {self._text!r}")
        return self._functions[name](*arguments)

    def _looked_up(self, path: str) -> Value:
        value: Value = Declared(self._contexts)
        for name in path.split("."):
            if isinstance(value, Declared) and name not in value:
                raise NotUnderstood(f"{name} in {path}: {self._text!r}")
            if not isinstance(value, Mapping):
                raise NotUnderstood(f"{name} of a value in {path}: {self._text!r}")
            value = value.get(name)
        return value

    def _took(self, operator: str) -> bool:
        if self.token != ("operator", operator):
            return False
        self._advance()
        return True

    def _demand(self, operator: str) -> None:
        if not self._took(operator):
            raise NotUnderstood(f"{self._text!r} lacks {operator!r}")

    def _advance(self) -> None:
        if self._at == len(self._text):
            self.token = None
            return
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise NotUnderstood(f"{self._text[self._at :]!r} in {self._text!r}")
        self._at = match.end()
        self.token = (match.lastgroup, match[match.lastgroup])


def _true(value: Value) -> bool:
    return value not in (None, False, 0, "")


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return _number(one) == _number(other)


def _number(value: Value) -> float:
    if value is None or value == "":
        return 0.0
    try:
        return float(value)
    except ValueError:
        return float("nan")
