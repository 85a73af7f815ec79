"""Ladders: markets of one event that ask the same with another number or another date, so that one implies the next.

"Above $64,000" implies "above $60,000", and "by June 30" implies "by July 31". What a question asks is read from its
words alone, and only from wordings whose order is certain: a question that has none of them, or more than one, or a
negation, is on no ladder. Rungs of one ladder have the same text but for the number or the date.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Final

RISING: Final = ("above", "over", "more than", "at least", "greater than", "higher than", "exceed")
"""Words before a number: the higher it is, the less likely. Not "reach" or "hit": what stands above a number has to
fall to reach it, so the order of such markets is not that of their numbers."""

FALLING: Final = ("below", "under", "less than", "at most", "fewer than", "lower than")
"""Words before a number: the higher it is, the more likely."""

DEADLINE: Final = ("by", "before")
"""Words before a date: the later it is, the more likely."""

_RISING_AFTER = ("or more", "or higher", "or above", "or greater")
_FALLING_AFTER = ("or less", "or lower", "or below", "or fewer")
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
           "november", "december")  # fmt: skip
_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_PLAIN = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'"})
"""Minus, dash and apostrophe as typesetters have them."""
_SLACK_DAYS = 2
"""Between the date that a question names and its nominal end, which may be in another time zone."""


def _any(words: Iterable[str]) -> str:
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words)


_NUMBER = r"-?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SCALE = r"\s?(?:thousand|million|billion|trillion)\b|[kmbt]\b"
_UNIT = r"(?:\s?(?:%|°\s?[CF]?|[a-z]{1,12}))?"
_MORE, _LESS = r"[>\u2265]\s?", r"[<\u2264]\s?"
_THRESHOLD = re.compile(
    # A word or a sign, then a number: "above $60,000", ">$2B".
    rf"(?:\b(?:(?P<rising>{_any(RISING)})|{_any(FALLING)})\s+|(?P<more>{_MORE})|{_LESS})"
    rf"(?P<number>{_NUMBER})(?P<scale>{_SCALE})?"
    # Or a number, then words or a sign: "40°C or higher", "300+".
    rf"|(?<![\w.,$€£-])(?P<number_before>{_NUMBER})(?P<scale_before>{_SCALE})?{_UNIT}"
    rf"(?:(?P<plus>\+)|\s+(?:(?P<rising_after>{_any(_RISING_AFTER)})|{_any(_FALLING_AFTER)})\b)",
    re.IGNORECASE,
)
_DATE = re.compile(
    rf"\b(?:{_any(DEADLINE)})\s+(?P<date>(?P<month>{_any(_MONTHS)})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?"
    r"(?:,?\s+(?P<year>\d{4}))?)(?![\d,]*\d)",
    re.IGNORECASE,
)
_UNCERTAIN = re.compile(
    r"\b(?:not|no|none|nobody|never|neither|nor|without|fail|fails|still|remain|remains|stay|stays|between|exactly|"
    r"first|and|or)\b|n't\b",
    re.IGNORECASE,
)
_WORDS = "|".join((*RISING, *FALLING, *_RISING_AFTER, *_FALLING_AFTER))
WORDS: Final = rf"\d\+|{_MORE}[$€£\d]|{_LESS}[$€£\d]|\m({_WORDS})\M|\m({'|'.join(DEADLINE)})\s+({'|'.join(_MONTHS)})\M"
"""A regular expression of Postgres's for the questions that may be rungs."""

_OR_MORE = re.compile(rf"\b(?:{_any((*_RISING_AFTER, *_FALLING_AFTER))})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rung:
    """Place of a market on a ladder."""

    ladder: str
    """The question without its number or date: the same for all rungs of one ladder."""
    position: float
    """Rises along the ladder: each rung implies those that stand higher."""


def rung(question: str, ends: date) -> Rung | None:
    """The rung that a question is, if its wording leaves no doubt.

    Args:
        question: about "Yes".
        ends: the UTC day of the market's nominal end; completes a date without a year, and must agree with one.
    """
    question = question.translate(_PLAIN)
    thresholds, dates = list(_THRESHOLD.finditer(question)), list(_DATE.finditer(question))
    if not (thresholds or dates) or _UNCERTAIN.search(_OR_MORE.sub("", question)):
        return None
    if len(thresholds) == 1:
        return _threshold(question, thresholds[0])  # a deadline beside it is the same for all rungs
    return _deadline(question, dates[0], ends) if len(dates) == 1 and not thresholds else None


def implications(positions: Mapping[int, float]) -> list[tuple[int, int]]:
    """Neighbouring rungs of one ladder as (the one that implies, the one that is implied).

    Args:
        positions: place of each rung, by any number that names it. Of several at one place the first one is taken.
    """
    by_position: dict[float, int] = {}
    for name, position in positions.items():
        by_position.setdefault(position, name)
    names = [by_position[position] for position in sorted(by_position)]
    return list(pairwise(names))


def _threshold(question: str, found: re.Match[str]) -> Rung | None:
    group = "number" if found["number"] else "number_before"
    scale = found["scale" if group == "number" else "scale_before"] or ""
    value = float(re.sub(r"[$€£,]", "", found[group])) * _SCALES.get(scale.strip().lower(), 1.0)
    start, end = found.span(group)
    # "60-64" is a range, and 5 of "5/1" is no threshold.
    if re.match(r"[-/:]\d", question[end + len(scale) :]):
        return None
    rising = any(found[name] for name in ("rising", "more", "plus", "rising_after"))
    text = _normal(f"{question[:start]}#{question[end + len(scale) :]}")
    return Rung(ladder=f"{'rising' if rising else 'falling'}|{text}", position=-value if rising else value)


def _deadline(question: str, found: re.Match[str], ends: date) -> Rung | None:
    month, day = _MONTHS.index(found["month"].lower()) + 1, int(found["day"])
    years = [int(found["year"])] if found["year"] else [ends.year - 1, ends.year, ends.year + 1]
    named = [date(year, month, day) for year in years if _exists(year, month, day)]
    near = [one for one in named if abs((one - ends).days) <= _SLACK_DAYS]
    if len(near) != 1:
        return None
    start, end = found.span("date")
    return Rung(ladder=f"deadline|{_normal(f'{question[:start]}#{question[end:]}')}", position=near[0].toordinal())


def _exists(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
