"""Calls that are shared out by shards: which of them makes which, and what the last call comes to."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.forecast import (
    ExperimentForecasts,
    ForecastCohort,
    forecast,
    open_shards,
    shard_of,
)
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext, RetriableError
from predictbench_assets.experiments.testing import make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea

SHARDS = 3
MARKETS = [
    make_market(str(number), price=number / 50, event_id=f"event {number // 4}" if number < 24 else None)
    for number in range(1, 49)
]
COHORT = ForecastCohort(make_run(), MARKETS, "cohort")


class Counting(Experiment):
    """Counts its calls, and knows whom else it is shown."""

    name = "counting"
    version = "1"
    description = "Counts its calls."
    shards = SHARDS
    max_concurrency = 2

    def __init__(self, *, busy: str = "", limit: int | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.busy, self.max_markets = busy, limit

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        self.calls[market.market_id] += 1
        if market.market_id == self.busy:
            raise RetriableError("busy")
        known = {"siblings": len(context.siblings), "cohort": len(context.cohort), "draw": context.rng.random()}
        return ExperimentResult.binary(0.25, payload=known)


class Events(Counting):
    """Is asked about events."""

    def run_event(self, markets: Any, contexts: Any) -> Any:
        self.calls.update(market.market_id for market in markets)
        return {one.market_id: ExperimentResult.binary(0.5, payload={"of": len(markets)}) for one in markets}

    unit = "event"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(predictbench_home=tmp_path)


@pytest.fixture
def areas(tmp_path: Path) -> tuple[StagingArea, StagingArea]:
    """The staging areas of two runs."""
    return StagingArea(str(tmp_path / "one")), StagingArea(str(tmp_path / "other"))


def forecasts(
    experiment: Experiment, area: StagingArea, settings: Settings, shard: int | None = None, **options: Any
) -> ExperimentForecasts:
    given: dict[str, Any] = {
        "config_hash": "config",
        "required": {},
        "history": lambda as_of: (),
        "history_counts": lambda as_of: {},
        "area": area,
        "writer_id": "dagster",
        "settings": settings,
    }
    return forecast(experiment, COHORT, shard=shard, **(given | options))


def shared(experiment: Experiment, area: StagingArea, settings: Settings, **options: Any) -> ExperimentForecasts:
    """The forecasts of the last call, after one for each shard that is open."""
    for shard in planned(experiment, area, settings):
        forecasts(experiment, area, settings, shard, **options)
    return forecasts(experiment, area, settings, sharded_s=1.0, **options)


def planned(experiment: Experiment, area: StagingArea, settings: Settings, **options: Any) -> list[int]:
    return open_shards(experiment, COHORT, config_hash="config", area=area, settings=settings, **options)


@pytest.mark.parametrize("kind", [Counting, Events])
@pytest.mark.parametrize("limit", [None, 17])
def test_shards_come_to_what_one_call_does_and_ask_once(
    kind: type[Counting], limit: int | None, areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    alone, several = kind(limit=limit), kind(limit=limit)

    whole = forecasts(alone, areas[0], settings)
    parts = shared(several, areas[1], settings)

    assert parts.content_hash == whole.content_hash
    assert [outcome.market_id for outcome in parts.outcomes] == [market.market_id for market in MARKETS]
    assert several.calls == alone.calls
    assert several.calls.total() == (limit or 48)
    assert (parts.counts, parts.from_journal, parts.outdated) == (whole.counts, 0, 0)
    assert parts.seconds >= 1.0
    assert (parts.finished_at - parts.started_at).total_seconds() >= 1.0


def test_the_markets_of_an_event_are_in_one_shard() -> None:
    shards: dict[str, set[int]] = {}
    for market in MARKETS:
        shards.setdefault(market.event.event_id if market.event else market.market_id, set()).add(shard_of(market, 3))
    assert {len(found) for found in shards.values()} == {1}
    assert {number for found in shards.values() for number in found} == {1, 2, 3}


def test_a_shard_asks_about_its_own_markets_and_is_shown_all(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    experiment = Counting()
    made = forecasts(experiment, areas[0], settings, 2)
    own = [market.market_id for market in MARKETS if shard_of(market, SHARDS) == 2]
    assert [outcome.market_id for outcome in made.outcomes] == own
    assert experiment.calls == Counter(own)
    assert {outcome.payload["cohort"] for outcome in made.outcomes if outcome.payload} == {48}


def test_the_limit_of_markets_holds_for_all_shards_whichever_is_first(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    alone, several = Counting(limit=20), Counting(limit=20)
    forecasts(alone, areas[0], settings)
    for shard in (3, 1, 3, 2):
        forecasts(several, areas[1], settings, shard)
    assert several.calls == alone.calls


def test_what_failed_and_may_succeed_is_left_to_the_last_call(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    experiment = Counting(busy="7")
    for shard in (1, 2, 3):
        forecasts(experiment, areas[0], settings, shard)
    experiment.busy = ""
    made = forecasts(experiment, areas[0], settings, sharded_s=0.0)
    assert experiment.calls == Counter(market.market_id for market in MARKETS) + Counter(["7"])
    assert made.counts["completed"] == 48


def test_only_shards_with_calls_to_make_are_open(areas: tuple[StagingArea, StagingArea], settings: Settings) -> None:
    in_the_first = next(market.market_id for market in MARKETS if shard_of(market, SHARDS) == 1)
    area, experiment = areas[0], Counting(busy=in_the_first)
    assert planned(experiment, area, settings) == [1, 2, 3]
    forecasts(experiment, area, settings, 2)
    forecasts(experiment, area, settings, 3, writer_id="another")
    assert planned(experiment, area, settings) == [1]
    forecasts(experiment, area, settings, 1)
    # One market is left, and two can be asked about at once: that is no work for a process of its own.
    assert planned(experiment, area, settings) == []
    assert planned(experiment, area, settings, forget=True) == [1, 2, 3]
    assert planned(experiment, area, settings) == [1, 2, 3]


def test_no_shard_is_open_where_the_limit_of_markets_is_reached(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    experiment = Counting(limit=20)
    shared(experiment, areas[0], settings)
    assert planned(experiment, areas[0], settings) == []


def test_answers_of_an_earlier_attempt_are_told_from_those_of_the_shards(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    experiment = Counting()
    earlier = forecasts(experiment, areas[0], settings, 1, writer_id="earlier")
    made = shared(experiment, areas[0], settings)
    assert made.from_journal == len(earlier.outcomes)
    assert shared(experiment, areas[0], settings, writer_id="later").from_journal == 48


def test_a_mark_of_a_killed_shard_goes_when_all_have_been_asked_without_a_crash(
    areas: tuple[StagingArea, StagingArea], settings: Settings
) -> None:
    experiment = Counting()
    mark = CrashMark(settings.local_state, COHORT.slug, experiment.name, experiment.version)
    folder = settings.local_state / "crashes" / experiment.name / experiment.version
    folder.mkdir(parents=True)
    (folder / f"{COHORT.slug}_{2**22 + 1}_00000000").touch()  # of a process that cannot be alive
    assert mark.is_left()
    forecasts(experiment, areas[0], settings, 1)
    assert mark.is_left(), "another shard may be the one that crashed"
    forecasts(experiment, areas[0], settings, 2)
    forecasts(experiment, areas[0], settings, 3)
    forecasts(experiment, areas[0], settings, sharded_s=0.0)
    assert not mark.is_left()
