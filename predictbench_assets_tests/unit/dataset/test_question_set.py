"""A day in the shape of ForecastBench's question sets: its form, what a blind one leaves out, and the way back."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from predictbench_assets.dataset.question_set import QuestionSet, question_set
from predictbench_assets.experiments.outside.forms import match, read_submission
from predictbench_assets.experiments.research.denied import without_market_links
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.runs import RunKey

KEY = RunKey(CAPTURED_AT.date(), 7)
SCHEMA = json.loads(Path(__file__).with_name("question_set.schema.json").read_text())
RULES = "See https://polymarket.com/event/x?a=1, [here](https://www.kalshi.com/m) and https://federalreserve.gov/news."
MARKETS = (
    make_market("1001", event_id="e", description=RULES, price=0.00001),
    make_market("1002", outcomes=("Lakers", "Celtics"), condition_id=None, price=None, opened_at=None, description=""),
    make_market("1003", outcomes=("A", "B", "C")),
    make_market("1004", price=1.0),
)


def made(**changes: Any) -> QuestionSet:
    options: dict[str, Any] = {"captured_at": CAPTURED_AT, "simulated": False, "blind": False}
    return question_set(KEY, MARKETS, **(options | changes))


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("simulated", [False, True])
def test_every_variant_has_the_form(blind: bool, simulated: bool) -> None:
    jsonschema.validate(msgspec.to_builtins(made(blind=blind, simulated=simulated)), SCHEMA)


def test_a_question_has_what_a_forecaster_needs() -> None:
    first, second, _ = made().questions
    assert (first.id, first.freeze_datetime_value, first.background) == ("0x1001", "1e-05", RULES)
    assert first.url == "https://polymarket.com/event/event-e"
    assert first.url in first.resolution_criteria
    assert second.id == "1002"
    assert 'probability of "Lakers", against "Celtics"' in second.resolution_criteria
    assert (second.freeze_datetime_value, second.background) == ("N/A", "N/A")


def test_a_blind_set_has_no_price_and_no_link_to_a_market() -> None:
    text = msgspec.json.encode(made(blind=True)).decode()
    for told in ("1e-05", "polymarket.com", "kalshi", '"1.0"'):
        assert told not in text
    first = made(blind=True).questions[0]
    assert first.background == ("See [link removed] [here]([link removed]) and https://federalreserve.gov/news.")
    assert (first.url, first.freeze_datetime_value) == ("N/A", "N/A")


def test_a_made_up_market_has_no_page() -> None:
    assert {one.url for one in made(simulated=True).questions} == {"N/A"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("POLYMARKET.COM/event/x", "[link removed]"),
        ("the Polymarket community", "the Polymarket community"),
        ("as Polymarket.", "as Polymarket."),
        ("https://polymarket.copilot.markets/a\nb", "[link removed]\nb"),
        ("x" * 1_000_000, "x" * 1_000_000),
    ],
)
def test_links_to_markets_are_taken_out(text: str, left: str) -> None:
    assert without_market_links(text) == left


@pytest.mark.parametrize("blind", [False, True])
def test_its_ids_come_back_as_forecasts(tmp_path: Path, blind: bool) -> None:
    asked = made(blind=blind)
    answer = dict.fromkeys(("organization", "model", "model_organization"), "x") | {
        "question_set": asked.question_set,
        "forecasts": [{"id": one.id, "source": one.source, "forecast": 0.5} for one in asked.questions],
    }
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    read = read_submission(tmp_path / "answer.json")
    forecasts, troubles = match(read.lines, MARKETS, run=str(KEY), now=CAPTURED_AT + timedelta(hours=1))
    assert [one.market_id for one in forecasts] == ["1001", "1002", "1004"]
    assert not troubles
    assert RunKey(read.run_date or KEY.run_date, read.window_days or 0) == KEY
