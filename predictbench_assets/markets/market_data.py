"""A market's order book and its prices of the week before, frozen beside a snapshot for the experiments that ask."""

from datetime import UTC, datetime

import msgspec

Level = tuple[float, float]
"""Price of an order, strictly between 0 and 1, and the shares that stand at it, above 0."""


class OrderBook(msgspec.Struct, frozen=True):
    """The orders of a market's first outcome. A side may be empty; the sides never cross."""

    at: datetime
    """Instant of the answer's arrival, UTC: right after the freeze."""
    bids: tuple[Level, ...]
    """The best levels, the highest price first."""
    asks: tuple[Level, ...]
    """The best levels, the lowest price first."""


class MarketData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was frozen of one market; for what is missing there is a reason."""

    market_id: str
    book: OrderBook | None = None
    history: tuple[tuple[float, float], ...] = ()
    """Seconds since the epoch and price of the first outcome, oldest first, none of after the freeze."""
    no_book: str | None = None
    no_history: str | None = None

    @property
    def price_history(self) -> tuple[tuple[datetime, float], ...]:
        """The history with its instants in UTC."""
        return tuple((datetime.fromtimestamp(at, UTC), price) for at, price in self.history)
