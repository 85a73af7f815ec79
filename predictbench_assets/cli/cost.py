"""`predictbench cost`: what forecasts took of models and services."""

from datetime import date, timedelta
from decimal import Decimal

import click
from sqlalchemy import Engine

from predictbench_assets.cli.options import configured_settings, day_option, demo_option, experiment_names
from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.model_calls.store import spent_on_day
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.observability.console import console
from predictbench_assets.reporting.costs import Budget, CostReport
from predictbench_assets.scoring.store.costs import load_costs
from predictbench_assets.settings import Settings

_DAYS = timedelta(days=30)


@click.command(
    epilog="""\
\b
Examples:
  predictbench cost
  predictbench cost --since 2026-11-01 --experiment mini_blind
  predictbench cost --json
""",
)
@day_option("--since", help="The first run date.  [default: 30 days ago]")
@click.option("--experiment", metavar="NAME", shell_complete=experiment_names, help="Only this one.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@demo_option
def cost(since: date | None, experiment: str | None, as_json: bool) -> None:
    """Show what experiments cost: dollars, calls by status, tokens, by day and in all, and today's budgets.

    Calls of unknown outcome count at the most that they can have cost, and stand apart. Reads only.
    """
    settings = configured_settings()
    now = settings.clock.now()
    first = since or now.date() - _DAYS
    with opened_database(settings) as engine:
        costs = [one for one in load_costs(engine, now, since=first) if experiment in (None, one.experiment)]
        budgets, problem = _budgets(engine, settings, experiment)
    report = CostReport(first, now.date(), costs, budgets, problem)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        console().print(report.to_table())


def _budgets(engine: Engine, settings: Settings, experiment: str | None) -> tuple[list[Budget], str | None]:
    """What was spent today of each budget in dollars; and why those of experiments are not known."""
    spent = spent_on_day(engine, settings.clock.now())
    limits: dict[str | None, Decimal | None] = {}
    problem = None
    try:
        registry = registry_of(settings)
    except PredictbenchError as error:
        problem = settings.redact(str(error))
    else:
        limits |= {
            one.name: one.allowance.usd_per_day
            for one in registry
            if one.allowance is not None and experiment in (None, one.name)
        }
    limits[None] = settings.model_usd_per_day
    whole = sum(spent.values(), Decimal(0))
    return [
        Budget(name, whole if name is None else spent.get(name, Decimal(0)), limit)
        for name, limit in limits.items()
        if limit is not None
    ], problem
