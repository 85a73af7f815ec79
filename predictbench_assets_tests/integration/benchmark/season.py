"""Many days of one sandbox world through the real pipeline: daily runs, sweeps of resolutions, scores, boards."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from predictbench_assets.database.engine import make_engine
from predictbench_assets.definitions import build_defs
from predictbench_assets.launch.commands import RESOLUTION_SWEEP
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.boards import ALL, BoardName, BoardRow, Leaderboard
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets.settings import DEFAULT_EXPERIMENTS, all_variables, load_settings
from predictbench_assets_tests.integration.benchmark.planted import AHEAD, Planted, paths
from predictbench_assets_tests.kit.daily_run import DailyRun, Ran

FIRST = date(2026, 3, 2)
WINDOW = 7
FREEZE = time(7, 0)
SWEEP = time(9, 0)
REPORT = dg.AssetKey("benchmark_report")


BUILT_IN = tuple(
    path for path in DEFAULT_EXPERIMENTS if ".builtin.pricing:" not in path and ".quantitative." not in path
)
"""The baseline and the controls."""


@dataclass(frozen=True)
class Score:
    """A stored score, with what it belongs to."""

    market_id: str
    experiment: str
    scored_at: datetime
    observation_id: str
    outcome: float
    brier: float


@dataclass
class Season:
    """One exchange, one database and one Dagster instance, whose time moves on with each call."""

    daily: DailyRun
    world: World
    engine: Engine
    instance: dg.DagsterInstance

    def day(self, run_date: date) -> Ran:
        """The daily run of a date."""
        now = self.moved(run_date, FREEZE)
        return self.daily.here(RunKey(run_date, WINDOW), instance=self.instance, PREDICTBENCH_NOW=now.isoformat())

    def sweep(self, day: date, *, report: bool = False) -> dg.ExecuteInProcessResult:
        """The job that looks for resolutions, scores them and makes the boards; also the page, where it is wanted."""
        now = self.moved(day, SWEEP)
        with pytest.MonkeyPatch.context() as patch:
            for name in all_variables():
                patch.delenv(name, raising=False)
            variables = {"PREDICTBENCH_NOW": now.isoformat()}
            for name, value in self.daily.environment(self.daily.folder / "sweep.json", variables).items():
                patch.setenv(name, value)
            definitions = build_defs(load_settings())
            assert definitions.resources is not None
            job = definitions.resolve_job_def(RESOLUTION_SWEEP)
            assets = set(job.asset_layer.executable_asset_keys) - (set() if report else {REPORT})
            try:
                return job.execute_in_process(
                    instance=self.instance,
                    asset_selection=sorted(assets),
                    raise_on_error=False,
                    run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                )
            finally:
                definitions.resources["database"].engine.dispose()

    def moved(self, day: date, moment: time) -> datetime:
        """Move the exchange on to an instant, and return it."""
        now = datetime.combine(day, moment, UTC)
        self.daily.sandbox.set_time(now)
        return now

    def settle(self, market_id: str, payout: tuple[float, float]) -> None:
        """Change how a market was settled."""
        body = {"market_id": market_id, "payout": list(payout)}
        httpx.post(f"{self.daily.sandbox.base_url}/_sandbox/settle", json=body).raise_for_status()

    def board(self, as_of: datetime) -> Leaderboard:
        """All boards as known at an instant."""
        return rebuild_leaderboard(self.engine, as_of)

    def scores(self) -> list[Score]:
        """Every stored score."""
        found = self.daily.rows(
            "SELECT m.market_id, e.name, s.scored_at, s.observation_id::text, s.outcome, s.brier"
            " FROM predictbench.experiment_scores s"
            " JOIN predictbench.experiment_results r USING (experiment_result_id)"
            " JOIN predictbench.experiment_runs USING (experiment_run_id)"
            " JOIN predictbench.experiments e USING (experiment_id)"
            " JOIN predictbench.processed_markets m USING (processed_market_id)"
        )
        return [Score(*row) for row in found]

    def last_won(self) -> str:
        """The market on the core board that closed last of those that settled at 1."""
        [(market_id,)] = self.daily.rows(
            "SELECT market_id FROM predictbench.market_resolutions"
            " JOIN predictbench.processed_markets USING (market_id)"
            " WHERE state = 'final' AND outcome = 1 AND core ORDER BY closed_time DESC, market_id LIMIT 1"
        )
        return str(market_id)

    def true_edges(self, *, core: bool) -> Mapping[str, tuple[int, float]]:
        """Of each experiment the number of scored markets and the mean edge that it deserves on them.

        From the truth some days after the forecast, not from how the markets settled: what remains between the two is
        chance, which nobody can foresee.
        """
        edges: dict[str, list[float]] = defaultdict(list)
        for name, market_id, captured, price, forecast in self.daily.rows(
            "SELECT e.name, m.market_id, m.captured_at, m.price, r.probability FROM predictbench.experiment_results r"
            " JOIN predictbench.experiment_runs USING (experiment_run_id)"
            " JOIN predictbench.experiments e USING (experiment_id)"
            " JOIN predictbench.processed_markets m USING (processed_market_id)"
            " JOIN predictbench.market_resolutions n ON n.market_id = m.market_id"
            " WHERE r.status = 'completed' AND m.price_quality = 'good' AND n.state = 'final' AND n.outcome IN (0, 1)"
            f" {'AND m.core' if core else ''}"
        ):
            market = self.world.market(market_id)
            assert market is not None
            known = market.probability(int((captured + AHEAD).timestamp()))
            edges[name].append(2 * (forecast - price) * (known - price) - (forecast - price) ** 2)
        return {name: (len(values), float(np.mean(values))) for name, values in edges.items()}


@contextmanager
def season(
    folder: Path, database_url: str, planted: tuple[type[Planted], ...], others: tuple[str, ...], *, markets: int
) -> Iterator[Season]:
    """Open one on the first day.

    Args:
        folder: for staging and summaries.
        planted: the experiments with known edges.
        others: more experiments, as PROCESSING_EXPERIMENTS names them.
        markets: of the exchange, per closing day.
    """
    world = World(markets_per_day=markets)
    variables = {"PROCESSING_EXPERIMENTS": ",".join((*others, *paths(*planted)))}
    engine = make_engine(database_url, pool_size=2)
    try:
        with (
            serve(world, now=datetime.combine(FIRST, FREEZE, UTC)) as sandbox,
            dg.DagsterInstance.ephemeral() as instance,
        ):
            yield Season(DailyRun(folder, database_url, sandbox, variables), world, engine, instance)
    finally:
        engine.dispose()


def whole(board: Leaderboard, name: BoardName) -> dict[str, BoardRow]:
    """The rows of a board that are cut by nothing, by experiment."""
    return {
        row.experiment: row
        for row in board.rows
        if row.board == name and row.window_days == WINDOW and row.category == ALL and row.price_bin == ALL
    }


def days(count: int) -> list[date]:
    """The first days of a season."""
    return [FIRST + timedelta(days=place) for place in range(count)]


def correct_one(running: Season, ended: datetime) -> str:
    """Change how one market was settled, sweep the day after, and see that nothing else was scored again.

    Args:
        ended: when the season was swept last.

    Returns:
        The market's id.
    """
    market_id = running.last_won()
    before = running.scores()
    running.settle(market_id, (0.0, 1.0))
    assert running.sweep(ended.date() + timedelta(days=1)).success
    after = running.scores()
    assert {score for score in before if score.market_id != market_id} == {
        score for score in after if score.market_id != market_id
    }
    [was] = {(score.outcome, score.scored_at) for score in before if score.market_id == market_id}
    [now] = {(score.outcome, score.scored_at) for score in after if score.market_id == market_id}
    assert (was[0], now[0]) == (1.0, 0.0)
    assert was[1] <= ended < now[1]
    return market_id
