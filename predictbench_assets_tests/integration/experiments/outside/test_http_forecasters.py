"""An experiment over HTTP against servers on this machine: good, hostile, broken, slow."""

import base64
import json
import logging
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.x509 import DNSName
from pydantic import ValidationError

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import Experiment
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.outside.http import FAILURES_IN_A_ROW, HttpExperiment, HttpTable
from predictbench_assets.experiments.outside.messages import SCHEMAS, schema_text
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Event, Market
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets_tests.kit.certificates import self_signed
from predictbench_assets_tests.kit.forecaster_server import (
    Asked,
    Behaviour,
    answers,
    forecaster_server,
    in_turn,
)
from predictbench_assets_tests.kit.places import CLONE

SECRET = "sk-team/secret+0123456789"


def declared(url: str, **keys: Any) -> HttpTable:
    return HttpTable.model_validate({"kind": "http", "url": url, "allow_private": True} | keys)


def experiment(url: str, settings: Settings | None = None, **keys: Any) -> HttpExperiment:
    made = declared(url, **keys).made("my_team", settings or load_settings())
    assert isinstance(made, HttpExperiment)
    return made


def outcomes(one: Experiment, *markets: Market) -> list[Outcome]:
    return run_experiment_sync(one, markets or (make_market(),), run=make_run(), clock=FixedClock(CAPTURED_AT))


def outcome_of(behaviour: Behaviour, market: Market | None = None, **keys: Any) -> Outcome:
    with forecaster_server(behaviour) as server:
        (outcome,) = outcomes(experiment(server.url, **keys), market or make_market())
    return outcome


def valid(name: str, message: Any) -> None:
    schema = json.loads((CLONE / "docs" / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(message)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schemas_are_those_of_the_code(name: str) -> None:
    assert (CLONE / "docs" / "schemas" / f"{name}.json").read_text() == schema_text(name)


def test_the_messages_of_the_guide_fit_the_schemas() -> None:
    guide = (CLONE / "docs" / "writing-an-experiment.md").read_text()
    messages = [json.loads(body) for body in re.findall(r"^```json\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)]
    kinds = ("http-market-question", "http-market-answer", "http-market-answer", "http-event-answer")
    for name, message in zip(kinds, messages, strict=True):
        valid(name, message)


def test_a_market_is_posted_and_its_probability_taken() -> None:
    with forecaster_server(answers({"p_yes": 0.7, "rationale": "because \x00<b>"})) as server:
        (outcome,) = outcomes(experiment(server.url, prices="shown"))
    (asked,) = server.asked
    assert (outcome.status, outcome.probability) == ("completed", 0.7)
    assert outcome.payload == {"rationale": r"because \x00<b>"}
    assert outcome.usage is not None
    assert outcome.usage.requests == 1
    assert asked.body["market_ticker"] == "1001"
    assert asked.body["price"]["value"] == 0.62
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept-encoding"] == "identity"
    valid("http-market-question", asked.body)


def test_a_blind_forecaster_is_sent_no_price_no_link_and_no_id_to_look_it_up_by() -> None:
    market = make_market(
        "424242",
        question="Will it rain?",
        event=Event(event_id="777777", slug="rain", title="Rain"),
        price=0.62,
        price_24h_ago=0.61,
        description="Settles by https://www.fifa.com/x. See https://polymarket.com/event/abc?tid=1 (or Kalshi.com/m).",
    )
    with forecaster_server(answers({"p_yes": 0.7})) as server:
        outcomes(experiment(server.url), market)
    (asked,) = server.asked
    text = json.dumps(asked.body)
    assert not [
        word for word in ("price", "0.62", "0.61", "424242", "777777", "polymarket", "alshi", "0x") if word in text
    ]
    assert asked.body["rules"] == "Settles by https://www.fifa.com/x. See [link removed] (or [link removed])."
    valid("http-market-question", asked.body)


@pytest.mark.parametrize(
    "answer",
    [
        {"probabilities": {"no": 0.25, "YES": 0.75}, "rationale": None, "p_yes": None, "confidence": "high"},
        {"p_yes": 0.75},
    ],
)
def test_probabilities_go_by_the_names_of_outcomes_in_any_case(answer: Any) -> None:
    valid("http-market-answer", answer)
    outcome = outcome_of(answers(answer))
    assert (outcome.probability, outcome.probabilities) == (0.75, (0.75, 0.25))


def test_a_forecaster_may_skip_a_market() -> None:
    answer = {"skip": "I know nothing of cricket"}
    valid("http-market-answer", answer)
    outcome = outcome_of(answers(answer))
    assert (outcome.status, outcome.reason) == ("skipped", "I know nothing of cricket")


WRONG_VALUES = [
    ({"p_yes": 62}, "p_yes that is refused"),
    ({"p_yes": -0.01}, "p_yes that is refused"),
    ({"p_yes": True}, "p_yes that is refused"),
    ({"p_yes": "0.9"}, "p_yes that is refused ('0.9')"),
    ({"p_yes": [0.5]}, "p_yes that is refused"),
    ({"p_yes": 0.5, "probabilities": {"Yes": 0.5, "No": 0.5}}, "holds p_yes and probabilities"),
    ({"probabilities": {"Yes": True, "No": 0}}, "probabilities.Yes that is refused (True)"),
    ({"probability": 0.5}, "holds 'probability'"),
    ({}, "holds nothing"),
    ({"p_yes": 0.5, "rationale": 7}, "rationale that is refused (7)"),
    ({"p_yes": 0.5, "rationale": "x" * 50_001}, "rationale that is refused"),
    ([0.5], "is a list"),
    ("0.5", "is a text"),
    (None, "is null"),
    (0.5, "is a number"),
]


@pytest.mark.parametrize(("answer", "word"), WRONG_VALUES)
def test_what_is_no_forecast_is_refused_by_the_schema_and_in_words(answer: Any, word: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        valid("http-market-answer", answer)
    outcome = outcome_of(answers(answer))
    assert (outcome.status, outcome.retriable, outcome.exception_type) == ("failed", False, "HttpForecasterFailed")
    assert word in str(outcome.reason)
    assert "my_team at http://127.0.0.1:" in str(outcome.reason)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"p_yes": NaN}', "holds NaN, which is no number"),
        (b'{"p_yes": -Infinity}', "holds -Infinity"),
        (b'{"p_yes": 1e999}', "p_yes that is refused"),
        (b'{"p_yes": 1' + b"0" * 5_000 + b"}", "is not JSON"),
        (b'{"p_yes": 0.5, "p_yes": 0.6}', "has the key 'p_yes' twice"),
        (b'{"probabilities": {"Yes": 0.5, "yes": 0.5}}', "names the outcome 'Yes' twice"),
        (b'{"probabilities": {"Yes": 0.6}}', "has no probability of 'No'"),
        (b'{"probabilities": {"Yes": 0.6, "No": 0.4, "Maybe": 0}}', "names an outcome 'Maybe'"),
        (b'{"probabilities": {"Yes": 0.6, "No": 0.3}}', "sum to 0.9: they have to sum to 1, nothing is normalised"),
        (b"<!DOCTYPE html><title>Bad gateway</title>", "is HTML or XML, not JSON"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"", "is empty"),
        (b"[" * 500_000, "is nested too deeply"),
        (b'{"p_yes": 0.5', "is not JSON"),
        (b'"' + b"x" * 10_000_000 + b'"', "has more than 1,048,576 bytes"),
    ],
    ids=lambda value: value[:24].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_each_broken_body_has_its_word(body: bytes, word: str) -> None:
    outcome = outcome_of(answers(body))
    assert (outcome.status, outcome.retriable) == ("failed", False)
    assert word in str(outcome.reason)


def test_three_outcomes_need_their_names() -> None:
    market = make_market(outcomes=("Home", "Draw", "Away"))
    assert "3 outcomes" in str(outcome_of(answers({"p_yes": 0.5}), market).reason)
    outcome = outcome_of(answers({"probabilities": {"away": 0.2, "draw": 0.3, "HOME": 0.5}}), market)
    assert outcome.probabilities == (0.5, 0.3, 0.2)


def test_a_compressed_answer_is_not_unpacked() -> None:
    assert "is compressed ('gzip')" in str(outcome_of(answers(b"\x1f\x8b", Content_Encoding="gzip")).reason)


def never_ends(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")


def resets(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"p_yes"')
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hangs_up(asked: Asked, connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("part", [b"{", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["body", "interim answers"])
def test_a_server_that_drips_ends_with_the_time(part: bytes) -> None:
    def drips(asked: Asked, connection: socket.socket) -> None:
        if part == b"{":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not server.ending.wait(0.02):
            connection.sendall(part)

    with forecaster_server(drips) as server:
        begun = time.monotonic()
        (outcome,) = outcomes(experiment(server.url, limits={"timeout_seconds": 0.5}))
        assert time.monotonic() - begun < 5
    assert outcome.retriable
    assert "gave no whole answer within 0.475 s" in str(outcome.reason)


def test_a_body_without_an_end_is_left_at_the_limit() -> None:
    outcome = outcome_of(never_ends)
    assert not outcome.retriable
    assert "has more than 1,048,576 bytes" in str(outcome.reason)


@pytest.mark.parametrize("behaviour", [resets, hangs_up])
def test_a_broken_connection_may_be_better_later(behaviour: Behaviour) -> None:
    outcome = outcome_of(behaviour)
    assert outcome.retriable
    assert "broke off before its answer was whole" in str(outcome.reason)


def test_a_server_that_is_away_may_come_back() -> None:
    with forecaster_server(answers({})) as server:
        url = server.url
    (outcome,) = outcomes(experiment(url))
    assert outcome.retriable
    assert "cannot be reached" in str(outcome.reason)


def test_no_redirect_is_followed() -> None:
    with forecaster_server(answers({"p_yes": 0.5})) as other:
        moved = answers(b"", "307 Temporary Redirect", Location=f"{other.url}?token=hidden")
        outcome = outcome_of(moved, settings=None)
    assert other.asked == []
    assert not outcome.retriable
    assert f"answered 307, a redirect to '{other.url}', and none is followed" in str(outcome.reason)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Unavailable", "504 Time-out"])
def test_a_busy_server_may_be_better_later(status: str) -> None:
    outcome = outcome_of(answers(b"", status))
    assert (outcome.retriable, outcome.exception_type) == (True, "RetriableError")
    assert f"is busy: it answered {status[:3]}" in str(outcome.reason)


def test_retry_after_is_honoured_within_the_time_limit() -> None:
    busy = answers(b"", "429 Too Many Requests", Retry_After="1")
    with forecaster_server(in_turn(busy, answers({"p_yes": 0.7}))) as server:
        begun = time.monotonic()
        (outcome,) = outcomes(experiment(server.url))
        waited = time.monotonic() - begun
    assert (outcome.probability, len(server.asked)) == (0.7, 2)
    assert waited >= 1
    assert outcome.usage is not None
    assert outcome.usage.requests == 2

    with forecaster_server(answers(b"", "429 Too Many Requests", Retry_After="3600")) as server:
        (outcome,) = outcomes(experiment(server.url))
    assert (outcome.retriable, len(server.asked)) == (True, 1)
    assert "to be asked again in 3600 s" in str(outcome.reason)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "204 No Content", "201 Created"])
def test_any_other_status_is_final(status: str) -> None:
    outcome = outcome_of(answers(b"" if "204" in status else b"a traceback", status))
    assert not outcome.retriable
    assert f"answered {status[:3]}" in str(outcome.reason)


def test_a_server_that_fails_all_the_time_is_left_alone() -> None:
    markets = [make_market(str(number)) for number in range(FAILURES_IN_A_ROW + 30)]
    with forecaster_server(answers(b"", "500 Oops")) as server:
        found = outcomes(experiment(server.url, limits={"concurrency": 1}), *markets)
    assert len(server.asked) == FAILURES_IN_A_ROW
    left = [one for one in found if one.retriable]
    assert len(left) == 30
    assert all("not asked: 20 calls in a row failed, the last one: my_team at" in str(one.reason) for one in left)


def test_an_answer_between_failures_keeps_a_server_in_the_run() -> None:
    def every_tenth(asked: Asked, connection: socket.socket) -> None:
        answers({"p_yes": 0.5} if asked.number % 10 == 0 else {})(asked, connection)

    markets = [make_market(str(number)) for number in range(60)]
    with forecaster_server(every_tenth) as server:
        outcomes(experiment(server.url, limits={"concurrency": 1}), *markets)
    assert len(server.asked) == 60


def test_a_secret_that_is_refused_ends_the_asking_and_may_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TEAM_TOKEN", SECRET)
    markets = [make_market(str(number)) for number in range(5)]
    with forecaster_server(answers(b"", "401 Unauthorized")) as server:
        one = experiment(server.url, header="Authorization", secret="MY_TEAM_TOKEN", limits={"concurrency": 1})
        found = outcomes(one, *markets)
    assert len(server.asked) == 1
    assert all(outcome.retriable for outcome in found)
    assert "refuses the secret of MY_TEAM_TOKEN: it answered 401" in str(found[0].reason)


SPELLINGS = [
    SECRET,
    f"Bearer {SECRET}",
    base64.b64encode(SECRET.encode()).decode(),
    "".join(f"\\u{ord(character):04x}" for character in SECRET),
    "x" * 40 + SECRET,  # where a long text is cut in the middle of it
    "x" * 70 + SECRET,
]


ECHOES = [
    '{"p_yes": 0.5, "rationale": "%s"}',
    '{"skip": "%s"}',
    '{"p_yes": "%s"}',
    '{"%s": 1, "%s": 2}',
    '{"%s": 1}',
    '{"probabilities": {"%s": 1}}',
    "<html>%s</html>",
]


@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_echoed_secret_is_nowhere(
    spelling: str, status: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_TEAM_TOKEN", SECRET)
    echoes = in_turn(*(answers(echo.replace("%s", spelling).encode(), status) for echo in ECHOES))
    with forecaster_server(echoes) as server:
        one = experiment(server.url, header="Authorization", secret="MY_TEAM_TOKEN")
        found = outcomes(one, *(make_market(str(number)) for number in range(len(ECHOES))))
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {SECRET}"}
    assert len(server.asked) == len(ECHOES)
    texts = [repr(outcome) + outcome.encode().decode() for outcome in found]
    for text in (*texts, *(record.getMessage() for record in caplog.records)):
        shown = text.encode().decode("unicode_escape") if "\\u00" in text else text
        assert not [part for part in ("sk-team", "0123456789", SPELLINGS[2][4:-4]) if part in shown], text


def test_another_header_has_the_secret_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TEAM_TOKEN", SECRET)
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        outcomes(experiment(server.url, header="X-Team-Key", secret="MY_TEAM_TOKEN"))
    assert server.asked[0].headers["x-team-key"] == SECRET


def test_a_secret_that_is_not_set_is_told_when_it_is_needed() -> None:
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        (outcome,) = outcomes(experiment(server.url, header="Authorization", secret="MY_TEAM_TOKEN"))
    assert (server.asked, outcome.retriable) == ([], True)
    assert "the variable MY_TEAM_TOKEN with its secret is not set" in str(outcome.reason)


def test_a_name_that_stands_for_a_private_address_is_not_called() -> None:
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        table = HttpTable(kind="http", url=f"https://localhost:{server.port}/")
        found = outcomes(table.made("my_team", load_settings()), make_market("1"), make_market("2"))
    assert server.asked == []
    assert all(outcome.retriable for outcome in found)
    assert "is not called: localhost stands for" in str(found[0].reason)
    assert "which is an address of this machine or of a private network" in str(found[0].reason)


@pytest.mark.parametrize("environment", [{}, {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}])
def test_what_is_on_this_machine_is_called_without_a_proxy(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        (outcome,) = outcomes(experiment(server.url.replace("127.0.0.1", "localhost")))
    assert outcome.status == "completed"
    assert server.asked[0].headers["host"] == f"localhost:{server.port}"


def test_a_certificate_is_proved_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "server.pem", DNSName("localhost"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with forecaster_server(answers({"p_yes": 0.5}), certificate) as server:
        (outcome,) = outcomes(experiment(f"https://localhost:{server.port}/"))
        (refused,) = outcomes(experiment(f"https://127.0.0.1:{server.port}/"))
    assert outcome.status == "completed"
    assert refused.retriable
    assert "certificate is not valid for" in str(refused.reason)


EVENT = [
    make_market(str(number), neg_risk=True).model_copy(
        update={"event": Event(event_id="e", slug="who-wins", title="Who wins?", neg_risk=True)}
    )
    for number in range(4)
]


def test_an_event_is_posted_whole_and_each_market_fails_alone() -> None:
    def some(asked: Asked, connection: socket.socket) -> None:
        first, second, third, _ = (market["market_ticker"] for market in asked.body["markets"])
        given = {first: {"p_yes": 0.6, "rationale": "ahead"}, second: {"p_yes": 0.6}, third: {"p_yes": 6}}
        answers({"forecasts": given | {"another": {"p_yes": 0.1}}})(asked, connection)

    with forecaster_server(some) as server:
        found = outcomes(experiment(server.url, unit="event"), *EVENT)
    (asked,) = server.asked
    valid("http-event-question", asked.body)
    assert (asked.body["title"], asked.body["mutually_exclusive"]) == ("Who wins?", True)
    assert [one.probability for one in found] == [0.6, 0.6, None, None], "marginals stay as they were given"
    assert "p_yes that is refused (6)" in str(found[2].reason)
    assert "leaves this market out" in str(found[3].reason)
    assert [one.usage.requests for one in found if one.usage is not None] == [1, 0, 0, 0]


def test_an_event_without_forecasts_is_refused_for_all_its_markets() -> None:
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        found = outcomes(experiment(server.url, unit="event"), *EVENT)
    assert len(server.asked) == 1
    assert all("no object with an object of forecasts" in str(one.reason) for one in found)
    valid("http-event-answer", {"forecasts": {"a": {"p_yes": 0.5}, "b": {"skip": "no idea"}}})


def test_one_client_serves_a_run() -> None:
    def keeps(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"p_yes": 0.5}')

    with forecaster_server(keeps) as server:
        server.keeps_connections = True
        one = experiment(server.url, limits={"concurrency": 2})
        found = outcomes(one, *(make_market(str(number)) for number in range(20)))
    assert {outcome.status for outcome in found} == {"completed"}
    assert (len(server.asked), server.connections) == (20, 2)


def test_no_cookie_is_kept() -> None:
    with forecaster_server(answers({"p_yes": 0.5}, Set_Cookie="seen=1")) as server:
        outcomes(experiment(server.url, limits={"concurrency": 1}), make_market("1"), make_market("2"))
    assert [asked.headers.get("cookie") for asked in server.asked] == [None, None]


@pytest.mark.parametrize(("rate", "shared_by"), [(600, 1), (1_200, 2)])
def test_requests_keep_their_distance(rate: int, shared_by: int) -> None:
    begun, settings = time.monotonic(), load_settings(predictbench_shared_by=shared_by)
    with forecaster_server(answers({"p_yes": 0.5})) as server:
        outcomes(experiment(server.url, settings, limits={"requests_per_minute": rate}), *map(make_market, "12345"))
    assert len(server.asked) == 5
    assert time.monotonic() - begun >= 0.39


REFUSED_TABLES: list[tuple[dict[str, Any], str]] = [
    ({"url": "ftp://x.example/"}, "expected an address"),
    ({"url": "x.example"}, "expected an address"),
    ({"url": "https://user:pass@x.example/"}, "holds a user or a password"),
    ({"url": "http://x.example/"}, "is called without https: use https"),
    ({"url": "http://93.184.215.14/", "allow_private": True}, "only https is used"),
    ({"url": "https://127.0.0.1/"}, "add allow_private = true"),
    ({"url": "https://2130706433/"}, "add allow_private = true"),
    ({"url": "https://0x7f.1/"}, "add allow_private = true"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "add allow_private = true"),
    ({"url": "https://169.254.169.254/latest"}, "add allow_private = true"),
    ({"url": "https://x.example/", "header": "Authorization"}, "header and secret belong together"),
    ({"url": "https://x.example/", "header": "Host", "secret": "A_TOKEN"}, "no name of a header that can be set"),
    ({"url": "https://x.example/", "header": "A: b\r\nC", "secret": "A_TOKEN"}, "no name of a header"),
    ({"url": "https://x.example/", "limits": {"usd_per_day": 1}}, "limits.usd_per_day means nothing"),
    ({"url": "https://x.example/", "uri": "x"}, "Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("keys", "word"), REFUSED_TABLES)
def test_a_table_that_cannot_work_is_refused(keys: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(word)):
        HttpTable.model_validate({"kind": "http"} | keys)


def test_what_a_table_declares_is_what_the_experiment_has() -> None:
    table = HttpTable.model_validate(
        {
            "kind": "http",
            "url": "https://x.example/forecast?model=a#part",
            "prices": "shown",
            "search": False,
            "limits": {"requests_per_minute": 30, "concurrency": 64, "timeout_seconds": 40},
        }
    )
    one = table.made("my_team", load_settings())
    assert (one.information, one.timeout_seconds, one.max_concurrency) == ("market", 40, 10)
    assert one.config == {"url": "https://x.example/forecast?model=a", "unit": "market", "messages": "1"}
    assert "x.example" in one.description
