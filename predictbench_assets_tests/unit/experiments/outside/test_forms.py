"""Files of forecasts: what is taken, and what is told of each line that is not. Hostile ones first."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.experiments.outside import forms
from predictbench_assets.experiments.outside.forms import SubmissionRefused, match, read_submission
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market

NOW = CAPTURED_AT + timedelta(hours=1)
CONDITION = "0x" + "ab" * 32
MARKETS = (
    make_market("1001", condition_id=CONDITION),
    make_market("1002"),
    make_market("1003", close_time=NOW - timedelta(minutes=1)),
    make_market("1004", outcomes=("A", "B", "C")),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "forecasts"


def taken(file: Path, content: str | bytes) -> tuple[dict[str, float], dict[str, str]]:
    """Probabilities by market, and troubles by place, of a file of this content."""
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    forecasts, troubles = match(read_submission(file).lines, MARKETS, run="2026-03-02|7", now=NOW)
    return {one.market_id: one.probability for one in forecasts}, {one.place: one.text for one in troubles}


def refusal(file: Path, content: str | bytes) -> str:
    with pytest.raises(SubmissionRefused) as refused:
        taken(file, content)
    return str(refused.value)


def forecastbench(*rows: Any, **changes: Any) -> str:
    stated = {name: name for name in forms.STATED} | {"question_set": "2026-03-02_w7.json"}
    return json.dumps(stated | {"forecasts": list(rows)} | changes, indent=1)


def row(identity: str, forecast: Any, **rest: Any) -> dict[str, Any]:
    return {"id": identity, "source": "polymarket", "forecast": forecast, "resolution_date": None} | rest


@pytest.mark.parametrize(
    "content",
    [
        "market_id,probability\n1001,0.25\n1002,1\n",
        "\ufeffMarket_ID , Probability\r\n 1001 , 0.25 \r\n\r\n1002,1.0\r\n",
        f'condition_id,probability,rationale\n{CONDITION.upper().replace("X", "x")},.25,"a, b\nc"\n0x1002,1e0,\n',
        '{"market_id": 1001, "probability": 0.25}\n\n{"condition_id": "0x1002", "probability": 1, "rationale": "r"}\n',
        "market_id,probability\n1001,0.25\n1002,1\n".encode("utf-16"),
        "market_id,probability\n\u200b1001\ufeff,0.25\n'1002',1\n",
        forecastbench(row(CONDITION, 0.25), row("1002", 1, source="Polymarket", reasoning="r")),
        json.dumps(json.loads(forecastbench(row(CONDITION, 0.25), row("0x1002", 1.0)))),
    ],
)
def test_each_form_is_told_by_its_content(file: Path, content: str | bytes) -> None:
    assert taken(file, content) == ({"1001": 0.25, "1002": 1.0}, {})


def test_a_file_of_forecastbench_says_its_day_and_window_and_who_forecasts(file: Path) -> None:
    file.write_text(forecastbench(row(CONDITION, 0.5, note=1), model=" gpt\u200b ", extra=1))
    read = read_submission(file)
    assert (str(read.run_date), read.window_days) == ("2026-03-02", 7)
    assert read.stated["model"] == "gpt"
    assert read.ignored == ["extra", "note"]
    file.write_text(forecastbench(row(CONDITION, 0.5), question_set="2026-11-22-llm.json"))
    assert (str(read_submission(file).run_date), read_submission(file).window_days) == ("2026-11-22", None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("9999,0.5", "'9999' is no market of the cohort of 2026-03-02|7"),
        ("10\u200b01,0.5", r"'10\u200b01' is no market"),
        (",0.5", "names no market"),
        ("1001,", "has no probability"),
        ("1001,NaN", "is NaN, not in [0, 1]"),
        ("1001,-inf", "is infinite, not in [0, 1]"),
        ("1001,62", "is 62, not in [0, 1]; write 62 % as 0.62"),
        ("1001,-0.1", "is -0.1, not in [0, 1]"),
        ("1001,1e999", "is infinite"),
        ("1001,1_0", "'1_0', not a number"),
        ("1001,\uff10.5", "not a number"),
        ("1001,62%", "'62%', not a number"),
        ("1001,=1/2", "'=1/2', not a number"),
        ("=cmd|'/c calc'!A1,0.5", "is no market"),
        ("1001,0.5,6", "has 3 fields where the first line names 2 columns"),
        ("1001", "has 1 fields"),
        ('1001,"0.5"x', "cannot be read"),
        ("1003,0.5", "market 1003 closed at 2026-03-02T07:59:00Z"),
        ("1004,0.5", "market 1004 has 3 outcomes"),
        (f"1001,{'1' * 200_000}", "cannot be read"),
    ],
)
def test_a_line_of_a_csv_that_is_not_taken_says_why(file: Path, line: str, said: str) -> None:
    good, troubles = taken(file, f"market_id,probability\n{line}\n1002,0.5\n")
    assert good == {"1002": 0.5}
    assert said in troubles["line 2"]
    assert len(troubles["line 2"]) < 300


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('"0.9"', "'0.9', not a number in [0, 1] (a number, without quotes)"),
        ("true", "True, not a number"),
        ("null", "has no probability"),
        ("NaN", "is NaN"),
        ("1e400", "is infinite"),
        ("-" + "9" * 5_000, "is infinite"),
        ("[0.5]", "[0.5], not a number"),
        ("0.5,", "no JSON"),
        ('0.5, "market_id": "1002"', "has the key 'market_id' twice"),
        ('0.5, "condition_id": "0x1002"', "are not one market"),
        ('0.5, "condition_id": "0x9"', "are not one market"),
        ('0.5, "condition_id": {}', "its condition_id is {}, no text"),
        ('0.5, "rationale": 5', "its rationale is 5, no text"),
        ('0.5, "rationale": "\\ud800"', "half a surrogate pair"),
        ('0.5, "rationale": "\\u0000"', "a NUL character"),
        (f'0.5, "rationale": "{"x" * 10_001}"', "has 10,001 characters, at most 10,000"),
        (f'0.5, "rationale": "{"x" * 10_000_000}"', "characters, at most 1,000,000 are read"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_of_json_that_is_not_taken_says_why(file: Path, given: str, said: str) -> None:
    lines = f'{{"market_id": "1002", "probability": 0.5}}\n{{"market_id": "1001", "probability": {given}}}\n'
    good, troubles = taken(file, lines)
    assert "1001" not in good
    assert said in troubles["line 2"]
    assert len(troubles["line 2"]) < 300


def test_of_a_market_with_several_lines_none_is_taken(file: Path) -> None:
    good, troubles = taken(file, f"market_id,condition_id,probability\n1001,,0.1\n1002,,0.2\n,{CONDITION},0.3\n")
    assert good == {"1002": 0.2}
    assert troubles == {
        "line 2": "market 1001 is also in line 4",
        "line 4": "market 1001 is also in line 2",
    }


def test_rows_of_forecastbench_that_are_not_taken_say_why(file: Path) -> None:
    rows = [
        row(CONDITION, 0.5, source="manifold"),
        row("0xdead", 0.5),
        row("1002", None),
        [1],
        row("1002", float("nan")),
        {"source": "polymarket", "forecast": 0.5},
        row("1001", 0.5),
    ]
    good, troubles = taken(file, forecastbench(*rows))
    assert good == {"1001": 0.5}
    assert troubles["forecast 1"] == "its source is 'manifold', and has to be polymarket"
    assert "'0xdead' is no market" in troubles["forecast 2"]
    assert "no probability" in troubles["forecast 3"]
    assert "no object" in troubles["forecast 4"]
    assert "NaN" in troubles["forecast 5"]
    assert "names no market" in troubles["forecast 6"]


def test_a_quote_that_is_never_closed_costs_the_lines_that_it_swallows_and_says_which(file: Path) -> None:
    good, troubles = taken(file, 'market_id,probability\n1001,0.5\n1002,"0.5\n1001,0.5\n')
    assert good == {"1001": 0.5}
    assert list(troubles) == ["lines 3 to 4"]


def test_html_and_formulas_in_a_rationale_stay_as_they_are(file: Path) -> None:
    file.write_text('market_id,probability,rationale\n1001,0.5,"=HYPERLINK(""x"") <script>alert(1)</script>"\n')
    [forecast], _ = match(read_submission(file).lines, MARKETS, run="", now=NOW)
    assert forecast.rationale == '=HYPERLINK("x") <script>alert(1)</script>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n\ufeff\n", "names its columns"),
        ("market_id,probability\n", "has no forecasts"),
        ("1001,0.5\n", "the first line of a CSV names its columns"),
        ("market_id;probability\n1001;0,5\n", "these look parted by semicolons"),
        ("market_id,probability,Market_ID\n1,0.5,2\n", "names a column twice: 'market_id'"),
        ('[{"market_id": 1}]', "is a JSON array"),
        ('{"forecasts": [', "is no JSON"),
        ('{\n"a":' + "[" * 100_000, "nested too deeply"),
        (forecastbench(), "has no forecasts"),
        (forecastbench(forecasts={}), "no list of `forecasts`"),
        (forecastbench(row("1001", 1), model=""), "needs `model`"),
        (forecastbench(row("1001", 1), model="x" * 201), "needs `model`"),
        (forecastbench(row("1001", 1), model="x\u202e\u0007y"), "has the character U+0007"),
        (forecastbench(row("1001", 1), question_set="llm.json"), "needs one day in it"),
        (forecastbench(row("1001", 1), question_set="2026-13-40-llm.json"), "needs one day in it"),
        (forecastbench(row("1001", 1)).replace('"forecasts"', '"model": "b", "forecasts"'), "the key 'model' twice"),
        ("market_id,probability\n1001,0.5 é\n".encode("latin-1"), "line 2, is not UTF-8 text"),
        ("market_id,probability\n".encode("utf-16-le"), "NUL characters"),
        (b"\x89PNG\r\n\x1a\n\xff\xff", "is not UTF-"),
    ],
)
def test_a_file_that_is_none_of_the_forms_is_refused(file: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(file, content)
    assert len(refusal(file, content)) < 500


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in (
        (tmp_path / "fifo", "is a pipe or a device"),
        (Path("/dev/zero"), "is a pipe or a device"),
        (tmp_path, "is a directory"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "none", "no such file"),
        (tmp_path / ("x" * 300), "file name too long"),
    ):
        with pytest.raises(SubmissionRefused, match=said):
            read_submission(path)


def test_a_file_that_is_too_large_or_has_too_many_lines_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(forms.MOST_BYTES + 1)
    with pytest.raises(SubmissionRefused, match="more than 64,000,000 bytes"):
        read_submission(file)
    monkeypatch.setattr(forms, "MOST_LINES", 2)
    assert "more than 2 forecasts" in refusal(file, "market_id,probability\n" + "1001,0.5\n" * 3)
    assert "more than 2 forecasts" in refusal(file, '{"market_id": 1}\n' * 3)
    assert "more than 2 forecasts" in refusal(file, forecastbench(1, 2, 3))


def test_a_market_closes_for_a_file_at_its_close(file: Path) -> None:
    file.write_text("market_id,probability\n1003,0.5\n")
    closed = MARKETS[2].close_time
    [], [trouble] = match(read_submission(file).lines, MARKETS, run="", now=closed)
    assert "closed at" in trouble.text
    [forecast], [] = match(read_submission(file).lines, MARKETS, run="", now=closed - timedelta(microseconds=1))
    assert forecast.market_id == "1003"
    assert closed < datetime(2026, 3, 3, tzinfo=UTC)
