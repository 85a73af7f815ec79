"""Reasons counted: a day's failures and skips in a few lines, however many markets they are of."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from predictbench_assets.experiments.outcomes import Outcome

SHOWN_REASONS: Final = 5
"""Reasons that are kept of each kind, the most frequent ones; the others are summed up in one more."""

MAX_TEXT: Final = 240
"""Characters of a reason that are kept in a count; each market's own row has more."""

ALIKE: Final = " (and alike)"
"""Stands after a reason that markets have in common but for a quoted text, an identifier or a number."""

_VARYING = (
    re.compile(r"(?<!\w)'[^']*'(?!\w)|\"[^\"]*\"|“[^”]*”"),
    re.compile(r"\b\w+(?:-\w+){2,}\b"),
    re.compile(r"\b(?:0x)?(?=[a-f-]*\d)[\da-f-]{8,}\b", re.IGNORECASE),
    re.compile(r"\d+(?:[.,]\d+)*"),
)
"""Parts of a reason that differ from market to market: quoted texts, slugs, identifiers, numbers."""


class ReasonCount(BaseModel):
    """The number of markets without a forecast for one reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["failed", "skipped"]
    markets: int
    reason: str
    """Reason of the first market, with `ALIKE` after it where the others differ in a name or a number."""
    place: str | None = None
    """Place of the failure in the experiment's code."""
    market_id: str | None = None
    """The first market of this reason; None for the sum of further reasons."""


def count_outcomes(outcomes: Iterable[Outcome], questions: Mapping[str, str] | None = None) -> tuple[ReasonCount, ...]:
    """The reasons of outcomes that are no forecasts: failures before skips, the most frequent ones first.

    Args:
        outcomes: one for each market.
        questions: by market id; a reason that quotes its market's question is like that of another market.
    """
    questions = questions or {}
    failed: _Groups = {}
    skipped: _Groups = {}
    for one in outcomes:
        if one.status != "completed":
            text = one.reason or "no reason was given"
            groups = failed if one.status == "failed" else skipped
            question = " ".join(questions.get(one.market_id, "").split())
            pattern = alike(text.replace(question, "…") if question else text)
            groups.setdefault((one.place, pattern), _Alike(text, one.market_id)).add(text)
    kinds: tuple[tuple[Literal["failed", "skipped"], _Groups], ...] = (("failed", failed), ("skipped", skipped))
    return tuple(
        ReasonCount(status=status, markets=group.count, reason=text, place=place, market_id=group.market_id)
        for status, groups in kinds
        for text, place, group in _top(groups)
    )


def count_texts(texts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Count how often each reason was given, those that are alike taken together, the most frequent ones first.

    Args:
        texts: reasons, each with how often it was given.
    """
    groups: _Groups = {}
    for text, count in texts:
        groups.setdefault((None, alike(text)), _Alike(text)).add(text, count)
    return {text: group.count for text, _, group in _top(groups)}


@lru_cache(maxsize=1_000)  # most markets of a day have one of a few reasons
def alike(reason: str) -> str:
    """A reason with an ellipsis in place of what differs from market to market."""
    for varying in _VARYING:
        reason = varying.sub("…", reason)
    return reason


@dataclass
class _Alike:
    """Reasons that differ in quoted texts, identifiers and numbers at most."""

    first: str
    market_id: str | None = None
    count: int = 0
    same: bool = True

    def add(self, text: str, count: int = 1) -> None:
        self.count += count
        self.same = self.same and text == self.first


_Groups = dict[tuple[str | None, str], _Alike]
"""Groups by place and by what they have in common."""


def _top(groups: _Groups) -> Iterator[tuple[str, str | None, _Alike]]:
    """Text and place of the most frequent ones, then the sum of the others."""
    ordered = sorted(groups.items(), key=lambda item: -item[1].count)
    for (place, _), group in ordered[:SHOWN_REASONS]:
        yield _short(group.first) + ("" if group.same else ALIKE), place, group
    if rest := [group for _, group in ordered[SHOWN_REASONS:]]:
        text = f"{len(rest):,} further {'reason' if len(rest) == 1 else 'reasons'}"
        yield text, None, _Alike(text, count=sum(group.count for group in rest))


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
