"""Notices: what is in them, what can never be in them, and what happens when nobody takes them."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.observability.notices import (
    LONGEST_NOTE,
    NotDelivered,
    Notice,
    note,
    ping_dead_man,
    send_notice,
)
from predictbench_assets.reporting.summary import FailureLine, RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets_tests.kit.http_services import webhook

KEY = RunKey(date(2026, 11, 23), 7)
DEFAULTS = Settings.model_construct()
LINK = "https://ci.example/runs/1?a=1&b=2"


def failure(number: int, reason: str = "no price") -> FailureLine:
    return FailureLine(market_id=str(number), stage="normalized_markets", reason=reason, retriable=False)


def failed(**facts: object) -> RunSummary:
    facts = {"offered_markets": 1300, "processed_markets": 1290, "failed_markets": 3, "rejected_markets": 7} | facts
    return RunSummary.failed(KEY, stage="persisted_run", reason="the database went away", **facts)


def test_a_failure_says_what_where_why_and_what_to_look_at() -> None:
    own = FailureLine(market_id=None, stage="persisted_run", reason="the database went away", retriable=True)
    summary = failed(failures=(own, *(failure(number) for number in range(1, 8))))
    lines = note(Notice.of("failure", summary, link=LINK), load_settings()).splitlines()
    assert lines == [
        "*Predictbench development: the run of 2026-11-23, window 7 days FAILED at persisted_run*",
        "the database went away",
        "1,300 offered, 0 excluded, 7 rejected, 3 failed, 1,290 processed",
        "The first 5 of 7 failures:",
        *(f"- market {number} at normalized_markets: no price" for number in range(1, 6)),
        "https://ci.example/runs/1?a=1&amp;b=2",
    ]


def test_what_is_known_without_a_summary() -> None:
    notice = Notice("failure", run_date=KEY.run_date, windows=(7,), stage="install", link=LINK)
    assert note(notice, load_settings()).splitlines()[0] == (
        "*Predictbench development: the run of 2026-11-23, window 7 days FAILED at install*"
    )
    assert note(Notice("failure"), load_settings()) == "*Predictbench development: a run FAILED*"


def test_a_missed_day_names_all_windows() -> None:
    told = note(Notice("missed", run_date=KEY.run_date, windows=(1, 7)), load_settings())
    assert "the run of 2026-11-23, windows 1, 7 days was MISSED" in told
    assert "cannot be captured" in told


def test_what_fails_around_a_stored_run_does_not_hide_that_it_is_stored() -> None:
    stored = failed().model_copy(update={"status": "completed", "stage": None, "reason": None})
    told = note(Notice.of("failure", stored, stage="upload"), load_settings())
    assert "FAILED at upload" in told
    assert "its data are stored" in told


def test_no_markup_and_no_mention_comes_from_outside() -> None:
    evil = "<!channel> <https://evil.example|click> @channel @here & *\n*FAILED*\x07"
    told = note(Notice.of("failure", failed(failures=(failure(1, evil),))), load_settings())
    assert "<" not in told
    assert "&lt;!channel&gt; &lt;https://evil.example|click&gt;" in told
    assert "@channel" not in told
    assert "@here" not in told
    assert len(told.splitlines()) == 5
    assert "\x07" not in told


def test_secrets_are_not_told() -> None:
    settings = load_settings(
        database_url="postgres://u:hunter22@h/db", notify_webhook_url="https://hooks.example/services/T0/B0/key"
    )
    reason = "no route from postgres://u:hunter22@h/db to https://hooks.example/services/T0/B0/key " + "x" * 750
    summary = failed(failures=(failure(1, "password hunter22 refused"),)).model_copy(update={"reason": reason})
    told = note(Notice.of("failure", summary, link="https://u:hunter22@h/"), settings)
    assert "hunter22" not in told
    assert "hooks.example" not in told


texts = st.text(st.characters(codec="utf-8")) | st.text("&<>@ a", max_size=3000)


@given(texts, st.lists(texts, max_size=8), texts, texts)
def test_a_note_is_never_long_and_never_cut_inside_an_entity(
    reason: str, reasons: list[str], stage: str, link: str
) -> None:
    failures = tuple(failure(number, text) for number, text in enumerate(reasons))
    summary = failed(failures=failures).model_copy(update={"reason": reason, "stage": stage})
    told = note(Notice.of("failure", summary, link=link), DEFAULTS)
    assert len(told) <= LONGEST_NOTE
    assert "<" not in told
    assert "&" not in told.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    assert "@" not in told.replace("@\u200b", "")
    assert len(told.split("\n")) <= 4 + min(len(reasons), 5) + 1


def test_nobody_is_told_where_nobody_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not send_notice(Notice("failure"), load_settings())
        assert not ping_dead_man(load_settings())
    assert len(caplog.records) == 1
    assert "NOTIFY_WEBHOOK_URL is not set" in caplog.text


def test_a_success_is_told_only_where_that_is_asked_for() -> None:
    with webhook() as hook:
        assert not send_notice(Notice("success"), load_settings(notify_webhook_url=hook.url))
        assert send_notice(Notice("success"), load_settings(notify_webhook_url=hook.url, notify_on_success=True))
    assert hook.texts == ["*Predictbench development: a run succeeded*"]


def test_a_sign_of_life_is_a_plain_fetch() -> None:
    with webhook() as hook:
        assert ping_dead_man(load_settings(dead_man_url=hook.url))
    assert hook.received == [("GET", "/services/T0/B0/hidden-key", None)]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_who_is_unwell_is_asked_three_times(code: int) -> None:
    with webhook(code, code, 204) as hook:
        assert send_notice(Notice("failure"), load_settings(notify_webhook_url=hook.url), pause_s=0.001)
    assert len(hook.texts) == 3
    with webhook(code) as hook, pytest.raises(NotDelivered, match=f"^NOTIFY_WEBHOOK_URL: answered {code}, 3 times"):
        send_notice(Notice("failure"), load_settings(notify_webhook_url=hook.url), pause_s=0.001)
    assert len(hook.texts) == 3


@pytest.mark.parametrize("code", [302, 400, 404, 410])
def test_who_says_no_is_asked_once(code: int) -> None:
    with webhook(code) as hook, pytest.raises(NotDelivered, match=f"NOTIFY_WEBHOOK_URL: answered {code}; check"):
        send_notice(Notice("failure"), load_settings(notify_webhook_url=hook.url))
    assert len(hook.texts) == 1


def test_the_address_is_in_no_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        free = listening.getsockname()[1]
    address = f"http://127.0.0.1:{free}/T0/key"
    settings = load_settings(notify_webhook_url=address, dead_man_url=address)
    for send in (
        lambda: send_notice(Notice("failure"), settings, pause_s=0.001),
        lambda: ping_dead_man(settings, pause_s=0.001),
    ):
        with pytest.raises(NotDelivered) as caught:
            send()
        assert "T0" not in str(caught.value)
        assert caught.value.__cause__ is None


@contextmanager
def trickling(head: bytes) -> Iterator[str]:
    """The address of a server that sends `head`, and then a byte every few milliseconds until it is left."""
    ended = threading.Event()

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            while not ended.wait(0.01):
                client.sendall(b"x")

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/services/T0/B0/hidden-key"
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_answer_that_never_ends_was_one() -> None:
    with trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n") as address:
        settings = load_settings(notify_webhook_url=address, dead_man_url=address, notify_timeout_seconds=5)
        assert send_notice(Notice("failure"), settings)
        assert ping_dead_man(settings)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_an_answer_that_never_begins_is_given_up_with_the_setting(head: bytes) -> None:
    with trickling(head) as address:
        settings = load_settings(notify_webhook_url=address, dead_man_url=address, notify_timeout_seconds=0.2)
        why = r"no answer within 0.2 s \(NOTIFY_TIMEOUT_SECONDS\), 3 times in a row"
        with pytest.raises(NotDelivered, match=f"^NOTIFY_WEBHOOK_URL: {why}$"):
            send_notice(Notice("failure"), settings, pause_s=0.001)
        with pytest.raises(NotDelivered, match=f"^DEAD_MAN_URL: {why}$"):
            ping_dead_man(settings, pause_s=0.001)
