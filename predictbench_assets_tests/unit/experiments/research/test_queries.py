"""Queries say what is asked, and nothing that leads to a market."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.research.denied import denied_sites, plain_text
from predictbench_assets.experiments.research.queries import LONGEST_QUERY, queries, query

DENIED = denied_sites()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Will it rain in Oslo on 3 March?", "Will it rain in Oslo on 3 March?"),
        ("site:polymarket.com Will it rain?", "Will it rain?"),
        ("Will it rain? SITE: kalshi.com inurl:odds", "Will it rain?"),
        ('Will "the bill" pass? https://polymarket.com/event/bill', "Will the bill pass?"),
        ("Polymarket odds: will the bill pass?", ": will the bill pass?"),
        ("Will the bill pass,\u200b says Kal\u00adshi?", "Will the bill pass, says ?"),
        ("manifold.markets", ""),
    ],
)
def test_a_text_as_a_query(text: str, made: str) -> None:
    assert query(text, DENIED) == made


@given(st.text(max_size=600), st.sampled_from((*DENIED.hosts, *DENIED.names)), st.text(max_size=20))
def test_no_query_names_a_market(before: str, name: str, after: str) -> None:
    made = query(f"{before} {name} {after}", DENIED)
    assert len(made) <= LONGEST_QUERY
    assert not DENIED.names_market(plain_text(made))
    assert "\n" not in made


def test_an_event_is_searched_by_its_title_and_a_market_by_its_question() -> None:
    asked = ("Will A win?", "Will B win?", "Will A win?")
    assert queries("Who wins?", asked, 1, DENIED) == ("Who wins?",)
    assert queries("Who wins?", asked, 5, DENIED) == ("Who wins?", "Will A win?", "Will B win?")
    assert queries("Who wins?", asked[:1], 1, DENIED) == ("Will A win?",)
    assert queries(None, asked[:1], 2, DENIED) == ("Will A win?",)
