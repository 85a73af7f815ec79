"""The control that forecasts the price at the time of its forecast: what the delay since the freeze alone is worth."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from predictbench_assets.exchanges.exchange import Exchange
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, ExperimentSkip, PipelineContext
from predictbench_assets.markets.market import PRICE_AT_FORECAST, Market
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import FREEZE_WINDOW_HOURS


class PriceAtForecastExperiment(Experiment):
    """The midpoint of now, asked of the exchange for all markets at once; nobody pays for it.

    Who may search sees a world that is later than the frozen price. The board holds such an entrant against this
    control too, on the same markets.

    Args:
        exchange: makes the exchange, for the event loop that asks it.
    """

    name = PRICE_AT_FORECAST
    version = "1"
    description = "The market's own price when the experiments run, later than the freeze: what the delay is worth."
    information = "search"
    control = True

    def __init__(self, exchange: Callable[[], Exchange]) -> None:
        self._exchange = exchange

    async def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Forecast the midpoint of each market of which somebody buys and somebody sells.

        Raises:
            QuotesUnavailable: the exchange gave no quotes at all.
        """
        context = contexts[markets[0].market_id]
        if context.clock.now() > context.run.as_of + timedelta(hours=FREEZE_WINDOW_HOURS):
            late = f"more than {FREEZE_WINDOW_HOURS} hours after the freeze: the price of now says nothing about then"
            return {market.market_id: ExperimentSkip(late) for market in markets}
        quotes = await self._exchange().quotes([market.contracts[0].contract_id for market in markets])
        return {market.market_id: _answer(market, quotes.get(market.contracts[0].contract_id)) for market in markets}


def _answer(market: Market, quote: Quote | None) -> ExperimentResult | ExperimentSkip:
    if quote is None or quote.bid is None or quote.ask is None:
        return ExperimentSkip("no quotes on both sides at the time of the forecast")
    price = (quote.bid + quote.ask) / 2
    others = len(market.contracts) - 1
    return ExperimentResult(
        probabilities=(price, *((1 - price) / others for _ in range(others))),
        payload={"bid": quote.bid, "ask": quote.ask, "asked_at": quote.at},
    )
