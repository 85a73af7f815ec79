"""`predictbench submit`: forecasts from outside, as a file."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click
import msgspec

from predictbench_assets.cli.options import (
    as_usage_errors,
    configured_settings,
    demo_option,
    experiment_names,
    run_date_option,
    window_option,
)
from predictbench_assets.clock import utc_text
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.outside.forms import read_submission
from predictbench_assets.experiments.outside.inbox import Receipt
from predictbench_assets.launch.daily import run_daily
from predictbench_assets.launch.request import DailyOptions, RunRefused
from predictbench_assets.launch.submission import (
    CheckedSubmission,
    check_submission,
    chosen_experiment,
    read_receipt,
    receipt_text,
    receive,
    refuse_troubles,
    requested_run,
    verify_receipt,
    write_receipt,
)
from predictbench_assets.observability.console import print_item
from predictbench_assets.printable import on_one_line
from predictbench_assets.staging import StagingArea


@click.command(
    epilog="""\
\b
Examples:
  predictbench submit forecasts.csv --as crowd --window-days 7
  predictbench submit forecasts.json --as crowd --dry-run
  predictbench submit forecasts.json --as crowd --store
  predictbench submit --verify "$RECEIPT"    the file that it wrote
""",
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--as", "name", metavar="NAME", shell_complete=experiment_names, help="Who forecasts.  [default: the only one]"
)
@run_date_option
@window_option
@click.option("--partial", is_flag=True, help="Take the good lines of a file that has bad ones.")
@click.option("--dry-run", is_flag=True, help="Only check it.")
@click.option("--store", is_flag=True, help="Also put it on the board: run the experiment and store the run.")
@click.option(
    "--receipt",
    "receipt_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the receipt goes.  [default: beside FILE]",
)
@click.option(
    "--verify",
    "receipt_file",
    type=click.Path(path_type=Path),
    metavar="RECEIPT",
    help="Whether the stored submission is the one that was sealed, and of FILE where one is given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the receipt, or what was found, as one JSON object.")
@demo_option
def submit(
    file: Path | None,
    name: str | None,
    run_date: date | None,
    window_days: int | None,
    partial: bool,
    dry_run: bool,
    store: bool,
    receipt_folder: Path | None,
    receipt_file: Path | None,
    as_json: bool,
) -> None:
    """Hand in the forecasts of FILE for one run: ForecastBench's JSON, a CSV, or JSON lines.

    A CSV has the columns market_id or condition_id, probability (of the market's first outcome), and rationale if
    there is one; JSON lines have these keys. Every line that cannot be taken is told, and the file refused as a whole.
    A file in time replaces the one before. Exit code 1 if it is refused, or if the receipt is not that of what is
    stored.
    """
    if receipt_file is not None and (name or run_date or window_days or partial or dry_run or store):
        raise click.UsageError("--verify reads a receipt: leave out all but FILE and --json")
    if receipt_file is None and file is None:
        raise click.UsageError("name the FILE of forecasts, or a receipt by --verify")
    if dry_run and store:
        raise click.UsageError("--dry-run and --store exclude each other")
    if as_json and store:
        raise click.UsageError("--json prints the receipt and nothing else: leave --store out, and store it afterwards")
    settings = configured_settings()
    area = StagingArea(settings.staging, settings.staging_options)
    if receipt_file is not None:
        sys.exit(_verify(area, receipt_file, file, as_json=as_json))
    assert file is not None
    dry_run = dry_run or settings.predictbench_dry_run
    experiment = chosen_experiment(registry_of(settings), name)
    read = read_submission(file)
    with as_usage_errors(RunRefused):
        key = requested_run(settings, read, run_date, window_days)
    checked = check_submission(settings, area, key, experiment, file.name, read)
    for trouble in checked.troubles:
        print_item(f"{trouble.place}: ", on_one_line(trouble.text), sys.stderr)
    if read.ignored:
        names = ", ".join(on_one_line(one) for one in read.ignored[:20])
        print_item("not read: ", f"{len(read.ignored):,} columns or keys that mean nothing here ({names})", sys.stderr)
    if dry_run:
        refuse_troubles(checked, partial=partial)
        _show_check(checked, as_json=as_json)
        return
    receipt = receive(area, checked, partial=partial)
    _hand_over(receipt, receipt_folder or file.parent, file.name, as_json=as_json)
    if store:
        options = DailyOptions(run_date=key.run_date, window_days=key.window_days, experiments=(experiment,))
        sys.exit(run_daily(settings, options))
    if not as_json:
        print_item("to put it on the board: ", _store_command(receipt))


def _show_check(checked: CheckedSubmission, *, as_json: bool) -> None:
    submission = checked.submission
    facts: dict[str, Any] = {
        "experiment": submission.experiment,
        "run_date": submission.run_date.isoformat(),
        "window_days": submission.window_days,
        "forecasts": len(submission.forecasts),
        "markets": checked.markets,
        "missing": checked.missing,
        "troubles": [{"place": one.place, "trouble": one.text} for one in checked.troubles],
        "deadline": utc_text(checked.deadline),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_item("", _summary(len(submission.forecasts), checked.markets, submission.left_out))
    print_item("", f"nothing was handed in: this was a dry run, and {utc_text(checked.deadline)} is the deadline")


def _hand_over(receipt: Receipt, folder: Path, stem: str, *, as_json: bool) -> None:
    """Print the receipt and write it into a file; it is printed whole where it cannot be written."""
    try:
        path = write_receipt(folder, stem, receipt)
    except OSError as error:
        click.echo(receipt_text(receipt), nl=False)
        print_item(
            "warning: ", f"received, but its receipt cannot be written to {folder} ({error.strerror})", sys.stderr
        )
        return
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(receipt), indent=2))
        return
    print_item("", f"received {utc_text(receipt.received_at)} for {receipt.experiment}, "
               f"{receipt.run_date} window {receipt.window_days}")  # fmt: skip
    print_item("", _summary(receipt.forecasts, receipt.markets, receipt.left_out))
    if receipt.replaces is not None:
        print_item("replaces ", receipt.replaces)
    print_item("seal ", receipt.seal)
    print_item("receipt ", str(path))
    print_item("until ", f"{utc_text(receipt.deadline)} a newer file replaces it")


def _summary(forecasts: int, markets: int, left_out: int) -> str:
    bad = f", {left_out:,} lines left out" if left_out else ""
    return f"{forecasts:,} forecasts of {markets:,} markets, {markets - forecasts:,} without one{bad}"


def _store_command(receipt: Receipt) -> str:
    return (
        f"predictbench daily --run-date {receipt.run_date} --window-days {receipt.window_days} "
        f"--experiment {receipt.experiment}"
    )


def _verify(area: StagingArea, receipt_file: Path, file: Path | None, *, as_json: bool) -> int:
    receipt = read_receipt(receipt_file)
    problems = verify_receipt(area, receipt, file)
    if as_json:
        click.echo(json.dumps({"seal": receipt.seal, "submission": receipt.submission, "problems": problems}, indent=2))
    elif problems:
        for problem in problems:
            print_item("PROBLEM: ", on_one_line(problem))
    else:
        whose = f"{receipt.experiment}, {receipt.run_date} window {receipt.window_days}"
        print_item("", f"{whose}: the stored submission is the one that was sealed, {receipt.forecasts:,} forecasts")
    return 1 if problems else 0
