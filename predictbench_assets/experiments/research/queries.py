"""The queries of a search, made of what a market asks: the same each time, and without a word about markets."""

import re
from collections.abc import Sequence
from typing import Final

from predictbench_assets.experiments.research.denied import DeniedSites, without_unseen

LONGEST_QUERY: Final = 300
"""Characters of a query; services cut or refuse longer ones."""

_ADDRESS: Final = re.compile(r"(?:https?://|www\.)\S*", re.IGNORECASE)
_OPERATOR: Final = re.compile(
    r"\b(?:site|inurl|allinurl|intitle|intext|related|cache|link|source|domain)\s*:\s*\S*", re.IGNORECASE
)
_WORDS_OF_MARKETS: Final = re.compile(
    r"\b(?:betting\s+)?(?:odds|implied probabilit(?:y|ies)|bookmakers?|sportsbooks?|moneyline)\b", re.IGNORECASE
)
_MARKS: Final = re.compile(r"[\"“”„«»<>|*\\^~`{}\[\]]")


def queries(title: str | None, questions: Sequence[str], most: int, denied: DeniedSites) -> tuple[str, ...]:
    """At most so many queries about an event, or about a market of one: its title first where there are several.

    Args:
        title: of the event; None for a market without one.
        questions: of its markets.
        most: number of queries, from 1 on.
        denied: whose names are taken out.
    """
    titles = [title] if title else []
    texts = [*titles, *questions] if len(questions) > 1 else [*questions, *titles]
    made = dict.fromkeys(filter(None, (query(text, denied) for text in texts)))
    return tuple(made)[:most]


def query(text: str, denied: DeniedSites) -> str:
    """A text as a query: one line without addresses, operators and names of markets; empty where nothing is left."""
    text = without_unseen(text)
    for pattern in (_ADDRESS, _OPERATOR, _MARKS, _WORDS_OF_MARKETS):
        text = pattern.sub(" ", text)
    words = denied.without_names(text).split()
    line = " ".join(words)
    return line if len(line) <= LONGEST_QUERY else line[:LONGEST_QUERY].rsplit(" ", 1)[0]
