"""What a day's failures and skips come to in a few lines."""

from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.reasons import (
    MAX_TEXT,
    SHOWN_REASONS,
    ReasonCount,
    alike,
    count_outcomes,
    count_texts,
)

PLACE = "my_experiments.py:12 in run"


def failed(market_id: str, reason: str, place: str | None = PLACE) -> Outcome:
    return Outcome(market_id=market_id, status="failed", reason=reason, place=place)


def skipped(market_id: str, reason: str) -> Outcome:
    return Outcome(market_id=market_id, status="skipped", reason=reason)


def test_one_reason_for_all_is_one_line() -> None:
    outcomes = [failed(str(number), "ZeroDivisionError: division by zero") for number in range(300)]
    assert count_outcomes(outcomes) == (
        ReasonCount(
            status="failed", markets=300, reason="ZeroDivisionError: division by zero", place=PLACE, market_id="0"
        ),
    )


def test_reasons_that_differ_in_a_name_or_a_number_are_one() -> None:
    outcomes = [
        failed("1", "KeyError: 'will-it-rain'"),
        failed("2", "KeyError: 'will-it-snow'"),
        failed("3", "KeyError: 'will-it-rain'", place="my_experiments.py:40 in look_up"),
        skipped("4", "only 3 outcomes"),
        skipped("5", "only 12 outcomes"),
        skipped("6", "no price"),
    ]
    assert [(one.status, one.markets, one.reason, one.place) for one in count_outcomes(outcomes)] == [
        ("failed", 2, "KeyError: 'will-it-rain' (and alike)", PLACE),
        ("failed", 1, "KeyError: 'will-it-rain'", "my_experiments.py:40 in look_up"),
        ("skipped", 2, "only 3 outcomes (and alike)", None),
        ("skipped", 1, "no price", None),
    ]


def test_a_reason_that_names_its_market_is_like_that_of_another() -> None:
    questions = {"1": "Will it\u00a0rain?", "2": "Will he win?", "3": "Who?"}
    outcomes = [
        failed("1", "ValueError: nothing is known of Will it rain?"),
        failed("2", "ValueError: nothing is known of Will he win?"),
        failed("3", "ValueError: will-it-rain-252900018 is unknown"),
        failed("4", "ValueError: will-he-win is unknown"),
        failed("5", "ValueError: a well-known problem"),
    ]
    counted = count_outcomes(outcomes, questions)
    assert [(one.markets, one.reason) for one in counted] == [
        (2, "ValueError: nothing is known of Will it rain? (and alike)"),
        (2, "ValueError: will-it-rain-252900018 is unknown (and alike)"),
        (1, "ValueError: a well-known problem"),
    ]


def test_forecasts_have_no_reason() -> None:
    assert count_outcomes([Outcome(market_id="1", status="completed", probability=0.5)]) == ()


def test_the_rarest_reasons_are_summed_up() -> None:
    kinds = "abcdefgh"
    outcomes = [failed(f"{kind}{n}", f"{kind} is wrong") for k, kind in enumerate(kinds) for n in range(20 - k)]
    counted = count_outcomes(outcomes)
    assert len(counted) == SHOWN_REASONS + 1
    assert [one.reason for one in counted[:2]] == ["a is wrong", "b is wrong"]
    assert (counted[-1].reason, counted[-1].markets, counted[-1].market_id) == ("3 further reasons", 15 + 14 + 13, None)
    assert sum(one.markets for one in counted) == len(outcomes)


def test_a_long_reason_is_cut() -> None:
    [counted] = count_outcomes([failed("1", "x" * 500)])
    assert len(counted.reason) == MAX_TEXT


def test_an_apostrophe_is_no_quotation() -> None:
    assert alike("it can't be, and won't") == "it can't be, and won't"
    assert alike('no "Will it?" in 0x12ab34cd99 after 1,234.5 s') == "no … in … after … s"


def test_texts_are_counted_as_often_as_they_were_given() -> None:
    texts = [("endDate: no date", 3), ("price: 1.2 is above 1", 1), ("price: 7 is above 1", 4)]
    assert count_texts(texts) == {"price: 1.2 is above 1 (and alike)": 5, "endDate: no date": 3}


@given(st.lists(st.text(max_size=30), max_size=60))
def test_no_market_is_lost(reasons: list[str]) -> None:
    outcomes = [skipped(str(number), reason) for number, reason in enumerate(reasons)]
    counted = count_outcomes(outcomes)
    assert sum(one.markets for one in counted) == len(reasons)
    assert len(counted) <= SHOWN_REASONS + 1
