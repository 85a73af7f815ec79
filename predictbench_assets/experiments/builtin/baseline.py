"""The baseline: every market as it was frozen, and the market's own price as its forecast. The template to copy."""

from collections.abc import Sequence
from datetime import datetime

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import REFERENCE, Frozen, Market, PriceQuality, PriceSource


class ContractPayload(Frozen):
    """One outcome as it is traded."""

    contract_id: str
    name: str
    price: float | None


class DerivedMetrics(Frozen):
    """Numbers derived from a market and its event."""

    spread: float | None
    """Ask minus bid of the first outcome; None without quotes on both sides."""
    hours_to_close: float
    """Hours from the capture to the nominal end; negative where the end had passed."""
    event_price_sum: float | None
    """Sum of the first outcomes' prices over the event's markets in the cohort; None where it has no other market."""


class ProcessedMarketPayload(Frozen):
    """The payload that the baseline stores about a market."""

    market_id: str
    slug: str
    question: str
    category: str
    event_id: str | None
    event_title: str | None
    cluster: str
    neg_risk: bool
    close_time: datetime
    captured_at: datetime
    contracts: tuple[ContractPayload, ...]
    price: float
    price_source: PriceSource
    price_quality: PriceQuality
    bid: float | None
    ask: float | None
    volume: float | None
    volume_24h: float | None
    liquidity: float | None
    core: bool
    metrics: DerivedMetrics


class BaselineSnapshotExperiment(Experiment):
    """The market's own price, with the metadata of the market: what every other experiment has to beat."""

    name = REFERENCE
    version = "1"
    description = "The market's own price at the snapshot, with its metadata and derived metrics."
    mandatory = True
    information = "market"

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast the price.

        Raises:
            ValueError: the market has no price of any kind, which normalisation does not let through.
        """
        price = market.price.value
        if price is None:
            raise ValueError("the market has no price: neither quotes nor an indicative price")
        payload = processed_payload(market, context.siblings, price)
        return ExperimentResult(probabilities=_probabilities(market, price), payload=payload.model_dump(mode="json"))


def processed_payload(market: Market, siblings: Sequence[Market], price: float) -> ProcessedMarketPayload:
    """The payload of a market with its price, given the other markets of its event."""
    quote = market.price
    return ProcessedMarketPayload(
        market_id=market.market_id,
        slug=market.slug,
        question=market.question,
        category=market.category,
        event_id=market.event.event_id if market.event else None,
        event_title=market.event.title if market.event else None,
        cluster=market.cluster,
        neg_risk=market.neg_risk,
        close_time=market.close_time,
        captured_at=market.captured_at,
        contracts=tuple(
            ContractPayload(contract_id=contract.contract_id, name=contract.name, price=contract.price)
            for contract in market.contracts
        ),
        price=price,
        price_source=quote.source,
        price_quality=quote.quality,
        bid=quote.bid,
        ask=quote.ask,
        volume=market.volume,
        volume_24h=market.volume_24h,
        liquidity=market.liquidity,
        core=market.core,
        metrics=DerivedMetrics(
            spread=quote.spread,
            hours_to_close=(market.close_time - market.as_of).total_seconds() / 3600,
            event_price_sum=_event_price_sum(price, siblings),
        ),
    )


def _event_price_sum(price: float, siblings: Sequence[Market]) -> float | None:
    prices = [sibling.price.value for sibling in siblings]
    known = [other for other in prices if other is not None]
    return price + sum(known) if known and len(known) == len(prices) else None


def _probabilities(market: Market, price: float) -> tuple[float, ...]:
    """The first outcome's price; the rest is shared among the other outcomes by their indicative prices."""
    others = [contract.price or 0.0 for contract in market.contracts[1:]]
    total = sum(others)
    shares = [other / total for other in others] if total > 0 else [1 / len(others)] * len(others)
    return (price, *((1.0 - price) * share for share in shares))
