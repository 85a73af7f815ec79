"""Resolution: the stored markets' settlements, observed until they are final and for a while after."""

from datetime import timedelta
from typing import Any

import dagster as dg

from predictbench_assets.assets.checks import RESOLUTION_CHECKS, check_resolutions, check_stability
from predictbench_assets.assets.step import OWNERS, redacting
from predictbench_assets.observability.logs import bound
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.resolution.ledger import settled_cohorts
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.resolution.sweep import SweepInterrupted
from predictbench_assets.settings import Settings

GROUP = "resolution"
REPORT = "resolution.json"
"""The name of the sweep's report in ARTIFACTS_DIR; the same as Markdown is beside it."""

CLOSED_FOR = timedelta(days=7)
LONG_OPEN = timedelta(days=14)


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
    """Settlements of markets: every observation with new content, and the one believed now (the view)."""
    with bound(process_stage=context.asset_key.to_user_string()), redacting(settings):
        try:
            report = run_sweep(settings, database.engine)
        except SweepInterrupted as error:
            error.report.write(settings.artifacts / REPORT)
            raise
        report.write(settings.artifacts / REPORT)
        cohorts = settled_cohorts(database.engine, settings.clock.now(), closed_for=CLOSED_FOR, long_open=LONG_OPEN)
        return dg.MaterializeResult(
            metadata=_metadata(report), check_results=[*check_resolutions(cohorts), check_stability(report)]
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
