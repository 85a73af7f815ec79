"""Keeping secrets out of what is seen and kept: out of errors, log records, and what is printed.

Dagster keeps errors and log lines in its event log as they are, for everyone who opens the UI, so they must be clean
before Dagster sees them. What is redacted is always a text, by a function of the settings that knows their secrets.
"""

import base64
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus

Redact = Callable[[str], str]

_SHORTEST = 4
"""Shorter texts are part of too many words to be taken out of them."""

_SHORTEST_ENCODED = 8
_LONGEST_LINE = 64 * 1024


class ErrorWithSecrets(Exception):
    """Stand-in for an error whose own text cannot be changed: the same text without the secrets."""


def secret_forms(secret: str) -> set[str]:
    """Spellings of a secret in a text: plain, percent-encoded, quoted by Python or JSON, or in base64.

    In base64 it is spelled differently after one or two other bytes, as in `user:password`, so the part that is the
    same in any surroundings is given.
    """
    plain = {secret, secret.strip()}
    written = {quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    forms = {form for form in plain | written if len(form) >= _SHORTEST}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {
            form for offset in range(3) if len(form := _inside(secret.encode(), offset, encode)) >= _SHORTEST_ENCODED
        }
    return forms


def _inside(secret: bytes, offset: int, encode: Callable[[bytes], bytes]) -> str:
    """The characters of the base64 of `offset` other bytes and the secret that depend on the secret alone."""
    encoded = encode(b"\0" * offset + secret).decode()
    return encoded[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6]


def redacted_error(error: Exception, redact: Redact) -> Exception:
    """The error, and all that it came of, without secrets in any text: the same object wherever that can be done."""
    try:
        return cast(Exception, _redacted(error, redact, {}))
    except Exception:  # a class that cannot be looked into, a chain without end: better nothing than a secret
        return ErrorWithSecrets(f"{type(error).__name__}: its text cannot be shown")


def _redacted(error: BaseException, redact: Redact, done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    done[id(error)] = error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            _redacted(member, redact, done)
    clean = _cleaned(error, redact)
    done[id(error)] = clean
    cause, context = error.__cause__, error.__context__
    if cause is not None and (other := _redacted(cause, redact, done)) is not clean.__cause__:
        clean.__cause__ = other
    if context is not None and (other := _redacted(context, redact, done)) is not clean.__context__:
        clean.__context__ = other
    clean.__suppress_context__ = error.__suppress_context__
    return clean


def _cleaned(error: BaseException, redact: Redact) -> BaseException:
    """One error without its causes."""
    if not _leaks(error, redact):
        return error
    with suppress(Exception):  # a stranger's class may refuse anything
        error.args = tuple(redact(one) if isinstance(one, str) else one for one in error.args)
        for name, value in list(vars(error).items()):
            if isinstance(value, str):
                setattr(error, name, redact(value))
            elif name == "__notes__":
                error.__notes__ = [redact(str(note)) for note in value]
    if not _leaks(error, redact):
        return error
    message = redact(f"{type(error).__name__}: {_text(error)}")
    return ErrorWithSecrets(message).with_traceback(error.__traceback__)


def _leaks(error: BaseException, redact: Redact) -> bool:
    """True where a secret would be seen where the error is shown, with its notes and the members of a group."""
    shown = "\n".join((_text(error), repr(error.args), *map(str, getattr(error, "__notes__", ()))))
    if redact(shown) != shown:
        return True
    return isinstance(error, BaseExceptionGroup) and any(_leaks(member, redact) for member in error.exceptions)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def redacted_json(value: Any, redact: Redact) -> Any:
    """The value, in JSON's own types, with its texts redacted one by one: it stays JSON whatever a secret holds."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {redact(key): redacted_json(item, redact) for key, item in value.items()}
        case list():
            return [redacted_json(item, redact) for item in value]
        case _:
            return value


def redact_records(redact: Redact) -> None:
    """Take secrets out of the message of each log record of this process, before any handler sees it."""

    def make(*args: Any, **values: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **values)
        with suppress(TypeError, ValueError):  # the handler reports placeholders that do not fit
            message = record.getMessage()
            clean = redact(message)
            if clean != message:
                record.msg, record.args = clean, ()
        return record

    logging.setLogRecordFactory(make)


@contextmanager
def redacted_output(redact: Redact) -> Iterator[None]:
    """Redact what this process prints inside of the block, line by line.

    What native code or a child process writes does not come by here.
    """
    before = sys.stdout, sys.stderr
    streams = [_Lines(stream, redact) for stream in before]
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.end()


class _Lines:
    """A text stream that hands whole lines to another. Whatever else is asked of it is answered by the other."""

    def __init__(self, stream: TextIO, redact: Redact) -> None:
        self._stream, self._redact = stream, redact
        self._begun = ""
        self._one_at_a_time = threading.RLock()

    def write(self, text: str) -> int:
        with self._one_at_a_time:
            whole, newline, begun = (self._begun + text).rpartition("\n")
            if newline:
                self._stream.write(self._redact(whole) + newline)
            self._begun = begun
            if len(begun) > _LONGEST_LINE:
                self.end()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def end(self) -> None:
        """Hand on a line that was begun."""
        with self._one_at_a_time:
            if self._begun:
                self._stream.write(self._redact(self._begun))
            self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
