"""`predictbench doctor`: is everything set up?"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict

import click

from predictbench_assets.clock import SystemClock
from predictbench_assets.diagnosis.checks import Finding, run_checks
from predictbench_assets.diagnosis.doctor import all_checks
from predictbench_assets.observability.console import print_item
from predictbench_assets.secrecy import redacted_output
from predictbench_assets.settings import SettingsError, load_settings, usable_settings

_NAME_WIDTH = 21


@click.command(
    epilog="\b\nExamples:\n  predictbench doctor\n  predictbench doctor --json",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def doctor(as_json: bool) -> None:
    """Look at every part of the deployment, and say beside each fault what mends it.

    Settings, experiments with their keys, prices and servers, database (version, revision, rights, pooler, size, runs
    of the last days), Dagster's storage, staging, archive, the exchange, clocks, GitHub's schedule, Supabase's REST
    API, notifications. All parts are looked at, whatever is wrong with the others; within half a minute. Nothing is
    changed: one small file is written to the staging area and removed. Exit code 1 on any failure; warnings are not
    failures.
    """
    problems: list[str] = []
    try:
        settings = load_settings()
    except SettingsError as error:
        problems = error.problems
        settings = usable_settings()
    findings: list[Finding] = []
    results = sys.stdout
    with _quiet(), redacted_output(settings.redact), redirect_stdout(sys.stderr):  # experiments may print
        for found in run_checks(all_checks(settings, problems, SystemClock())):
            findings += found
            if not as_json:
                for finding in found:
                    print_item(
                        f"{finding.level:<4}  {finding.name:<{_NAME_WIDTH}}  ", settings.redact(finding.found), results
                    )
                    if finding.fix:
                        print_item(" " * (_NAME_WIDTH + 8), f"fix: {settings.redact(finding.fix)}", results)
    counts = {level: sum(one.level == level for one in findings) for level in ("ok", "warn", "fail", "skip")}
    if as_json:
        report = {"counts": counts, "findings": [asdict(finding) for finding in findings]}
        click.echo(settings.redact(json.dumps(report, indent=2)))
    else:
        click.echo(f"{counts['fail']} failed, {counts['warn']} warnings, {counts['ok']} ok", err=True)
    sys.exit(1 if counts["fail"] else 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence logs and warnings of libraries: the findings report their causes."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
