"""The order book's own opinion: the price between bid and ask, drawn towards the side with fewer shares."""

from collections.abc import Mapping, Sequence
from typing import Any

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, ExperimentSkip, PipelineContext
from predictbench_assets.experiments.quantitative.declarations import PRICE
from predictbench_assets.markets.market import GOOD_SPREAD, Market
from predictbench_assets.markets.market_data import OrderBook


class BookMicropriceExperiment(Experiment):
    """Is there a better price in the book than its middle?

    Args:
        levels: levels of each side whose shares are weighed, the best ones first.
    """

    name = "book_microprice"
    version = "1"
    description = (
        "The midpoint weighted by the shares on both sides of the order book. A price-quality entrant: it is never "
        "further than half a spread from the midpoint, so it can win a few ten-thousandths at most."
    )
    requires = (PRICE,)
    information = "market"
    market_data = True

    def __init__(self, levels: int = 1) -> None:
        if levels < 1:
            raise ValueError(f"levels is {levels}, not a whole number from 1 on")
        self._levels = levels

    @property
    def config(self) -> Mapping[str, Any]:
        """The levels that are weighed, and the widest spread that counts as one."""
        return {"levels": self._levels, "widest_spread": GOOD_SPREAD}

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Weigh the books; markets without one, and those whose book has no proper spread, are skipped."""
        books: dict[str, OrderBook] = {}
        forecasts: dict[str, ExperimentResult | ExperimentSkip] = {}
        for market in markets:
            book = contexts[market.market_id].book
            reason = _problem(book)
            if book is None or reason is not None:
                forecasts[market.market_id] = ExperimentSkip(reason or "")
            else:
                books[market.market_id] = book
        return forecasts | self._weighed(books, contexts) if books else forecasts

    def _weighed(
        self, books: Mapping[str, OrderBook], contexts: Mapping[str, PipelineContext]
    ) -> dict[str, ExperimentResult]:
        from predictbench_assets.experiments.quantitative.fitting import array, with_first

        bid = array(book.bids[0][0] for book in books.values())
        ask = array(book.asks[0][0] for book in books.values())
        buying = array(sum(size for _, size in book.bids[: self._levels]) for book in books.values())
        selling = array(sum(size for _, size in book.asks[: self._levels]) for book in books.values())
        # As a share of the spread, so that no rounding leads out of it.
        micro = bid + (ask - bid) * (buying / (buying + selling))
        middle = (bid + ask) / 2
        forecasts = {}
        numbers = (micro.tolist(), middle.tolist(), (ask - bid).tolist())
        for (market_id, book), price, mid, spread in zip(books.items(), *numbers, strict=True):
            required = contexts[market_id].required[PRICE]
            forecasts[market_id] = ExperimentResult(
                probabilities=with_first(required.probabilities, price),
                payload={"levels": self._levels, "spread": round(spread, 6)},
                diagnostics={
                    "mid": mid,
                    "from_mid": price - mid,
                    "of_half_spread": 2 * (price - mid) / spread,
                    # The book was read right after the freeze: what the market moved meanwhile is in the forecast.
                    "mid_from_frozen_price": mid - required.probability,
                    "book_at": book.at.isoformat(),
                },
            )
        return forecasts


def _problem(book: OrderBook | None) -> str | None:
    """The reason why a book has no proper spread; None where it has one."""
    if book is None:
        return "no order book was frozen with the snapshot"
    if not book.bids and not book.asks:
        return "its order book is empty"
    if not book.bids or not book.asks:
        return "its order book has one side only"
    spread = book.asks[0][0] - book.bids[0][0]
    if spread > GOOD_SPREAD + 1e-9:  # 0.55 - 0.45 is a little more than 0.10 in floating point
        return f"its order book is more than {GOOD_SPREAD:.2f} wide"
    return None
