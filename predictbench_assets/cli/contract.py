"""`predictbench contract`: does the exchange still behave as the client takes for granted?"""

import asyncio
import json
import sys
from dataclasses import asdict

import click

from predictbench_assets.clock import SystemClock
from predictbench_assets.exchange_names import exchange_label
from predictbench_assets.exchanges.polymarket.contract import Examination, examine
from predictbench_assets.observability.console import print_item
from predictbench_assets.settings import load_settings


@click.command(
    epilog="\b\nExamples:\n  predictbench contract\n  predictbench contract --json > contract.json",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def contract(as_json: bool) -> None:
    """Ask the live exchange about a dozen questions, and compare with what the client relies on.

    A line each: `ok`, `note` (something that the client copes with, or that is worth comparing with the last time), or
    `deviation` (a run would stop, or go wrong without a word). Exit code 1 on a deviation, and where the exchange
    cannot be reached.
    """
    settings = load_settings()
    examination = asyncio.run(
        examine(
            settings.polymarket_base_url,
            settings.polymarket_clob_url,
            clock=SystemClock(),
            opens=settings.clock.now(),
            api_key=settings.polymarket_api_key,
            rejected_share_limit=settings.rejected_share_limit,
            timeout_s=settings.polymarket_timeout_seconds,
            max_attempts=min(settings.polymarket_max_attempts, 4),
        )
    )
    if as_json:
        click.echo(settings.redact(_as_json(examination, settings.exchange)))
    else:
        width = max(len(finding.name) for finding in examination.findings)
        for one in examination.findings:
            seen = settings.redact(f"expected {one.expected}; seen: {one.seen}")
            print_item(f"{one.level:<9}  {one.name:<{width}}  ", seen)
    deviations = len(examination.deviations)
    exchange = exchange_label(settings.exchange)
    click.echo(f"{exchange}: {deviations or 'no'} deviation{'s' * (deviations != 1)}", err=True)
    sys.exit(1 if deviations else 0)


def _as_json(examination: Examination, exchange: str) -> str:
    report = {
        "exchange": exchange,
        "requests": examination.requests,
        "deviations": len(examination.deviations),
        "findings": [asdict(finding) for finding in examination.findings],
    }
    return json.dumps(report, indent=2)
