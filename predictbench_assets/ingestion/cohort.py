"""The staged cohort: the typed markets of a snapshot, and the rows that were rejected with the reason."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.markets.market import Market, PriceQuality, RejectedMarket
from predictbench_assets.staging import Schema, StagedFile, StagingArea

COHORT = Schema("normalized_markets", 2, upgrade=lambda row: row)
"""The second version has the price of a day before, where one was frozen; markets without are as they were."""


class _CohortRow(msgspec.Struct):
    market: msgspec.Raw = msgspec.Raw()
    rejected: msgspec.Raw = msgspec.Raw()


def stage_cohort(area: StagingArea, name: str, cohort: Cohort, meta: dict[str, Any]) -> StagedFile:
    """Publish a cohort; its counts are in the header, where a summary finds them without reading the rows."""
    qualities = Counter(market.price.quality for market in cohort.markets)
    counts = {
        "offered": cohort.offered,
        "excluded": dict(cohort.excluded),
        "rejected": len(cohort.rejected),
        "markets": len(cohort.markets),
        "contracts": sum(len(market.contracts) for market in cohort.markets),
        "core": sum(market.core for market in cohort.markets),
        "clusters": len({market.cluster for market in cohort.markets}),
        "price_quality": {quality: qualities[quality] for quality in get_args(PriceQuality) if qualities[quality]},
        "price_source": dict(Counter(market.price.source for market in cohort.markets)),
        "priced_day_ago": sum(market.price_24h_ago is not None for market in cohort.markets),
        "category": dict(Counter(market.category for market in cohort.markets).most_common()),
        "unreadable": cohort.unreadable,
    }
    return area.publish(name, COHORT, {**meta, **counts}, _lines(cohort))


def cohort_markets(staged: StagedFile) -> Iterator[Market]:
    """The markets of a staged cohort, in the order of the snapshot."""
    for row in _rows(staged):
        if row.market:
            yield Market.model_validate_json(bytes(row.market))


def cohort_rejected(staged: StagedFile) -> Iterator[RejectedMarket]:
    """The rows of a staged cohort that could not be read as markets."""
    for row in _rows(staged):
        if row.rejected:
            yield RejectedMarket.model_validate_json(bytes(row.rejected))


def _lines(cohort: Cohort) -> Iterator[bytes]:
    for market in cohort.markets:
        # Without the key, so that the cohort of an older snapshot keeps its hash, and experiments their journals.
        absent = {"price_24h_ago"} if market.price_24h_ago is None else None
        yield b'{"market":' + market.model_dump_json(exclude=absent).encode() + b"}"
    for rejected in cohort.rejected:
        yield b'{"rejected":' + rejected.model_dump_json().encode() + b"}"


def _rows(staged: StagedFile) -> Iterator[_CohortRow]:
    decode = msgspec.json.Decoder(_CohortRow).decode
    return (decode(line) for line in staged.lines())
