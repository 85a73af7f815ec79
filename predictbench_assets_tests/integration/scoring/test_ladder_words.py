"""The database sorts out the questions that may be rungs, and must not lose one."""

from datetime import date

import pytest
from sqlalchemy import Engine, text

from predictbench_assets.scoring.ladders import FALLING, RISING, WORDS, rung

ENDS = date(2026, 6, 30)
RUNGS = [
    *(f"Will it be {word} $60,000?" for word in (*RISING, *FALLING)),
    *(f"Will 5 {words} ships pass?" for words in ("or more", "or higher", "or above", "or greater")),
    *(f"Will 5 {words} ships pass?" for words in ("or less", "or lower", "or below", "or fewer")),
    *(
        "Will she post 300+ times?",
        "Market cap >$2B?",
        "Market cap < 2B?",
        "Inflation \u2265 3%?",
        "Inflation \u22643%?",
    ),
    *("Kraken IPO by June 30, 2026?", "KRAKEN IPO BEFORE JUNE 30?", "IPO by  July 1st?", "Will it be ABOVE 3?"),
]


@pytest.mark.parametrize("question", RUNGS)
def test_every_rung_is_found(question: str) -> None:
    assert rung(question, ENDS) is not None


def test_the_database_finds_them_and_leaves_the_rest(engine: Engine) -> None:
    rest = ["Will the Reds beat the Blues by a lot?", "Reds vs. Blues: O/U 2.5", "Will A overcome B?", "Day by day?"]
    asked = text("SELECT q FROM unnest(CAST(:questions AS text[])) q WHERE q ~* :words")
    with engine.connect() as connection:
        found = set(connection.execute(asked, {"questions": [*RUNGS, *rest], "words": WORDS}).scalars())
    assert found == set(RUNGS)
