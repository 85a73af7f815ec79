"""Log lines: one JSON object each, the same fields from us and from Dagster, no secret in any of them."""

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from predictbench_assets.observability.logs import (
    DagsterHandler,
    JsonLines,
    StderrHandler,
    TextLines,
    bound,
    configure_logging,
)
from predictbench_assets.settings import Settings, load_settings

log = logging.getLogger("predictbench_assets.test")


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def configured(**given: Any) -> Settings:
    settings = load_settings(**({"log_format": "json"} | given))
    configure_logging(settings)
    return settings


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in capsys.readouterr().err.splitlines()]


def test_a_line_has_every_agreed_field(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    log.info("page %d", 3, extra={"market_id": "42", "rows": 100})
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "predictbench_assets.test",
        "message": "page 3",
        "run_id": None,
        "process_stage": None,
        "market_id": "42",
        "rows": 100,
    }


def test_bound_fields_are_on_every_line_inside_and_on_none_after(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    with bound(run_id="r", process_stage="raw_markets"):
        with bound(market_id="1"):
            log.info("inner")
        log.info("outer")
    log.info("after")
    seen = [(line["run_id"], line["process_stage"], line["market_id"]) for line in lines(capsys)]
    assert seen == [("r", "raw_markets", "1"), ("r", "raw_markets", None), (None, None, None)]


def test_configuring_twice_does_not_print_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    configured()
    log.warning("once")
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize("client", ["httpx", "httpx2", "botocore"])
def test_a_request_of_thousands_is_no_line(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger(client).setLevel(logging.NOTSET)
    configured()
    logging.getLogger(client).info("HTTP Request: POST")
    logging.getLogger(client).warning("a proxy is odd")
    assert [line["message"] for line in lines(capsys)] == ["a proxy is odd"]


def test_what_dagster_has_printed_is_not_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    log.info("seen", extra={"dagster_meta": dagster_meta("seen")})
    assert lines(capsys) == []


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_are_in_no_part_of_a_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configured(log_format=log_format, database_url="postgres://u:hunter%2F22@h/db", polymarket_api_key="key-123456")
    try:
        raise RuntimeError("cannot reach postgresql+psycopg://u:hunter%2F22@h/db")
    except RuntimeError:
        log.exception("with hunter/22", extra={"headers": {"Authorization": ["Bearer key-123456"]}})
    text = capsys.readouterr().err
    assert "hunter" not in text
    assert "key-123456" not in text
    assert "***" in text
    assert "RuntimeError" in text


def test_what_json_has_no_word_for_is_still_one_valid_line(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    log.info("a\nb \ud83d", extra={"price": float("nan"), "when": object(), "codes": {1, 2}})
    (line,) = lines(capsys)
    assert line["price"] == "nan"
    assert line["codes"] == [1, 2]


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configured(log_format="text")
    with bound(run_id="r", process_stage="raw_markets"):
        log.warning("slow", extra={"seconds": 3})
    text = capsys.readouterr().err
    assert text.endswith("WARNING raw_markets: slow seconds=3\n")


@pytest.mark.parametrize("where", ["message", "extra", "reason"])
def test_no_text_forges_a_line(capsys: pytest.CaptureFixture[str], where: str) -> None:
    configured(log_format="text")
    forged = "Will\n12:00:00 INFO    all is well\r\x1b[2J"
    with bound(run_id="r", process_stage="raw_markets"):
        match where:
            case "message":
                log.warning("asked %s", forged)
            case "extra":
                log.warning("asked", extra={"question": forged})
            case _:
                log.warning("asked", exc_info=ValueError(forged))
    text = capsys.readouterr().err
    assert "all is well" in text
    assert not any(line.startswith("12:00:00 INFO    all") for line in text.splitlines())
    assert "\x1b" not in text


def test_auto_is_json_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configured(log_format="auto")
    log.info("x")
    assert lines(capsys)[0]["message"] == "x"


def dagster_meta(message: str, event: Any = None, step: str | None = "experiment_results__uniform") -> dict[str, Any]:
    tags = {"dagster/partition/run_date": "2026-11-23", "dagster/partition/window_days": "7"}
    return {
        "orig_message": message,
        "run_id": "d" * 8,
        "step_key": step,
        "job_tags": tags,
        "dagster_event": event,
    }


def dagster_record(message: str, level: int = logging.INFO, event: Any = None, **meta: Any) -> logging.LogRecord:
    record = logging.LogRecord("dagster", level, "f.py", 1, f"daily_run - {message}", None, None)
    record.dagster_meta = dagster_meta(message, event, **meta)
    record.dagster_event = event
    return record


def test_dagsters_lines_look_like_ours() -> None:
    line = json.loads(JsonLines(str).format(dagster_record("hello")))
    del line["timestamp"]
    assert line == {
        "level": "INFO",
        "logger": "dagster",
        "message": "hello",
        "run_id": "3a9539a7-6633-5aed-b8a9-510de26d26f3",
        "process_stage": "experiment_results/uniform",
        "market_id": None,
        "dagster_run_id": "dddddddd",
    }


def test_a_step_of_an_asset_of_several_is_told_as_the_asset() -> None:
    record = dagster_record("hello", step="experiment_results__slow.shard[3]")
    line = json.loads(JsonLines(str).format(record))
    assert (line["process_stage"], line["part"]) == ("experiment_results/slow", "shard[3]")


def failure(message: str, cause: Any = None) -> Any:
    return SimpleNamespace(message=message, cause=cause, to_string=lambda: f"{message}\nStack Trace: ...")


def test_a_failed_step_tells_what_was_raised_first() -> None:
    error = failure(
        "dagster.DagsterExecutionStepExecutionError: Error\n", failure("my.module.Broken: the API changed\n")
    )
    event = SimpleNamespace(event_type_value="STEP_FAILURE", event_specific_data=SimpleNamespace(error=error))
    line = json.loads(JsonLines(str).format(dagster_record("failed", logging.ERROR, event)))
    assert line["reason"] == "Broken: the API changed"
    assert "Stack Trace" in line["exception"]


def test_a_failed_step_has_the_sentence_of_an_error_of_ours_rather_than_of_its_cause() -> None:
    cause = failure("IsADirectoryError: [Errno 21] Is a directory: 'x'\n")
    ours = failure("predictbench_assets.staging.StagedFileDamaged: x is a folder\n", cause)
    error = failure("dagster.DagsterExecutionStepExecutionError: Error\n", ours)
    event = SimpleNamespace(event_type_value="STEP_FAILURE", event_specific_data=SimpleNamespace(error=error))
    line = json.loads(JsonLines(str).format(dagster_record("failed", logging.ERROR, event)))
    assert line["reason"] == "StagedFileDamaged: x is a folder"


@pytest.mark.parametrize(("event", "shown"), [("STEP_START", True), ("STEP_SUCCESS", True), ("STEP_OUTPUT", False)])
def test_steps_begin_and_end_at_info_other_events_stay_debug(
    capsys: pytest.CaptureFixture[str], event: str, shown: bool
) -> None:
    handler = DagsterHandler()
    handler.handle(
        dagster_record("x", logging.DEBUG, SimpleNamespace(event_type_value=event, event_specific_data=None))
    )
    assert [line["level"] for line in lines(capsys)] == (["INFO"] if shown else [])


def test_dagsters_handler_prints_even_when_the_settings_are_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "prod")
    DagsterHandler().handle(dagster_record("hello"))
    assert lines(capsys)[0]["message"] == "hello"


def test_handlers_follow_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    handler = StderrHandler()
    handler.setFormatter(TextLines(str))
    handler.handle(logging.LogRecord("n", logging.INFO, "f.py", 1, "m", None, None))
    assert "m" in capsys.readouterr().err


def test_nested_counts_are_for_machines_not_for_people() -> None:
    record = logging.makeLogRecord({"msg": "read 3 markets", "api": {"retries": {}, "pages": 2}, "rows": 3})
    assert TextLines(str).format(record).endswith("read 3 markets rows=3")
    assert json.loads(JsonLines(str).format(record))["api"] == {"retries": {}, "pages": 2}
