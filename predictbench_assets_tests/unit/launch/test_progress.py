"""What is shown while a run works: stages on a terminal, lines elsewhere."""

import io
import json
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from predictbench_assets.experiments.contexts import FURTHER_LINES
from predictbench_assets.launch.progress import Lines, RunsBar, Stages, default_display
from predictbench_assets.observability.console import print_status
from predictbench_assets.settings import load_settings


def line(second: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2026-11-23T07:00:{second:02}.000+00:00",
        "level": "INFO",
        "logger": "x",
        "message": "page 3 of 5",
        "process_stage": "raw_markets",
        **fields,
    }


def shown(*lines: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    stages = Stages(console)
    for one in lines:
        stages(one)
    stages.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_finished_stage_is_one_line_with_its_seconds() -> None:
    text = shown(line(1, event="STEP_START"), line(2), line(4, event="STEP_SUCCESS"))
    assert text.split() == ["ok", "raw_markets", "3.0", "s"]


def test_an_asset_of_several_steps_is_one_line_when_the_last_has_ended() -> None:
    stage = {"process_stage": "experiment_results/slow"}
    begun = [line(second, event="STEP_START", **stage) for second in (1, 2, 3)]
    parts = [line(second, event="STEP_SUCCESS", part=part, **stage) for second, part in ((2, "plan"), (9, "shard[1]"))]
    text = shown(begun[0], parts[0], begun[1], begun[2], parts[1])
    assert "ok" not in text
    text = shown(begun[0], parts[0], begun[1], parts[1], line(11, event="STEP_SUCCESS", part="gather", **stage))
    assert text.split() == ["ok", "experiment_results/slow", "10.0", "s"]


def test_a_failed_stage_says_why_and_warnings_are_seen() -> None:
    text = shown(
        line(event="STEP_START"),
        line(level="WARNING", message="[slow] exchange"),
        line(event="STEP_FAILURE", level="ERROR", reason="the API changed", message="Execution failed"),
    )
    assert "warning  raw_markets: [slow] exchange" in text
    assert "FAILED  raw_markets: the API changed" in text
    assert "Execution failed" not in text


@pytest.mark.parametrize(("tracebacks", "seen"), [(False, False), (True, True)])
def test_a_person_is_told_the_reason_and_the_traceback_only_when_debugging(
    capsys: pytest.CaptureFixture[str], tracebacks: bool, seen: bool
) -> None:
    failed = line(event="STEP_FAILURE", level="ERROR", reason="the API changed", exception="Stack Trace:\n ...")
    Lines(as_json=False, tracebacks=tracebacks)(failed)
    text = capsys.readouterr().err
    assert ("Stack Trace" in text) == seen
    assert ("the API changed" in text) != seen


def test_a_warning_for_each_market_does_not_fill_the_terminal() -> None:
    """The first ones come with the project's own logger, see `contexts.LogLines`; the log file has them all."""
    first, further = "predictbench_assets.experiments.runner", FURTHER_LINES
    text = shown(*(line(level="WARNING", message="no price", logger=logger) for logger in (first, further, further)))
    assert text.count("no price") == 1


def test_json_lines_are_handed_on_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    one = line(exception="Stack Trace", reason="r")
    Lines(as_json=True)(one)
    assert json.loads(capsys.readouterr().err) == one


@pytest.mark.parametrize(("log_format", "kind"), [("auto", Lines), ("json", Lines), ("text", Lines)])
def test_without_a_terminal_there_are_lines(log_format: str, kind: type) -> None:
    assert isinstance(default_display(load_settings(log_format=log_format)), kind)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_runs_that_are_under_way_together_have_a_line_each_above_a_bar_that_is_whole(width: int) -> None:
    terminal = io.StringIO()
    bar = RunsBar(Console(file=terminal, force_terminal=True, color_system=None, width=width, height=25), runs=60)
    bar.begin("a", "[3/60] 2026-03-01, window 7 days")
    bar.begin("b", "[4/60] 2026-03-02, window 7 days")
    for run, stage in (("b", "experiment_results/one_with_a_long_name"), ("a", "raw_markets")):
        bar.show(run, line(event="STEP_START", process_stage=stage))
    bar.end("a")
    bar.begin("c", "[5/60] 2026-03-03, window 7 days")
    bar.close()
    _, _, last_frame = terminal.getvalue().rpartition("[4/60]")
    first, second, third, *_ = ("[4/60]" + last_frame).splitlines()
    whole = "[4/60] 2026-03-02, window 7 days  experiment_results/one_with_a_long_name"
    assert first.rstrip() == (whole if len(whole) <= width else f"{whole[: width - 1]}…")
    assert second.rstrip() == "[5/60] 2026-03-03, window 7 days"
    assert re.fullmatch(r"[━╸ ]+ 1/60 -:--:--", third.rstrip())


def test_a_run_that_has_ended_is_shown_until_the_next_one_begins_and_the_last_one_is_not() -> None:
    terminal = io.StringIO()
    bar = RunsBar(Console(file=terminal, force_terminal=True, color_system=None, width=80, height=25), runs=2)
    for run in ("[1/2] a day", "[2/2] another"):
        bar.begin(run, run)
        terminal.truncate(0)
        bar.end(run)
        print_status(load_settings(log_format="text"), "a line, which shows the bar again")
    bar.close()
    assert "[2/2] another" not in terminal.getvalue()
    assert "2/2 " in terminal.getvalue()


def test_a_status_is_printed_above_the_bar_and_not_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(terminal, encoding="utf-8", write_through=True))
    monkeypatch.setenv("LOG_FORMAT", "text")
    bar = RunsBar(Console(stderr=True, force_terminal=True, width=80), runs=4)
    bar.begin("a day", "[1/4] a day")
    print_status(load_settings(), "[1/4] a day: stored")
    bar.close()
    erased = "\x1b[2K"
    assert f"{erased}[1/4] a day: stored\n" in terminal.getvalue().decode()
