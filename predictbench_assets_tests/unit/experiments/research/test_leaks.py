"""What tells a price is dropped, sentence by sentence or as a whole page; what does not is left alone."""

import time
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.research.denied import denied_sites
from predictbench_assets.experiments.research.leaks import Sifted, dates, leaked, sifted, tells_odds, without_odds
from predictbench_assets.experiments.research.search import LONGEST_TEXT, Source

DENIED = denied_sites()
FROZEN = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
UNTIL = FROZEN + timedelta(hours=24)

ODDS = [
    "Polymarket has it at 62%.",
    "On Kalshi the contract was trading at 62¢.",
    "Bettors give her a 62% chance.",
    "The implied probability is 62%.",
    "The odds of a cut are rising.",
    "Bookmakers make him the favourite.",
    "Prediction markets disagree.",
    "Traders see a 62 percent chance of a cut.",
    "Yes 62¢.",
    "A 62% chance, according to bettors.",
    "See metaculus.com for more.",
    "P\u200bolymarket: 62%.",
    "\N{FULLWIDTH LATIN CAPITAL LETTER P}olymarket: 62%.",
]
FACTS = [
    "There is a 60% chance of rain on Tuesday.",
    "Inflation was 3.2% in January.",
    "The two sides are at odds with each other over the bill.",
    "She won against all odds in 2024.",
    "The stock market fell 2% on Monday.",
    "The share of votes counted is 62 percent.",
    "A manifold of reasons covers the case.",
    "He has no more than 5 cents to his name.",
]


@pytest.mark.parametrize("sentence", ODDS)
def test_a_sentence_that_tells_odds_is_dropped_and_its_page_is_not(sentence: str) -> None:
    text, dropped = without_odds(f"The vote is on Tuesday. {sentence} The bill has two sponsors.", DENIED)
    assert (text, dropped) == ("The vote is on Tuesday. The bill has two sponsors.", 1)


@pytest.mark.parametrize("sentence", FACTS)
def test_a_plain_fact_stays(sentence: str) -> None:
    assert not tells_odds(sentence, DENIED)
    assert without_odds(sentence, DENIED) == (sentence, 0)


@given(st.text(max_size=300))
def test_any_text_can_be_looked_at_and_gains_nothing(text: str) -> None:
    kept, _ = without_odds(text, DENIED)
    assert len(kept) <= len(text)
    assert without_odds(kept, DENIED)[1] == 0


def test_the_longest_text_takes_no_time_to_speak_of() -> None:
    for text in (
        "a" * LONGEST_TEXT,
        "traders " * (LONGEST_TEXT // 8),
        "1 " * (LONGEST_TEXT // 2),
        "\u200b" * LONGEST_TEXT,
    ):
        begun = time.monotonic()
        without_odds(text, DENIED)
        assert time.monotonic() - begun < 5


def source(url: str = "https://news.example/a", text: str = "A text.", published: datetime | None = FROZEN) -> Source:
    return Source(url, "A title", published, FROZEN, text, sha256(f"{url} {text}".encode()).hexdigest())


def sift(*sources: Source, now: datetime = FROZEN) -> Sifted:
    return sifted(sources, until=UNTIL, now=now, denied=DENIED)


def test_each_layer_is_counted() -> None:
    found = sift(
        source(),
        source(text="Another one. Bookmakers make him the favourite."),
        source("https://polymarket.com/event/x"),
        source("https://news.example/kalshi-traders"),
        source("file:///etc/passwd"),
        source("https://news.example/b", published=UNTIL + timedelta(seconds=1)),
        source("https://news.example/c", "Updated on 5 March 2026: it is done.", None),
        source("https://news.example/d", "Bookmakers make him the favourite."),
        source("https://news.example/e", published=UNTIL),
    )
    assert [one.source.url for one in found.kept] == ["https://news.example/a", "https://news.example/e"]
    assert found.dropped == {"address": 1, "empty": 1, "late": 1, "name": 1, "repeated": 1, "site": 1, "undated": 1}
    assert found.sentences == 0


def test_a_date_in_the_future_is_no_leak_before_it_has_come() -> None:
    page = source(text="The vote is on 6 March 2026.", published=None)
    assert len(sift(page).kept) == 1
    assert sift(page, now=FROZEN + timedelta(days=10)).dropped == {"undated": 1}
    dated = source(text="The vote is on 6 March 2026.")
    assert len(sift(dated, now=FROZEN + timedelta(days=10)).kept) == 1


def test_a_page_that_was_updated_later_is_late_whatever_its_service_says() -> None:
    assert sift(source(text="Last updated: March 5th, 2026. It passed.")).dropped == {"late": 1}


def test_dates_as_people_write_them() -> None:
    text = "2026-03-05, 5 March 2026, 5th of March 2026, Mar. 5, 2026 and 2026/3/5; not 31 February 2026 or 5 March"
    assert list(dates(text)) == [date(2026, 3, 5)] * 5


@pytest.mark.parametrize(
    "rationale",
    [
        "According to https://polymarket.com/event/x it is likely.",
        "polymarket.com has more.",
        "Kalshi prices it at 0.62, so I say 0.6.",
        "Bettors give her 62%.",
        "Traders see a 62% chance.",
        "The mirror polymarket.mirror.example says 62¢.",
    ],
)
def test_a_forecast_that_cites_a_market_has_leaked(rationale: str) -> None:
    assert leaked(rationale)


@pytest.mark.parametrize(
    "rationale",
    [
        "The base rate is 60%, and nothing has changed.",
        "My implied probability is 62%, and the odds are good.",
        "I have no access to Polymarket or to a price, so I start from 50%.",
        "There is a 60% chance of rain.",
        "",
    ],
)
def test_a_forecast_with_reasons_of_its_own_has_not(rationale: str) -> None:
    assert not leaked(rationale)


def test_a_question_about_a_market_may_be_answered() -> None:
    asked = "Will Kalshi raise money at a price of $5 billion?"
    assert not leaked("Kalshi raised at a price of $2 billion in 2025.", question=asked)
    assert leaked("Polymarket prices it at 0.62.", question=asked)


def test_who_was_shown_the_price_may_talk_of_it_and_may_have_read_no_site() -> None:
    assert not leaked("The market gives it 62%, which Polymarket's price shows.", prices_shown=True)
    assert leaked("See https://kalshi.com/markets/x.", prices_shown=True)
