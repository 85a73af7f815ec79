"""The domain: a market as the benchmark sees it, frozen at the moment of capture.

One market is one question about its first outcome. `probability` and `price` always speak of that first outcome.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PriceQuality = Literal["good", "thin", "history", "none"]
"""Both sides of a book close together or not; a price history, which has no sides; or no order at all."""
PriceSource = Literal["clob", "gamma", "history", "none"]
"""The order book, the listing, the price history, or none of them; the words are those that are stored."""

GOOD_SPREAD = 0.10
"""The widest spread between bid and ask at which a midpoint still counts as a price worth beating."""

REFERENCE = "baseline_snapshot"
"""Name of the experiment that forecasts the market's own price; all others are measured against it."""

PRICE_AT_FORECAST = "price_at_forecast"
"""Name of the control that forecasts the price at the time of its forecast; who may search is measured by it too."""

LEAST_SUM = 0.8
MOST_SUM = 1.5
"""The sums of a whole neg-risk group's prices lie between these; else some of its outcomes are missing, or dead."""


class Frozen(BaseModel):
    """Base of the domain's models: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=Frozen)

_FIELD_SETS: dict[frozenset[str], set[str]] = {}


def _share_field_set(model: Frozen) -> None:
    given = model.__pydantic_fields_set__
    object.__setattr__(model, "__pydantic_fields_set__", _FIELD_SETS.setdefault(frozenset(given), given))


def _changed(model: Model, **changes: Any) -> Model:
    """A copy with other values, as `model_copy` makes it, which takes three times as long: each blind experiment has
    one of each market and contract of its cohort. The names of the given fields are shared; of extra and private ones,
    which pydantic keeps with a model too, these have none."""
    changed = type(model).__new__(type(model))
    keep = object.__setattr__
    keep(changed, "__dict__", model.__dict__ | changes)
    keep(changed, "__pydantic_fields_set__", model.__pydantic_fields_set__)
    keep(changed, "__pydantic_extra__", None)
    keep(changed, "__pydantic_private__", None)
    return changed


class Contract(Frozen):
    """One outcome of a market, as it is traded."""

    contract_id: str
    """The id by which the exchange trades it."""
    index: int
    """Position in the market's outcomes; 0 is the outcome that probabilities speak of."""
    name: str
    price: Probability | None
    """The listing's indicative price of this outcome at capture; None where withheld (blind experiments)."""


class Event(Frozen):
    """The event that a market belongs to. Markets of one event are not independent."""

    event_id: str
    slug: str | None = None
    title: str | None = None
    neg_risk: bool = False


class MarketPrice(Frozen):
    """The market's own price of the first outcome at capture: the forecast that every experiment has to beat."""

    value: Probability | None
    """Midpoint of bid and ask; else the indicative price; None only where there is no price or it is withheld."""
    bid: Probability | None = None
    ask: Probability | None = None
    source: PriceSource = "none"
    quality: PriceQuality = "none"
    at: datetime | None = None
    """Instant of the quote, UTC."""

    @property
    def spread(self) -> float | None:
        """Ask minus bid, where both sides are quoted."""
        return None if self.bid is None or self.ask is None else self.ask - self.bid


WITHHELD = MarketPrice(value=None)


class Market(Frozen):
    """One binary (or, rarely, multi-outcome) market of the cohort, normalised.

    Money is in USDC, times are UTC, prices and probabilities are in [0, 1].
    """

    market_id: str
    condition_id: str | None
    slug: str
    question: str
    description: str
    contracts: tuple[Contract, ...]
    event: Event | None
    category: str
    neg_risk: bool
    neg_risk_market_id: str | None
    game_id: str | None
    series_slug: str | None
    group_item_title: str | None = None
    group_item_threshold: float | None = None
    cluster: str
    """Connected component over event, neg-risk group, game, and series x end date: the unit of independence."""
    created_at: datetime | None
    opened_at: datetime | None
    close_time: datetime
    """The nominal end, which puts a market into a cohort. Trading may stop earlier or later."""
    volume: float | None
    volume_24h: float | None
    liquidity: float | None
    price: MarketPrice
    captured_at: datetime
    """Instant at which the exchange was read, UTC."""
    reconstructed_as_of: datetime | None = None
    """Instant that a snapshot which was put together afterwards shows; None of a captured one."""
    price_24h_ago: Probability | None = None
    """Price of the first outcome a day (at most some hours more) before `as_of`; None where none was frozen."""
    core: bool = False
    """True in the frozen core sample of its snapshot."""
    core_weight: float | None = None
    """Inverse of the probability with which the core sample picked it; None outside the core."""

    @property
    def reconstructed(self) -> bool:
        """True where the snapshot was put together afterwards."""
        return self.reconstructed_as_of is not None

    @property
    def as_of(self) -> datetime:
        """Instant that the price is of, and the last that anything may be known of: the capture, or in a reconstructed
        snapshot the hour of its run."""
        return self.reconstructed_as_of or self.captured_at

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes, first outcome first."""
        return tuple(contract.name for contract in self.contracts)

    def blinded(self) -> "Market":
        """A copy without any price, for blind experiments."""
        return _changed(
            self,
            contracts=tuple([_changed(contract, price=None) for contract in self.contracts]),
            price=WITHHELD,
            price_24h_ago=None,
            core_weight=None,  # strata are cut by price, so the weight would give it away
        )

    def slim(self) -> "Market":
        """The market itself, with the names of its given fields, which pydantic keeps with each model, shared by all.

        They take more memory than the fields.
        """
        for model in (self, self.event, self.price, *self.contracts):
            if model is not None:
                _share_field_set(model)
        return self


class RejectedMarket(Frozen):
    """A row that was offered and could not be read as a market."""

    market_id: str | None
    field: str
    reason: str
