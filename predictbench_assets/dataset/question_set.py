"""The day as a question set of ForecastBench's shape, so that forecasters made for that one run on our questions.

What comes back is read by `predictbench submit`. A value that is not there is "N/A" in that shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from predictbench_assets.exchange_names import is_simulated, polymarket_address
from predictbench_assets.experiments.research.denied import without_market_links
from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.cohort import COHORT, cohort_markets
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.names import open_staged
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagingArea

ABSENT: Final = "N/A"


class ReconstructedRun(PermanentError):
    """Nobody can answer any more what was reconstructed afterwards."""


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A market, in ForecastBench's words."""

    id: str
    """The market's condition id; of one that has none, its market id."""
    source: str = "polymarket"
    question: str
    resolution_criteria: str
    background: str
    market_info_open_datetime: str
    market_info_close_datetime: str
    market_info_resolution_criteria: str = ABSENT
    url: str
    freeze_datetime: str
    freeze_datetime_value: str
    """The price of the first outcome."""
    freeze_datetime_value_explanation: str
    source_intro: str
    resolution_dates: str = ABSENT


class QuestionSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The questions of a run."""

    forecast_due_date: str
    """The day of the run."""
    question_set: str
    """Name of the file, which an answer to it repeats."""
    questions: list[Question]


@dataclass(frozen=True)
class ExportedQuestions:
    """A question set that was written."""

    name: str
    questions: int
    left_out: int
    """Markets without exactly two outcomes, of which one probability says too little."""
    captured_at: datetime


def export_question_set(
    area: StagingArea, to: StagingArea, key: RunKey, *, exchange: str, blind: bool
) -> ExportedQuestions:
    """Write a run's cohort as a question set.

    Args:
        area: where the cohort is staged.
        to: where the file goes; an earlier one of its name is replaced.
        exchange: that the markets are of, see `exchange_names`.
        blind: leave out prices, and links to markets.

    Raises:
        StagedFileMissing: no cohort is staged for the run.
        ReconstructedRun: there is one, of a day that is over.
        PredictbenchError: the place takes no file.
    """
    staged = open_staged(area, ("normalized_markets",), key, COHORT)
    header = staged.header(CohortHeader)
    if header.as_of is not None:
        raise ReconstructedRun(
            f"the snapshot of {key} was reconstructed, so every answer to it would be too late and is refused: export "
            "the questions of a day that was captured"
        )
    captured_at = header.captured_at
    markets = list(cohort_markets(staged))
    made = question_set(key, markets, captured_at=captured_at, simulated=is_simulated(exchange), blind=blind)
    to.write_bytes(made.question_set, msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    return ExportedQuestions(made.question_set, len(made.questions), len(markets) - len(made.questions), captured_at)


def question_set(
    key: RunKey, markets: Sequence[Market], *, captured_at: datetime, simulated: bool, blind: bool
) -> QuestionSet:
    """The markets of two outcomes as questions.

    Args:
        captured_at: instant of the freeze.
        simulated: True for markets that are made up, which have no page.
        blind: leave out prices, and links to markets.
    """
    return QuestionSet(
        forecast_due_date=key.run_date.isoformat(),
        question_set=f"{key.slug}{'-blind' if blind else ''}.json",
        questions=[
            _question(market, captured_at, simulated=simulated, blind=blind)
            for market in markets
            if len(market.contracts) == 2
        ],
    )


def _question(market: Market, captured_at: datetime, *, simulated: bool, blind: bool) -> Question:
    event = market.event
    url = ABSENT if simulated or blind else polymarket_address((event.slug if event else None) or market.slug)
    first, second = market.outcomes
    rules = "by the rules in the background" if url == ABSENT else f"as the market at {url} does"
    price = None if blind else market.price.value
    return Question(
        id=market.condition_id or market.market_id,
        question=without_market_links(market.question) if blind else market.question,
        resolution_criteria=f'Resolves {rules}. The forecast is the probability of "{first}", against "{second}".',
        background=(without_market_links(market.description) if blind else market.description) or ABSENT,
        market_info_open_datetime=ABSENT if market.opened_at is None else market.opened_at.isoformat(),
        market_info_close_datetime=market.close_time.isoformat(),
        url=url,
        freeze_datetime=captured_at.isoformat(),
        freeze_datetime_value=ABSENT if price is None else str(price),
        freeze_datetime_value_explanation=ABSENT if price is None else f'The market\'s price of "{first}".',
        source_intro="A question that is traded on Polymarket, frozen by Predictbench. It is about one market alone.",
    )
