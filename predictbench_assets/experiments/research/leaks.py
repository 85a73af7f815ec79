"""Leaks, in layers: what must not reach a forecaster that is not shown the price, and what a forecast must not cite.

An address is judged in `denied`; here are the texts. It is the sentence that tells odds that is dropped, not its page.
A plain chance, as of rain, tells none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final, Literal

from predictbench_assets.experiments.research.denied import (
    DeniedSites,
    UrlLayer,
    denied_sites,
    plain_text,
    without_unseen,
)
from predictbench_assets.experiments.research.search import LONGEST_TEXT, Source

Layer = Literal[UrlLayer, "late", "undated", "empty", "repeated"]
"""The reason for which a source is not used."""

LONGEST_JUDGED: Final = 50_000
"""Characters of a source that are judged; nothing behind them is handed on."""

_SENTENCE: Final = re.compile(r"(?<=[.!?。])\s+|\n+")
_LONGEST_SENTENCE: Final = 2_000
"""Characters of a sentence that are judged as one: a text without stops is judged in pieces."""

_FIGURE: Final = r"(?:\d[\d.,]{0,8}\s?(?:%|percent\b|per cent\b|¢|cents?\b)|\b0?\.\d{1,4}\b|\$0?\.\d\d\b)"
_GIVES: Final = (
    r"(?:giv(?:e[sn]?|ing)|gave|pric(?:e[sd]?|ing)|puts?|putting|sees?|saw|expect(?:s|ed)?|assign(?:s|ed)?"
    r"|impl(?:y|ies|ied)|bet)"
)
_MARKET_SAYS: Final = (
    rf"\b(?:bettors?|punters?|gamblers?|wagers?|betting|bookmakers?|bookies?|oddsmakers?)\b[^\n]{{0,120}}?{_FIGURE}",
    rf"\b(?:traders?|(?:the |prediction )?markets?) (?:\w+ ){{0,4}}?{_GIVES}\b[^\n]{{0,80}}?{_FIGURE}",
    rf"{_FIGURE}[^\n]{{0,60}}?\b(?:according to|among|by) (?:the )?(?:traders|bettors|punters|betting markets?)\b",
    r"\b(?:trad(?:es?|ed|ing)|pric(?:es?|ed|ing)|quoted|contracts?) (?:\w+ ){0,4}?\d[\d.]{0,4}\s?(?:¢|cents?\b)",
    r"\b(?:yes|no):? ?(?:at )?\d[\d.]{0,4}\s?¢",
)
"""What a market gives for an outcome, in figures."""
_TELLS_ODDS: Final = re.compile(
    "|".join(
        (
            r"(?<!\bat )(?<!\ball )(?<!\bthe )\bodds\b(?! and ends)",
            r"\bthe odds (?:of|on|for|imply|stand|are|were|now|at|that|have)\b",
            r"\bimplied (?:probabilit(?:y|ies)|chances?)\b",
            r"\b(?:moneyline|point spread|over/under|bookmakers?|bookies?|oddsmakers?|betting lines?)\b",
            *_MARKET_SAYS,
        )
    )
)
_CITES_MARKET: Final = re.compile("|".join(_MARKET_SAYS))
_OF_A_PRICE: Final = re.compile(rf"{_FIGURE}|\b(?:odds|pric(?:e|es|ed|ing)|implied|trading|traders?)\b")
_NO_ACCESS: Final = re.compile(
    r"\b(?:no|not|without|cannot|can't|don't|didn't|haven't|unable|lack(?:ing)?)\b[^\n]{0,40}?"
    r"\b(?:access|available|data|see|seen|check(?:ed)?|consult(?:ed|ing)?|us(?:e|ed|ing)|know|look(?:ed|ing)?)\b"
)
"""A forecaster's word that it has not looked."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH: Final = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE: Final = (
    rf"(?:\b(20\d\d)[-/.](\d\d?)[-/.](\d\d?)\b|\b(\d\d?)(?:st|nd|rd|th)? (?:of )?{_MONTH},? (20\d\d)\b"
    rf"|\b{_MONTH} (\d\d?)(?:st|nd|rd|th)?,? (20\d\d)\b)"
)
_ANY_DATE: Final = re.compile(_DATE)
_STATED_DATE: Final = re.compile(rf"\b(?:updated|published|posted|modified|as of)\b[\s:,]{{0,3}}(?:on )?{_DATE}")


@dataclass(frozen=True)
class KeptSource:
    """A source that may be used."""

    source: Source
    title: str
    text: str
    """Its text without the sentences that tell odds."""


@dataclass
class Sifted:
    """Sources, by whether they may be used."""

    kept: list[KeptSource] = field(default_factory=list)
    refused: list[tuple[Source, Layer]] = field(default_factory=list)
    sentences: int = 0
    """Sentences that were dropped from the kept ones."""

    @property
    def dropped(self) -> dict[str, int]:
        """Sources that are not used, by layer."""
        return dict(sorted(Counter(layer for _, layer in self.refused).items()))


def sifted(sources: Iterable[Source], *, until: datetime, now: datetime, denied: DeniedSites) -> Sifted:
    """Sources with all layers applied, in their order.

    Args:
        until: end of the freeze window; nothing of later may be used.
        now: the present; a source without a date that mentions a day between the two was written after the window.
        denied: the sites of markets.
    """
    found = Sifted()
    seen: set[str] = set()
    for source in sources:
        layer = _layer(source, until, now, denied)
        if layer is None and not seen.isdisjoint((source.url, source.sha256)):
            layer = "repeated"
        if layer is None:
            title, of_title = without_odds(source.title, denied)
            text, of_text = without_odds(source.text[:LONGEST_JUDGED], denied)
            if text:
                seen |= {source.url, source.sha256}
                found.kept.append(KeptSource(source, title, text))
                found.sentences += of_title + of_text
                continue
            layer = "empty"
        found.refused.append((source, layer))
    return found


def without_odds(text: str, denied: DeniedSites) -> tuple[str, int]:
    """The text without the sentences that tell odds and without marks that are not seen; and how many were dropped."""
    lines, dropped = [], 0
    for line in without_unseen(text).splitlines():
        sentences = list(_sentences(line))
        kept = [sentence for sentence in sentences if not tells_odds(sentence, denied)]
        dropped += len(sentences) - len(kept)
        if kept:
            lines.append(" ".join(kept))
    return "\n".join(lines).strip(), dropped


def tells_odds(sentence: str, denied: DeniedSites) -> bool:
    """True for a sentence that names a market, or says what one gives for an outcome."""
    plain = plain_text(sentence)
    return denied.names_market(plain) or denied.names_site(plain) or _TELLS_ODDS.search(plain) is not None


def leaked(
    rationale: str, *, question: str = "", prices_shown: bool = False, denied: DeniedSites | None = None
) -> bool:
    """True for the reasons of a forecast that cite a market: a denied site, or what a market gives for an outcome.

    Args:
        rationale: the words of the forecaster.
        question: what it was asked; a market that the question is about may be named.
        prices_shown: True where it was shown the price, which it may then talk of; a site it may not have read.
        denied: default: the list that comes with the benchmark.
    """
    denied = denied or denied_sites()
    text = without_unseen(rationale[:LONGEST_TEXT])
    asked = plain_text(question)
    for sentence in _sentences(text):
        if denied.names_site(sentence) and not denied.names_site(asked):
            return True
        plain = plain_text(sentence)
        if prices_shown or _NO_ACCESS.search(plain):
            continue
        names = denied.names_market(plain, but=asked) and _OF_A_PRICE.search(plain) is not None
        if names or _CITES_MARKET.search(plain) is not None:
            return True
    return False


def dates(text: str) -> Sequence[date]:
    """The days that a text mentions with their year, in its order."""
    return [day for found in _ANY_DATE.finditer(text.casefold()) if (day := _day(found)) is not None]


def _layer(source: Source, until: datetime, now: datetime, denied: DeniedSites) -> Layer | None:
    if (layer := denied.layer(source.url)) is not None:
        return layer
    if source.published_at is not None and source.published_at > until:
        return "late"
    text, last = f"{source.title}\n{source.text}", until.astimezone(UTC).date()
    stated = [day for found in _STATED_DATE.finditer(text.casefold()) if (day := _day(found)) is not None]
    if any(day > last for day in stated):
        return "late" if source.published_at is not None else "undated"
    if source.published_at is None and any(last < day <= now.astimezone(UTC).date() for day in dates(text)):
        return "undated"
    return None


def _day(found: re.Match[str]) -> date | None:
    year, month, day, day_first, its_month, its_year, month_first, its_day, last_year = found.groups()
    try:
        if year:
            return date(int(year), int(month), int(day))
        if day_first:
            return date(int(its_year), _MONTHS.index(its_month[:3]) + 1, int(day_first))
        return date(int(last_year), _MONTHS.index(month_first[:3]) + 1, int(its_day))
    except ValueError:
        return None


def _sentences(text: str) -> Iterable[str]:
    for sentence in _SENTENCE.split(text):
        for start in range(0, len(sentence), _LONGEST_SENTENCE):
            if piece := sentence[start : start + _LONGEST_SENTENCE].strip():
                yield piece
