"""Resolution: how the stored markets settled, observed again and again until they are final and for a while after."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from predictbench_assets.assets.step import OWNERS, discreet
from predictbench_assets.observability.logs import bound
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.resolution.ledger import CohortSettled, settled_cohorts
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.resolution.sweep import SweepInterrupted
from predictbench_assets.settings import Settings

GROUP = "resolution"
REPORT = "resolution.json"
"""The name of the sweep's report in ARTIFACTS_DIR; the same as Markdown is beside it."""

CLOSED_FOR = timedelta(days=7)
LONG_OPEN = timedelta(days=14)
ENOUGH_FINAL = 0.95
"""Of a cohort whose markets are a week past their close; in 2024, 96 % were paid by then."""
MANY_SPLITS = 0.02
FEWEST_TO_JUDGE = 50
"""Of fewer settled markets no share is judged."""
MANY_CHANGES = 0.01
FEWEST_CHANGES = 5
"""As many settlements may change in any sweep: disputes happen, to one market or to those of one event."""

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


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "python"},
    code_version="1",
    deps=["persisted_run"],
    check_specs=RESOLUTION_CHECKS,
)
def market_resolutions(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
):
    """How markets settled: every observation that says something new, and what is believed now (the view)."""
    with bound(process_stage=context.asset_key.to_user_string()), discreet(settings):
        try:
            report = run_sweep(settings, database.engine)
        except SweepInterrupted as error:
            error.report.write(settings.artifacts / REPORT)
            raise
        report.write(settings.artifacts / REPORT)
        return dg.MaterializeResult(
            metadata=_metadata(report),
            check_results=[*_checks(database, settings.clock.now()), check_stability(report)],
        )


def _metadata(report: SweepReport) -> dict[str, Any]:
    counts = {name: value for name, value in report.as_dict().items() if isinstance(value, int | float)}
    records = [
        dg.TableRecord({"market": one.market_id, "before": one.before, "now": one.now, "source": one.source})
        for one in report.changed
    ]
    columns = [dg.TableColumn(name) for name in ("market", "before", "now", "source")]
    return {
        **counts,
        "states": dg.MetadataValue.json(dict(report.states)),
        "changed": dg.MetadataValue.table(records, schema=dg.TableSchema(columns)),
        "problems": dg.MetadataValue.json(list(report.problems)),
        "api": dg.MetadataValue.json(dict(report.api)),
        "summary": dg.MetadataValue.md(report.to_markdown()),
    }


def _checks(database: RunDatabase, now: datetime) -> Iterator[dg.AssetCheckResult]:
    cohorts = settled_cohorts(database.engine, now, closed_for=CLOSED_FOR, long_open=LONG_OPEN)
    yield from check_resolutions(cohorts)


def check_stability(report: SweepReport) -> dg.AssetCheckResult:
    """Whether what was final stayed as it was: an exchange that takes many settlements back has changed its API."""
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
