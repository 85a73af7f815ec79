"""What the UI shows of an experiment's costs and reasons: numbers that add up, and no markup of a stranger."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from predictbench_assets.assets.paid import paid_metadata, rationale_metadata
from predictbench_assets.experiments.outcomes import Outcome, completed
from predictbench_assets.experiments.protocol import ExperimentResult
from predictbench_assets.scoring.costs import Cost
from predictbench_assets_tests.kit.builders import market

AT = datetime(2026, 2, 2, 7, tzinfo=UTC)


def outcome(number: int = 1, **payload: Any) -> Outcome:
    result = ExperimentResult.binary(0.25, payload=payload)
    return completed(market(number), result, forecast_at=AT, seconds=1.0, redact=str)


def table(*outcomes: Outcome, question: str = "Will it rain?") -> str:
    markets = [market(number, question=question) for number in range(len(outcomes))]
    found = rationale_metadata(markets, outcomes)
    return str(found["rationales"].md_str) if found else ""


def test_calls_tokens_dollars_and_what_the_unknown_ones_count_for() -> None:
    cost = Cost(
        requests=5,
        calls={"answered": 3, "unknown": 2},
        settled={"USD": Decimal("0.015")},
        reserved=Decimal("0.04"),
        tokens={"input": 3_000, "reasoning": 150},
    )
    outcomes = [outcome(samples=[0.2, 0.4], spread=0.1), outcome(samples=[0.1, 0.4], spread=0.3), outcome()]
    found = paid_metadata(cost, outcomes)
    assert found.pop("calls_by_status").data == {"answered": 3, "unknown": 2}
    assert found == {
        "calls": 5,
        "input_tokens": 3_000,
        "reasoning_tokens": 150,
        "cost_USD": 0.055,
        "calls_of_unknown_outcome": 2,
        "counted_for_them_USD": 0.04,
        "spread_of_samples": pytest.approx(0.2),
        "largest_spread_of_samples": 0.3,
    }


def test_an_experiment_that_took_nothing_has_none_of_it() -> None:
    assert paid_metadata(None, [outcome(), outcome(spread=0.1), outcome(spread="0.1", samples=[1, 2])]) == {}
    assert rationale_metadata([market(1)], [outcome()]) == {}
    assert rationale_metadata([market(1)], [outcome(rationale=["no text"])]) == {}


def test_reasons_are_a_table_of_five_with_the_hosts_of_their_sources() -> None:
    said = table(
        *(
            outcome(
                number,
                rationale=f"Reason {number}.",
                sources=[{"url": "https://www.news.example/a"}, {"url": "http://[bad"}, "none", {"url": 7}],
                leaked=number == 0,
            )
            for number in range(7)
        )
    )
    lines = said.splitlines()
    assert len(lines) == 2 + 5
    assert lines[0] == "| market | forecast | why | sources |"
    assert lines[2] == "| Will it rain? | 25.0% (cites a market's price) | Reason 0. | news.example |"
    assert lines[3] == "| Will it rain? | 25.0% | Reason 1. | news.example |"


def test_reasons_cannot_become_markup_nor_leave_their_cell() -> None:
    text = "<script>alert(1)</script> [x](javascript:1) ![i](http://e.example/p) | `c` **b**\n\n# head\u202e \u200bhid"
    said = table(outcome(rationale=text), question="<b>Will</b> | it?")
    [row] = said.splitlines()[2:]
    assert row.count(" | ") == 3
    for mark in ("<", "[", "`", "*", "http://", "\u202e", "\u200b"):
        assert mark not in row, mark
    assert r"&#92;u202e" in row


def test_a_long_reason_is_cut_with_a_note() -> None:
    said = table(outcome(rationale="x" * 100_000))
    assert "x" * 400 + " ... (cut; 100,000 characters)" in said
    assert "x" * 401 not in said
