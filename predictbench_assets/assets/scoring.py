"""Scoring: scores of settled forecasts, the boards made of them, and the page that shows them.

Computed from the database alone, as of the moment of the run. The libraries for it are loaded in the bodies:
a daily run must not pay for them.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from predictbench_assets.assets.checks import BOARD_CHECKS, SCORE_CHECKS, check_leaderboard, check_scores
from predictbench_assets.assets.resolution import market_resolutions
from predictbench_assets.assets.step import OWNERS, redacting
from predictbench_assets.exchange_names import exchange_label, is_simulated
from predictbench_assets.observability.logs import bound
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.stored_runs import run_states
from predictbench_assets.reporting.boards import as_markdown
from predictbench_assets.reporting.coverage import CoverageCalendar, coverage_of
from predictbench_assets.reporting.plots import as_markdown_image
from predictbench_assets.scoring.boards import Leaderboard
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.settings import Settings
from predictbench_assets.site.names import FOLDER

if TYPE_CHECKING:
    from predictbench_assets.site.build import ReportSummary

GROUP = "scoring"

MARKET_PAGES = timedelta(days=180)
"""Markets of older runs have no page of their own: after a year there would be a hundred thousand."""


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "python"},
    code_version="1",
    deps=[market_resolutions, "persisted_run"],
    check_specs=SCORE_CHECKS,
)
def experiment_scores(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
):
    """Scores of every forecast whose market has settled; only what is new or has changed is computed."""
    from predictbench_assets.scoring.store.scores import score_settled

    with bound(process_stage=context.asset_key.to_user_string()), redacting(settings):
        report = score_settled(database.engine, settings.clock.now(), dry_run=database.dry)
        checks = list(check_scores(score_problems(database.engine)))
        return dg.MaterializeResult(
            metadata={"dagster/row_count": report.scores, **asdict(report)}, check_results=checks
        )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "python"},
    code_version="1",
    deps=[experiment_scores],
    check_specs=BOARD_CHECKS,
)
def leaderboard(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
):
    """All boards as of now, stored with their moment and the version of the rules, so that they can be rebuilt.

    They count the run dates of the last LEADERBOARD_DAYS, so that their time does not grow with all that is stored.
    They are computed from forecasts and resolutions, as a past one is; the stored scores come first, and are checked.
    """
    from predictbench_assets.scoring.store.boards import content_hash, rebuild_leaderboard, store_leaderboard

    with bound(process_stage=context.asset_key.to_user_string()), redacting(settings):
        as_of = settings.clock.now()
        board = rebuild_leaderboard(database.engine, as_of, since=settings.leaderboard_since(as_of))
        if not database.dry:
            store_leaderboard(database.engine, board, settings.clock.now())
        return dg.MaterializeResult(
            metadata={
                **_board_metadata(board, simulated=is_simulated(settings.exchange)),
                **_coverage_metadata(coverage_of(run_states(database.engine, board.as_of))),
                "content_hash": content_hash(board),
            },
            check_results=list(check_leaderboard(board)),
        )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"html", "python"},
    code_version="1",
    deps=[leaderboard],
)
def benchmark_report(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
):
    """The page: a folder that any static host serves and that opens from the disk."""
    from predictbench_assets.scoring.store.boards import stored_leaderboard
    from predictbench_assets.site.build import write_report

    with bound(process_stage=context.asset_key.to_user_string()), redacting(settings):
        now = settings.clock.now()
        board = stored_leaderboard(database.engine, now)
        summary = write_report(
            database.engine,
            settings.home / FOLDER,
            now=now,
            as_of=now if board is None else board.as_of,
            leaderboard=board,
            since=settings.leaderboard_since(now),
            markets_since=now.date() - MARKET_PAGES,
        )
        return dg.MaterializeResult(metadata=_page_metadata(summary, settings))


def _board_metadata(board: Leaderboard, *, simulated: bool) -> dict[str, Any]:
    """The board in words and pictures."""
    from predictbench_assets.reporting import charts

    whole = [row for row in board.rows if row.is_whole]
    pictures: dict[str, Callable[[Leaderboard], bytes]] = {
        "edges": charts.board_png,
        "reliability": charts.reliability_png,
        "edge_over_time": charts.edge_over_time_png,
        "edge_by_price": charts.edge_by_price_png,
        "edge_by_category": charts.edge_by_category_png,
        **({"edge_and_cost": charts.cost_png} if board.costs else {}),
    }
    return {
        "dagster/row_count": len(board.rows),
        "as_of": board.as_of.isoformat(),
        "scoring_version": board.scoring_version,
        **{name: day.isoformat() for name, day in (("since", board.since), ("until", board.until)) if day is not None},
        "board": dg.MetadataValue.md(as_markdown(board, whole, simulated=simulated)),
        **{
            name: dg.MetadataValue.md(as_markdown_image(draw(board), name.replace("_", " ")))
            for name, draw in pictures.items()
        },
    }


def _coverage_metadata(calendar: CoverageCalendar | None) -> dict[str, Any]:
    """The coverage calendar as a picture; nothing where no run is stored."""
    from predictbench_assets.reporting.charts import coverage_png

    if calendar is None:
        return {}
    return {"coverage": dg.MetadataValue.md(as_markdown_image(coverage_png(calendar), "coverage calendar"))}


def _page_metadata(summary: "ReportSummary", settings: Settings) -> dict[str, Any]:
    return {
        "index": dg.MetadataValue.path(summary.index),
        "files": summary.files,
        "bytes": summary.bytes,
        "seconds": summary.seconds,
        "markets": summary.markets,
        "experiments": summary.experiments,
        "as_of": summary.as_of.isoformat(),
        "leaderboard_hash": summary.leaderboard_hash,
        "exchange": exchange_label(settings.exchange),
    }
