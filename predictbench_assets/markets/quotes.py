"""Quotes of an order book, and the price of a day before that is frozen with them."""

from datetime import datetime

from predictbench_assets.markets.market import Frozen, Probability


class PastPrice(Frozen):
    """A token's price at an earlier instant."""

    at: datetime
    """UTC."""
    price: Probability


class Quote(Frozen):
    """Both sides of a token's book at one moment; a side without orders is None. Never crossed."""

    token_id: str
    bid: Probability | None
    ask: Probability | None
    at: datetime
    """Instant of the answer's arrival, UTC; of the price, where only `midpoint` is known."""
    midpoint: Probability | None = None
    """The price where its sides are unknown, as in a price history."""
    day_ago: PastPrice | None = None
    """The price of a day before, where the exchange has one."""

    @property
    def priced(self) -> bool:
        """True with an order on either side."""
        return self.bid is not None or self.ask is not None
