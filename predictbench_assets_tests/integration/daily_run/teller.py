"""An experiment that stores all that it was shown."""

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import Market


class Teller(Experiment):
    """Stores the market and every value of its context."""

    name = "teller"
    version = "1"
    description = "Stores what it is shown."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """One half, with everything that was there to see."""
        payload = {
            "market": market.model_dump(mode="json"),
            "run": repr(context.run),
            "cohort": [one.model_dump(mode="json") for one in (*context.siblings, *context.cohort[:20])],
            "history": [repr(one) for one in context.history()],
        }
        return ExperimentResult.binary(0.5, payload=payload)


class TellerOfBooks(Experiment):
    """Stores the market data, which nobody has of a day that is over."""

    name = "teller_of_books"
    version = "1"
    description = "Stores the order book and the history that it is shown."
    market_data = True

    def run(self, _: Market, context: PipelineContext) -> ExperimentResult:
        """One half, with the book and the history of the week."""
        history = [[at.isoformat(), price] for at, price in context.price_history]
        return ExperimentResult.binary(0.5, payload={"book": repr(context.book), "price_history": history})
