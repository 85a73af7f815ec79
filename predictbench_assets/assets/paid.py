"""Metadata of an experiment's asset: what its forecasts took of models, and why a few of them are what they are."""

import re
import statistics
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.markets.market import Market
from predictbench_assets.printable import visible
from predictbench_assets.reporting.output import markdown_table
from predictbench_assets.scoring.costs import Cost

_SHOWN = 5
_LONGEST = 400
_LONGEST_QUESTION = 120
_SPREAD, _RATIONALE = re.compile(b'"spread"'), re.compile(b'"rationale"')
"""Keys of a payload, which an expression finds without a copy of it."""


def paid_metadata(cost: Cost | None, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Calls by status, dollars, tokens, and how far the samples of a forecast lie apart; only what is known.

    Args:
        cost: what the ledger of paid calls has of this experiment and run; None where it has nothing.
        outcomes: those of this run.
    """
    metadata: dict[str, Any] = {}
    if cost is not None and cost.requests:
        metadata |= {
            "calls": cost.requests,
            "calls_by_status": dg.MetadataValue.json(dict(cost.calls)),
            **{f"{kind}_tokens": count for kind, count in cost.tokens.items()},
            **({} if cost.usd is None else {"cost_USD": float(cost.usd)}),
        }
        if cost.unknown:
            metadata |= {"calls_of_unknown_outcome": cost.unknown, "counted_for_them_USD": float(cost.reserved)}
    spread = (_spread(outcome) for outcome in outcomes if _SPREAD.search(outcome.payload_json))
    spreads = [one for one in spread if one is not None]
    if spreads:
        metadata |= {"spread_of_samples": statistics.fmean(spreads), "largest_spread_of_samples": max(spreads)}
    return metadata


def rationale_metadata(markets: Sequence[Market], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A table of the first forecasts that come with reasons: text of strangers, cut, and nothing in it markup."""
    rows = (
        _rationale_row(market, outcome)
        for market, outcome in zip(markets, outcomes, strict=True)
        if _RATIONALE.search(outcome.payload_json)  # to decode all of a large day would take a while for nothing
    )
    table = markdown_table(("market", "forecast", "why", "sources"), list(islice(filter(None, rows), _SHOWN)))
    return {"rationales": dg.MetadataValue.md("\n".join(table))} if len(table) > 2 else {}


def _spread(outcome: Outcome) -> float | None:
    payload = outcome.payload or {}
    spread, samples = payload.get("spread"), payload.get("samples")
    several = isinstance(samples, list) and len(samples) > 1
    return float(spread) if several and isinstance(spread, int | float) and not isinstance(spread, bool) else None


def _rationale_row(market: Market, outcome: Outcome) -> tuple[str, str, str, str] | None:
    payload = outcome.payload or {}
    text = payload.get("rationale")
    if not isinstance(text, str) or not text.strip():
        return None
    forecast = "" if outcome.probability is None else f"{outcome.probability:.1%}"
    leaked = " (cites a market's price)" if payload.get("leaked") is True else ""
    sources = payload.get("sources")
    hosts = [host for host in map(_host, sources) if host] if isinstance(sources, list) else []
    return (
        _cut(market.question, _LONGEST_QUESTION),
        forecast + leaked,
        _cut(text, _LONGEST),
        _cut(", ".join(dict.fromkeys(hosts)), _LONGEST_QUESTION),
    )


def _host(source: object) -> str:
    """The name of a source's host: an address would become a link."""
    url = source.get("url") if isinstance(source, dict) else None
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.") if isinstance(url, str) else ""
    except ValueError:
        return ""


def _cut(text: str, longest: int) -> str:
    words = " ".join(text[: 4 * longest].split())
    note = f" ... (cut; {len(text):,} characters)" if len(text) > longest else ""
    shown = visible(words[:longest])
    for start in ("://", "www."):
        shown = re.sub(re.escape(start), f"{start[0]}\N{WORD JOINER}{start[1:]}", shown, flags=re.I)  # else a link
    return shown + note
