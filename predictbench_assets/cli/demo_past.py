"""`predictbench demo --past`: days that are over, so that there is something to score."""

import os
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

from predictbench_assets.cli.demo import SandboxProcess, start_sandbox_at, use_sandbox

if TYPE_CHECKING:
    from predictbench_assets.launch import Line, Watched
    from predictbench_assets.reporting.summary import RunSummary
    from predictbench_assets.settings import Settings

WINDOW = 7
SETTLING = timedelta(days=3)
"""After their close; of most markets that is enough."""


def run_past_days(folder: Path, markets: int, days: int) -> int:
    """Run so many days of the past, the last of which has closed by now, on an exchange that is taken from day to day.

    Days that are stored are left as they are. Returns the exit code of the first that fails, else 0.

    Raises:
        SandboxNotRunning: the exchange does not come up.
    """
    from predictbench_assets.cli.daily import DailyOptions, run_daily
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    last = (datetime.now(UTC) - SETTLING).date() - timedelta(days=WINDOW)
    dates = [last - timedelta(days=back) for back in reversed(range(days))]
    sandbox = start_sandbox_at(folder, markets, _seven(dates[0]))
    use_sandbox(sandbox)
    try:
        for day in dates:
            _move(sandbox, _seven(day))
            os.environ["PREDICTBENCH_NOW"] = _seven(day).isoformat()
            settings = load_settings()
            configure_logging(settings)
            options = DailyOptions(run_date=day, window_days=WINDOW, on_existing="skip")
            code = run_daily(settings, options, show=_Silent, report=_say)
            if code != 0:
                return code
    finally:
        os.environ.pop("PREDICTBENCH_NOW", None)
    return 0


def show_board(context: click.Context) -> None:
    """Look up what has settled, score it, and show the board and where its page is."""
    from predictbench_assets.cli.leaderboard import leaderboard
    from predictbench_assets.cli.report import report
    from predictbench_assets.cli.resolve import resolve
    from predictbench_assets.cli.score import score

    click.echo()
    for command, options in ((resolve, {}), (score, {}), (leaderboard, {"board": "core"}), (report, {})):
        context.invoke(command, **options)


class _Silent:
    def __init__(self, _: "Settings") -> None: ...

    def __call__(self, line: "Line") -> None:
        """Shown for today's run only; the log of each day is kept."""

    def close(self) -> None:
        """Nothing was shown."""


def _say(summary: "RunSummary", _: "Watched") -> None:
    """A line for a day that went well, everything about one that did not."""
    from rich.console import Console

    if summary.succeeded:
        stored = "stored before" if summary.status == "skipped" else f"{summary.processed_markets:,} markets stored"
        click.echo(f"{summary.run_date}, window {summary.window_days} days: {stored}")
    else:
        Console(highlight=False).print(summary.to_table())


def _seven(day: date) -> datetime:
    return datetime.combine(day, time(7), UTC)


def _move(sandbox: SandboxProcess, now: datetime) -> None:
    with httpx.Client(base_url=sandbox.base_url, timeout=30, trust_env=False) as client:
        client.post("/_sandbox/time", json={"now": now.isoformat()}).raise_for_status()
