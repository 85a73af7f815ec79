"""`predictbench verify`: digests of forecasts, computed again and compared."""

import json
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click

from predictbench_assets.cli.options import configured_settings, day_option, demo_option, windows_begun
from predictbench_assets.clock import utc_text
from predictbench_assets.database.connection import opened_database
from predictbench_assets.dataset.check import check_release, released_digests
from predictbench_assets.observability.console import print_item
from predictbench_assets.persistence.digests import CheckedRun, check_digests
from predictbench_assets.printable import on_one_line
from predictbench_assets.settings import Settings

_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")
_NOTHING_TO_CHECK = 3


def _read_digest(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """A SHA-256; an empty text is none."""
    if not given or not given.strip():
        return None
    digest = given.strip().lower()
    if _HEXADECIMAL.fullmatch(digest) is None:
        raise click.BadParameter("a digest has 64 hexadecimal digits")
    return digest


@click.command(
    epilog="""\
\b
Examples:
  predictbench verify --run-date 2026-11-23 --window-days 7
  predictbench verify --digest "$DIGEST"    as the run's summary has it
  predictbench verify --all
  predictbench verify --release releases/2026-11
""",
)
@day_option("--run-date", help="Only runs of this day.")
@click.option("--window-days", type=int, metavar="N", shell_complete=windows_begun, help="Only runs of this window.")
@day_option("--since", help="Only runs from this date on.")
@click.option("--all", "every", is_flag=True, help="All runs.")
@click.option(
    "--digest",
    callback=_read_digest,
    metavar="HEX",
    help="That was published: one of the digests must be it, as kept and as computed.",
)
@click.option(
    "--release",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Check a released data set instead, without the database.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@demo_option
def verify(
    run_date: date | None,
    window_days: int | None,
    since: date | None,
    every: bool,
    digest: str | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Compute digests again from the stored forecasts, and compare them with those kept since the runs ended.

    Exit code 1 if one differs, if one was made after the markets had closed whose forecasts claim to be from before,
    or if the one that was given is not found; 3 if there is nothing to check. Forecasts that later attempts added are
    not in the digests of earlier ones.
    """
    chosen = run_date is not None or window_days is not None or since is not None
    if folder is not None and (chosen or every):
        raise click.UsageError("--release checks a folder as a whole: leave out what chooses runs")
    if folder is None and not chosen and not every and digest is None:
        raise click.UsageError("say what to check: --run-date, --window-days, --since, --all, --digest or --release")
    if (every and chosen) or (run_date is not None and since is not None):
        raise click.UsageError("--run-date, --since and --all exclude each other")
    if folder is not None:
        sys.exit(_verify_release(folder, digest, as_json=as_json))
    settings = configured_settings()
    selection: dict[str, Any] = {"window_days": window_days}
    if run_date is not None:
        selection |= {"since": run_date, "until": run_date}
    elif since is not None:
        selection |= {"since": since}
    elif not every and window_days is None:
        selection |= {"digest": digest}
    sys.exit(_verify_runs(settings, selection, digest, as_json=as_json))


def _verify_runs(settings: Settings, selection: dict[str, Any], digest: str | None, *, as_json: bool) -> int:
    checked_runs: list[dict[str, Any]] = []
    seen, checked, problems = False, 0, 0
    with opened_database(settings) as engine:
        for run in check_digests(engine, **selection):
            checked += len(run.digests)
            problems += len(run.problems)
            seen = seen or any(one.verdict != "mismatch" and one.stored.digest == digest for one in run.digests)
            checked_runs.append(_facts(run))
            if not as_json:
                for lead, line in _lines(run):
                    print_item(lead, on_one_line(line))
    if digest is not None and not seen:
        problems += 1
    summary = {"runs": len(checked_runs), "digests": checked, "problems": problems}
    if as_json:
        found = {} if digest is None else {"digest": digest, "found": seen}
        click.echo(json.dumps({**summary, **found, "checked": checked_runs}, indent=2))
    else:
        if digest is not None:
            print_item(f"{digest} ", "is the digest of these forecasts" if seen else "is the digest of no run checked")
        click.echo(f"{checked:,} digests of {len(checked_runs):,} runs, {problems:,} problems", err=True)
    if problems:
        return 1
    return 0 if checked else _NOTHING_TO_CHECK


def _facts(run: CheckedRun) -> dict[str, Any]:
    return {
        "run_date": run.key.run_date.isoformat(),
        "window_days": run.key.window_days,
        "first_close": None if run.first_close is None else utc_text(run.first_close),
        "digests": [
            {
                "digest": one.stored.digest,
                "algorithm": one.stored.algorithm,
                "attempt": one.attempt,
                "forecasts": one.stored.forecasts,
                "made_at": utc_text(one.stored.made_at),
                "verdict": one.verdict,
                "found": one.found.digest,
            }
            for one in run.digests
        ],
        "later_forecasts": run.later,
        "problems": run.problems,
    }


def _lines(run: CheckedRun) -> Iterator[tuple[str, str]]:
    """The findings of a run, each with the run's name as its lead."""
    name = f"{run.key.run_date} window {run.key.window_days}: "
    if not run.digests:
        yield name, "no digest is kept"
    for one in run.digests:
        closes = "" if run.first_close is None else f", first close {utc_text(run.first_close)}"
        made = f"{one.stored.forecasts:,} forecasts, made {utc_text(one.stored.made_at)}{closes}"
        yield name, f"{one.verdict}, {made}, digest {one.stored.digest}"
    for problem in run.problems:
        yield name, f"PROBLEM: {problem}"
    if run.later:
        yield name, f"{run.later:,} forecasts were stored since, by an attempt that has not ended"


def _verify_release(folder: Path, digest: str | None, *, as_json: bool) -> int:
    found = check_release(folder)
    problems = list(found.problems)
    if digest is not None and digest not in released_digests(found.manifest.cohorts):
        problems.append(f"{digest} is no digest of this release")
    if as_json:
        facts = {
            "version": found.manifest.version,
            "as_of": utc_text(found.manifest.as_of),
            "manifest_sha256": found.manifest_sha256,
            "files": len(found.manifest.files),
            "cohorts": len(found.manifest.cohorts),
            "digests": found.digests,
            "forecasts": found.forecasts,
            "problems": problems,
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        print_item(
            on_one_line(f"release {found.manifest.version}: "),
            f"{len(found.manifest.files)} files, {found.forecasts:,} rows of "
            f"forecasts, {found.digests:,} digests of {len(found.manifest.cohorts):,} cohorts, "
            f"manifest {found.manifest_sha256}",
        )
        for problem in problems:
            print_item("PROBLEM: ", on_one_line(problem))
    return 1 if problems else 0
