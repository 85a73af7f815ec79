"""Secrets are taken out of errors with all that they came of, out of log records, and out of what is printed."""

import base64
import contextlib
import io
import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from predictbench_assets.failures import TransientError
from predictbench_assets.secrecy import ErrorWithSecrets, redact_records, redacted_error, redacted_output, secret_forms
from predictbench_assets.settings import Settings

SECRET = 'pass: "word"/1+\\n'
words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


def redact(text: str) -> str:
    for form in sorted(secret_forms(SECRET), key=len, reverse=True):
        text = text.replace(form, "***")
    return text


@given(secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=12, max_size=40), before=words, after=words)
def test_a_secret_is_known_in_base64_whatever_surrounds_it(secret: str, before: str, after: str) -> None:
    assume(secret.strip() == secret)
    forms = secret_forms(secret)
    whole = f"{before}{secret}{after}".encode()
    for encoded in (base64.b64encode(whole).decode(), base64.urlsafe_b64encode(whole).decode()):
        assert any(form in encoded for form in forms)


@pytest.mark.parametrize(
    "written", [str, quote, quote_plus, lambda text: quote(text, safe=""), json.dumps, repr, lambda t: f"b{t!r}"]
)
def test_a_secret_is_known_however_it_is_written(written: Callable[[str], str]) -> None:
    assert SECRET not in redact(f"before {written(SECRET)} after")
    assert "***" in redact(f"before {written(SECRET)} after")


def test_short_texts_are_no_secrets() -> None:
    assert secret_forms("abc") == set()
    assert "YWJjZA" not in secret_forms("abcd")


# Settings


def test_a_password_that_is_the_users_name_is_left_in_words() -> None:
    settings = Settings(database_url="postgresql://predictbench:predictbench@localhost/predictbench")
    assert settings.redact("predictbench_assets.cli") == "predictbench_assets.cli"
    assert settings.redact("postgresql://predictbench:predictbench@localhost/x") == "postgresql://***@localhost/x"


def test_parts_of_secret_addresses_are_secrets() -> None:
    settings = Settings(
        database_url="postgresql://me:s3cr%2Fet@localhost/x",
        notify_webhook_url="https://hooks.example.com/services/T000/B000/XXXXXXXXXXXX",
        dead_man_url="https://example.com/ping",
    )
    basic = base64.b64encode(b"me:s3cr/et-and-more").decode()
    told = f"s3cr/et s3cr%2Fet {basic} url: /services/T000/B000/XXXXXXXXXXXX (XXXXXXXXXXXX) /ping"
    assert settings.redact(told) == f"*** *** {basic[:4]}***{basic[13:]} url: /*** (***) /ping"


# Errors


class Stubborn(Exception):
    """Keeps its words where nobody can change them."""

    def __init__(self, words: str) -> None:
        self._words = (words,)

    def __str__(self) -> str:
        return self._words[0]


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raised(error: BaseException, *causes: BaseException, hidden: bool = False) -> Exception:
    """The error as it is caught, with what it came of."""

    def throw(error: BaseException, causes: tuple[BaseException, ...]) -> None:
        if not causes:
            raise error
        try:
            throw(causes[0], causes[1:])
        except Exception as cause:
            if hidden:
                raise error from None
            raise error from cause

    try:
        throw(error, causes)
    except Exception as caught:
        return caught
    raise AssertionError


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_an_error_without_a_secret_is_left_alone() -> None:
    error = raised(ValueError("all is well", 3), KeyError("here"))
    before = shown(error)
    assert redacted_error(error, redact) is error
    assert shown(error) == before


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        TransientError(f"no login with {SECRET}"),
        KeyError(SECRET),
        ValueError("one", SECRET, 3),
    ],
)
def test_an_error_with_a_secret_stays_the_same_object(error: Exception) -> None:
    clean = redacted_error(raised(error), redact)
    assert clean is error
    assert SECRET not in shown(clean)
    assert repr(SECRET) not in shown(clean)
    assert "***" in shown(clean)
    assert clean.__traceback__ is not None


@pytest.mark.parametrize("error", [Stubborn(SECRET), ValueError({"key": SECRET}), OSError(5, SECRET)])
def test_what_cannot_be_changed_is_stood_for(error: Exception) -> None:
    clean = redacted_error(raised(error), redact)
    assert isinstance(clean, ErrorWithSecrets)
    assert str(clean).startswith(type(error).__name__)
    assert redact(shown(clean)) == shown(clean)
    assert clean.__traceback__ is error.__traceback__


def test_causes_notes_and_groups_are_cleaned_too() -> None:
    noted = ValueError("noted")
    noted.add_note(f"tried {SECRET}")
    group = ExceptionGroup("several", [ValueError(SECRET), ExceptionGroup("more", [KeyError(SECRET)])])
    error = raised(RuntimeError("outer"), Stubborn(SECRET), noted, group)
    clean = redacted_error(error, redact)
    assert clean is error
    assert redact(shown(clean)) == shown(clean)
    assert shown(clean).count("direct cause") == 3
    assert "Stubborn: ***" in shown(clean)


def test_what_was_hidden_stays_hidden() -> None:
    clean = redacted_error(raised(Stubborn(SECRET), ValueError("not to be seen"), hidden=True), redact)
    assert "not to be seen" not in shown(clean)


def test_errors_that_came_of_each_other_and_errors_without_words_end() -> None:
    one, other = ValueError(SECRET), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert redacted_error(one, redact) is one
    member = ValueError(SECRET)
    group = ExceptionGroup("several", [member])
    member.__context__ = group
    assert redacted_error(group, redact) is group
    assert redacted_error(member, redact) is member
    assert SECRET not in str(member)
    assert isinstance(redacted_error(Broken(SECRET), redact), Exception)
    deep = ValueError(SECRET)
    for _ in range(5_000):
        above = ValueError("deep")
        above.__cause__ = deep
        deep = above
    clean = redacted_error(deep, redact)
    assert (str(clean), clean.__cause__) == ("ValueError: its text cannot be shown", None)


# Records

LONELY = logging.Logger("lonely")
"""Without parents, whose handlers would see its records too."""


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """What a handler sees, of a logger whose records are redacted."""
    before, seen = logging.getLogRecordFactory(), []

    class Seeing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    LONELY.addHandler(handler := Seeing())
    redact_records(redact)
    yield seen
    logging.setLogRecordFactory(before)
    LONELY.removeHandler(handler)


def test_records_are_clean_before_any_handler_sees_them(records: list[logging.LogRecord]) -> None:
    logger = LONELY
    logger.warning("no login with %s, %d times", SECRET, 3, extra={"market_id": "1"})
    logger.warning("all is %s", "well")
    first, second = records
    assert (first.getMessage(), first.args) == ("no login with ***, 3 times", ())
    assert first.__dict__["market_id"] == "1"
    assert (second.getMessage(), second.args) == ("all is well", ("well",))


def test_a_record_that_cannot_be_put_together_is_made_all_the_same(records: list[logging.LogRecord]) -> None:
    LONELY.warning("%d", "three")
    assert records[0].msg == "%d"


# Output


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield sink


def test_what_is_printed_comes_out_by_the_line() -> None:
    with captured() as sink:
        with redacted_output(redact):
            sys.stdout.write(SECRET[:5])
            assert sink.getvalue() == ""
            sys.stdout.write(f"{SECRET[5:]}\nand\nthen ")
            assert sink.getvalue() == "***\nand\n"
            sys.stdout.flush()
            sys.stderr.writelines([SECRET, "\n"])
        assert sink.getvalue() == "***\nand\n***\nthen "
        sys.stdout.write(SECRET)
    assert sink.getvalue().endswith(SECRET)


def test_streams_are_given_back_after_an_error() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt), redacted_output(redact):
        raise KeyboardInterrupt
    assert (sys.stdout, sys.stderr) == before


def test_a_line_that_never_ends_is_handed_on() -> None:
    with captured() as sink, redacted_output(redact):
        sys.stdout.write("x" * 100_000)
        assert len(sink.getvalue()) == 100_000


def test_many_threads_may_print() -> None:
    def talk() -> None:
        for _ in range(200):
            sys.stdout.write(f"{SECRET}\n")

    with captured() as sink, redacted_output(redact):
        threads = [threading.Thread(target=talk) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sink.getvalue() == "***\n" * 1600
