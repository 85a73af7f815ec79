"""Asset checks of all assets: their specs, their limits, and their evaluation.

Evaluated inside the asset that has the facts at hand, so that a check costs no step of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from statistics import median

import dagster as dg
import msgspec

from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.resolution.ledger import CohortSettled
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.scoring.boards import Leaderboard
from predictbench_assets.scoring.store.checks import ScoreProblems
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile

RECHECK_WARNING = 0.005
RECHECK_ERROR = 0.05
"""Share of ids that two walks of one slice may disagree on before it is a warning, and an error."""

STORED = "stored"

SUM_TOLERANCE = 0.02
SMALLEST_DAY = 0.25
"""A day that offers less than this share of the median of the days before is worth a look."""

ENOUGH_FINAL = 0.95
"""Share of a cohort that is final a week past its close; in 2024, 96 % were paid by then."""
MANY_SPLITS = 0.02
FEWEST_TO_JUDGE = 50
"""Settled markets below which no share is judged."""
MANY_CHANGES = 0.01
FEWEST_CHANGES = 5
"""Settlements that may change in any sweep: disputes happen, to one market or to those of one event."""

SNAPSHOT_CHECKS = [
    dg.AssetCheckSpec(
        "walk_repeatable",
        asset="raw_markets",
        blocking=True,
        description="One slice of the day, walked twice, lists the same markets (0.5 % others warn, 5 % stop the run).",
    ),
    dg.AssetCheckSpec(
        "no_duplicates", asset="raw_markets", description="The listing repeated few rows; each is kept once."
    ),
]

COHORT_CHECKS = [
    dg.AssetCheckSpec(
        "rejected_share",
        asset="normalized_markets",
        blocking=True,
        description="Few rows are malformed; more than REJECTED_SHARE_LIMIT means that the API has changed.",
    ),
    dg.AssetCheckSpec(
        "price_sums", asset="normalized_markets", description="The outcomes' prices of each market sum to about 1."
    ),
    dg.AssetCheckSpec(
        "cohort_size",
        asset="normalized_markets",
        description="About as many markets are offered as on the days before.",
    ),
]


def stored_check(experiment: dg.AssetKey) -> dg.AssetCheckSpec:
    """The check of an experiment's asset that its staged results reach the database."""
    return dg.AssetCheckSpec(
        STORED, asset=experiment, description="What is staged is stored too, by persisted_run of the same partition."
    )


RUN_CHECKS = [
    dg.AssetCheckSpec(
        "counts_add_up",
        asset="persisted_run",
        description="offered = excluded + rejected + failed + processed.",
    ),
    dg.AssetCheckSpec(
        "completeness", asset="persisted_run", description="Every market handed to the experiments was stored."
    ),
]

RESOLUTION_CHECKS = [
    dg.AssetCheckSpec(
        "cohorts_final",
        asset="market_resolutions",
        description="Of each run's markets that are a week past their close, at least 95 % are final.",
    ),
    dg.AssetCheckSpec(
        "split_share",
        asset="market_resolutions",
        description="At most 2 % of the final markets have no winner; in 2024 it was 0.2 %.",
    ),
    dg.AssetCheckSpec(
        "long_open",
        asset="market_resolutions",
        description="Few markets, at most 5 %, are still open two weeks after their close.",
    ),
    dg.AssetCheckSpec(
        "settlements_stable",
        asset="market_resolutions",
        description="Of the final markets looked at again, at most 1 % have changed; more, and the API has.",
    ),
]

SCORE_CHECKS = [
    dg.AssetCheckSpec(
        "scores_in_range",
        asset="experiment_scores",
        description="Brier scores and disagreements lie in [0, 1], edges in [-1, 1], log losses in [0, 6.91].",
    ),
    dg.AssetCheckSpec(
        "market_edge_zero",
        asset="experiment_scores",
        description="The market's price, scored as a forecast, has an edge of exactly 0 over itself.",
    ),
]

BOARD_CHECKS = [
    dg.AssetCheckSpec(
        "controls_beaten",
        asset="leaderboard",
        description="No negative control beats the market: one that does shows a bug, or a leak of the future.",
    ),
]


def check_snapshot(snapshot: StagedFile) -> Iterator[dg.AssetCheckResult]:
    """The checks of `raw_markets`."""
    header = snapshot.header(SnapshotHeader)
    recheck = header.recheck
    share = 0.0 if recheck is None else recheck.share
    yield dg.AssetCheckResult(
        check_name="walk_repeatable",
        passed=share <= RECHECK_WARNING,
        severity=dg.AssetCheckSeverity.ERROR if share > RECHECK_ERROR else dg.AssetCheckSeverity.WARN,
        description=(
            "" if share <= RECHECK_WARNING else "The listing changed between two walks; the next try captures again."
        ),
        metadata={"differing_share": share, "recheck": dg.MetadataValue.json(msgspec.to_builtins(recheck))},
    )
    repeated = header.api.duplicates
    yield dg.AssetCheckResult(
        check_name="no_duplicates",
        passed=repeated <= 0.05 * max(snapshot.rows, 1),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"repeated_rows": repeated, "of_them_changed": header.api.changed_duplicates},
    )


def check_cohort(cohort: Cohort, settings: Settings, earlier: Mapping[date, int]) -> Iterator[dg.AssetCheckResult]:
    """The checks of `normalized_markets`; `earlier` is how many markets each of the days before offered."""
    share = len(cohort.rejected) / cohort.offered if cohort.offered else 0.0
    too_many = share > settings.rejected_share_limit
    yield dg.AssetCheckResult(
        check_name="rejected_share",
        passed=not too_many,
        description=(
            f"{share:.1%} of the rows are unreadable, more than REJECTED_SHARE_LIMIT "
            f"({settings.rejected_share_limit:.0%}): the exchange is unwell, or its API has changed. The rejected rows "
            "are in the metadata of normalized_markets. The snapshot is kept aside: the next try of the day asks the "
            "exchange again, a try after the day reads what was kept. If it happens again, mend the reader first."
            if too_many
            else ""
        ),
        metadata={"share": share, "rejected": len(cohort.rejected), "offered": cohort.offered},
    )
    off = [
        market.market_id
        for market in cohort.markets
        if not math.isclose(sum(c.price or 0.0 for c in market.contracts), 1.0, abs_tol=SUM_TOLERANCE)
    ]
    yield dg.AssetCheckResult(check_name="price_sums", passed=not off, metadata={"off": len(off)})
    yield _cohort_size(cohort.offered, earlier)


def _cohort_size(offered: int, earlier: Mapping[date, int]) -> dg.AssetCheckResult:
    """The check of the exchange's offer, so that a filter or a limit of ours is no alarm."""
    usual = median(earlier.values()) if earlier else None
    small = offered == 0 or (usual is not None and offered < SMALLEST_DAY * usual)
    return dg.AssetCheckResult(
        check_name="cohort_size",
        passed=not small,
        severity=dg.AssetCheckSeverity.WARN,
        description="Far fewer markets than usual: look at the exchange." if small else "",
        metadata={"offered": offered, "median_of_days_before": usual or 0, "days_before": len(earlier)},
    )


def check_stored(context: dg.AssetExecutionContext, persisted: dg.AssetKey, *, dry: bool) -> dg.AssetCheckResult:
    """The check of an experiment's asset: a warning where nothing in its run stores what it stages."""
    if dry:
        return dg.AssetCheckResult(check_name=STORED, passed=True, description="A dry run stores nothing.")
    if persisted in context.job_def.asset_layer.executable_asset_keys:
        return dg.AssetCheckResult(check_name=STORED, passed=True, description="persisted_run of this run stores it.")
    return dg.AssetCheckResult(
        check_name=STORED,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description="Staged, not stored yet: materialize persisted_run of this partition too.",
    )


def report_stored(context: dg.AssetExecutionContext, experiment: dg.AssetKey) -> None:
    """Let the check of an experiment's asset pass that was materialized in an earlier run and is stored by this one."""
    if experiment not in context.job_def.asset_layer.executable_asset_keys:
        context.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=experiment,
                check_name=STORED,
                passed=True,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"Stored by persisted_run of the run {context.run.run_id}.",
            )
        )


def check_run(counts: RunCounts) -> Iterator[dg.AssetCheckResult]:
    """The checks of `persisted_run`."""
    accounted = counts.excluded + counts.rejected + counts.failed + counts.processed
    yield dg.AssetCheckResult(
        check_name="counts_add_up",
        passed=counts.offered == accounted,
        metadata={"offered": counts.offered, "accounted_for": accounted},
    )
    yield dg.AssetCheckResult(
        check_name="completeness",
        passed=counts.failed == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="" if counts.failed == 0 else "Some markets were not stored; processing_failures says why.",
        metadata={"stored": counts.processed, "failed": counts.failed},
    )


def check_stability(report: SweepReport) -> dg.AssetCheckResult:
    """The check that final settlements stay: an exchange that takes many back has changed its API."""
    changed = len(report.changed)
    final = report.states.get("final", 0) + changed
    passed = changed <= max(FEWEST_CHANGES, MANY_CHANGES * final)
    return dg.AssetCheckResult(
        check_name="settlements_stable",
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=""
        if passed
        else "Look at what changed before believing any board of today; the ledger still has what was known before.",
        metadata={"changed": changed, "final": final},
    )


def check_resolutions(cohorts: Sequence[CohortSettled]) -> Iterator[dg.AssetCheckResult]:
    """The checks of `market_resolutions`, which warn: the exchange settles when it does."""
    behind = [one for one in cohorts if one.final < ENOUGH_FINAL * one.markets]
    yield dg.AssetCheckResult(
        check_name="cohorts_final",
        passed=not behind,
        severity=dg.AssetCheckSeverity.WARN,
        description="Their boards stay provisional: look at the markets that are not final." if behind else "",
        metadata={
            "cohorts": len(cohorts),
            "behind": dg.MetadataValue.json(
                {f"{one.run_date}|{one.window_days}": round(one.final / one.markets, 4) for one in behind}
            ),
        },
    )
    markets, final, splits, long_open = (
        sum(getattr(one, name) for one in cohorts) for name in ("markets", "final", "splits", "long_open")
    )
    share = splits / final if final else 0.0
    yield dg.AssetCheckResult(
        check_name="split_share",
        passed=final < FEWEST_TO_JUDGE or share <= MANY_SPLITS,
        severity=dg.AssetCheckSeverity.WARN,
        description=""
        if share <= MANY_SPLITS
        else "Splits are seldom: see whether payouts are read as they are meant.",
        metadata={"final": final, "splits": splits, "share": share},
    )
    share = long_open / markets if markets else 0.0
    yield dg.AssetCheckResult(
        check_name="long_open",
        passed=markets < FEWEST_TO_JUDGE or share <= 1 - ENOUGH_FINAL,
        severity=dg.AssetCheckSeverity.WARN,
        description="" if share <= 1 - ENOUGH_FINAL else "Many markets stay open: does the sweep find them?",
        metadata={"markets": markets, "open": long_open, "share": share},
    )


def check_scores(problems: ScoreProblems) -> Iterator[dg.AssetCheckResult]:
    """The checks of `experiment_scores`."""
    yield dg.AssetCheckResult(
        check_name="scores_in_range",
        passed=problems.out_of_range == 0,
        description="The arithmetic of scoring/rules.py is at fault; no board is to be believed."
        if problems.out_of_range
        else "",
        metadata={"scores": problems.scores, "out_of_range": problems.out_of_range},
    )
    yield dg.AssetCheckResult(
        check_name="market_edge_zero",
        passed=problems.reference_edges == 0,
        description=(
            "Forecasts of baseline_snapshot are not the prices they are compared with: see whether the price of a "
            "market was changed after it was stored."
            if problems.reference_edges
            else ""
        ),
        metadata={"scores": problems.reference_scores, "with_an_edge": problems.reference_edges},
    )


def check_leaderboard(leaderboard: Leaderboard) -> Iterator[dg.AssetCheckResult]:
    """The check of `leaderboard`."""
    beating = sorted(
        {
            f"{row.label} ({row.board}{', reconstructed' * row.reconstructed}, {row.window_days} days)"
            for row in leaderboard.rows
            if "control_beats_market" in row.flags and row.is_whole
        }
    )
    yield dg.AssetCheckResult(
        check_name="controls_beaten",
        passed=not beating,
        description="A control beats the market's price: look for a bug or a leak." if beating else "",
        metadata={"controls": dg.MetadataValue.json(beating)},
    )
