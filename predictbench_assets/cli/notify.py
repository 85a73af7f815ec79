"""`predictbench notify`: send a run's outcome to a webhook."""

import logging
from datetime import date
from pathlib import Path

import click

from predictbench_assets.cli.options import day_option, windows_option
from predictbench_assets.observability.logs import configure_logging
from predictbench_assets.observability.notices import NotDelivered, Notice, NoticeKind, ping_dead_man, send_notice
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.settings import Settings, SettingsError, all_variables, load_settings, usable_settings
from predictbench_assets.texts import UndecodableFile

_log = logging.getLogger(__name__)


@click.command(
    epilog="""\
\b
Examples:
  predictbench notify --outcome failure --summary summary.json \\
    --link https://example.com/runs/1
  predictbench notify --outcome failure --run-date 2026-11-23 \\
    --window-days 7 --stage install
  predictbench notify --outcome missed --run-date 2026-11-22 --window-days 1,7
""",
)
@click.option("--outcome", type=click.Choice(["failure", "success", "missed"]), required=True, help="How it went.")
@click.option(
    "--summary", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The run's summary (JSON)."
)
@day_option("--run-date", help="The day of the run.  [default: as the summary says]")
@windows_option("The windows of the run.  [default: as the summary says]")
@click.option("--stage", metavar="NAME", help="Where it stopped, if the summary does not say so.")
@click.option("--link", metavar="URL", help="Where there is more to see.")
def notify(
    outcome: NoticeKind,
    summary: Path | None,
    run_date: date | None,
    window_days: tuple[int, ...] | None,
    stage: str | None,
    link: str | None,
) -> None:
    """Tell NOTIFY_WEBHOOK_URL how a run went; silent where that is not set.

    A success is told with NOTIFY_ON_SUCCESS only, and DEAD_MAN_URL is fetched after it. Works with what is known: the
    summary may be missing, and the settings may be wrong. Exit code 1 if something could not be delivered.
    """
    settings = usable_settings()
    configure_logging(settings)
    read = _summary(summary, run_date, window_days)
    if read is not None:
        notice = Notice.of(outcome, read, stage=stage, link=link)
    else:
        notice = Notice(outcome, run_date=run_date, windows=window_days or (), stage=stage, link=link)
    undelivered = [*_send(notice, settings), *(_ping(notice, settings) if outcome == "success" else ())]
    undelivered += _unusable("NOTIFY_WEBHOOK_URL", *(["DEAD_MAN_URL"] if outcome == "success" else []))
    if undelivered:
        raise click.ClickException(settings.redact("; ".join(undelivered)))


def _summary(file: Path | None, run_date: date | None, windows: tuple[int, ...] | None) -> RunSummary | None:
    """The summary, if it can be read and is of the run that is meant."""
    if file is None or file == Path():
        return None
    try:
        found = RunSummary.read(file)
    except (OSError, ValueError) as error:
        why = error if isinstance(error, UndecodableFile) else type(error).__name__
        _log.warning("the summary %s cannot be read: %s", file, why)
        return None
    if run_date not in (None, found.run_date) or (windows is not None and found.window_days not in windows):
        _log.warning("the summary %s is of another run: %s, window %d", file, found.run_date, found.window_days)
        return None
    return found


def _unusable(*addresses: str) -> list[str]:
    """The problems of these settings, or of the file that may name them: a wrong setting is not an unset one."""
    others = all_variables() - set(addresses)
    try:
        load_settings()
    except SettingsError as error:
        return [problem for problem in error.problems if problem.partition(":")[0] not in others]
    return []


def _send(notice: Notice, settings: Settings) -> list[str]:
    """Send the notice; returns why it could not be sent, if so."""
    try:
        send_notice(notice, settings)
    except NotDelivered as error:
        return [str(error)]
    return []


def _ping(notice: Notice, settings: Settings) -> list[str]:
    """Ping the dead man's switch; returns why that failed, if so. A dry run stores nothing, and sends no ping."""
    if notice.dry_run:
        return []
    try:
        ping_dead_man(settings)
    except NotDelivered as error:
        return [str(error)]
    return []
