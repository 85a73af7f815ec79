"""`predictbench daily` and `predictbench partition`: one run of the job, checked before it begins."""

import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import click

from predictbench_assets.cli.completion import experiment_names
from predictbench_assets.cli.database import ready_database
from predictbench_assets.cli.output import console
from predictbench_assets.cli.partitions import run_date_option, window_option

if TYPE_CHECKING:
    from predictbench_assets.experiments.registry import Registry
    from predictbench_assets.launch.child import Watched
    from predictbench_assets.launch.progress import Progress
    from predictbench_assets.reporting.summary import RunSummary
    from predictbench_assets.runs import RunKey
    from predictbench_assets.settings import Settings

OnExisting = Literal["update", "skip", "fail"]

LOG = "log.jsonl"
SUMMARY = "summary.json"

_INTERRUPTED = "DagsterExecutionInterruptedError"
"""All that Dagster says of a step that a signal ended."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DailyOptions:
    """What a person may ask of a run."""

    run_date: date | None = None
    window_days: int | None = None
    dry_run: bool = False
    limit: int | None = None
    experiments: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    refresh: bool = False
    allow_empty: bool = False
    debug_artifacts: bool = False
    summary: Path | None = None
    on_existing: OnExisting = "update"


def _run_options(command: Any) -> Any:
    """The options that end up in the run's configuration."""
    for option in reversed(
        (
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="K", help="Only K markets; marks the run partial."
            ),
            click.option(
                "--experiment",
                "experiments",
                multiple=True,
                metavar="NAME",
                shell_complete=experiment_names,
                help="Only this one (repeatable), what it requires, and the mandatory ones.",
            ),
            click.option(
                "--forget",
                multiple=True,
                metavar="NAME",
                shell_complete=experiment_names,
                help="Ask this one again (repeatable), and those that require it, although its version is the same.",
            ),
            click.option("--refresh", is_flag=True, help="Freeze a new snapshot although one is stored; today's only."),
            click.option(
                "--allow-empty", is_flag=True, help="Believe a listing without any market: the day truly has none."
            ),
            click.option(
                "--debug-artifacts", is_flag=True, help="Write the staged markets as readable JSON into ARTIFACTS_DIR."
            ),
            click.option(
                "--on-existing",
                type=click.Choice(["update", "skip", "fail"]),
                default="update",
                help="What to do where the run is stored already.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command(
    short_help="One run, and what came of it.",
    epilog="""\
\b
Examples:
  predictbench daily
  predictbench daily --run-date 2026-11-20 --on-existing skip
  predictbench daily --dry-run --limit 50
  predictbench daily --experiment shrunk_market
  predictbench daily --experiment shrunk_market --forget shrunk_market
""",
)
@run_date_option
@window_option
@click.option("--dry-run", is_flag=True, help="Write nothing; count the rows that would be written.")
@_run_options
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the summary goes (JSON, and Markdown beside it).",
)
def daily(**options: Any) -> None:
    """Run the daily job for one date and window, and show what came of it.

    Prints the `dagster job execute` command that it runs. Exit code 0 only if the run succeeded.
    """
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    configure_logging(settings)
    sys.exit(run_daily(settings, DailyOptions(**options)))


@click.command(
    short_help="The tags of one partition.",
    epilog="""\
\b
Examples:
  predictbench partition --window-days 1
  dagster job execute -m predictbench_assets.definitions -j daily_run \\
    --tags "$(predictbench partition)"
""",
)
@run_date_option
@window_option
def partition(run_date: date | None, window_days: int | None) -> None:
    """Print the tags of one partition, for `dagster job execute --tags`."""
    import json

    from predictbench_assets.runs import partition_tags
    from predictbench_assets.settings import load_settings

    key = _checked_key(load_settings(), run_date, window_days)
    click.echo(json.dumps(partition_tags(key)))


@click.command(
    "run-config",
    short_help="The configuration of a run.",
    epilog="""\
\b
Examples:
  predictbench run-config --on-existing skip > run.json
  dagster job execute -m predictbench_assets.definitions -j daily_run \\
    -c run.json --tags "$(predictbench partition)"
""",
)
@_run_options
def run_config(**options: Any) -> None:
    """Print the run configuration for `dagster job execute -c FILE`: what `predictbench daily` passes too."""
    from predictbench_assets.experiments.registry import load_registry
    from predictbench_assets.launch import child
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    registry = load_registry(settings.processing_experiments)
    options["dry_run"] = settings.predictbench_dry_run
    click.echo(child.run_config(op_config(settings, DailyOptions(**options), registry)), nl=False)


def run_daily(
    settings: "Settings",
    options: DailyOptions,
    show: "Callable[[Settings], Progress] | None" = None,
    report: "Callable[[RunSummary, Watched], None] | None" = None,
    *,
    verbose: bool = True,
) -> int:
    """Check what is asked, run it, show the summary.

    Args:
        settings: of this process and of the run.
        options: what is asked.
        show: how to show the work while it goes on; default: as LOG_FORMAT and the terminal say.
        report: what to do with the summary; default: show it here, and on the Action's page.
        verbose: whether to print the command, and where log and summary of a run that succeeded are.

    Returns:
        The exit code: 0 only if the run succeeded; 128 and the signal's number where one stopped it.
    """
    from predictbench_assets import web
    from predictbench_assets.experiments.registry import import_path, load_registry
    from predictbench_assets.launch.progress import progress
    from predictbench_assets.settings import is_local

    web.check_environment()
    if not is_local(settings.staging):
        web.check_store_environment()
    if settings.predictbench_dry_run:
        options = replace(options, dry_run=True)
    key = _checked_key(settings, options.run_date, options.window_days)
    registry = load_registry(settings.processing_experiments)
    if options.refresh and key.run_date != settings.clock.now().date():
        raise click.UsageError("--refresh is for today's run only: a snapshot of the past cannot be frozen again")
    ops = op_config(settings, options, registry)
    for warning in settings.warnings:
        _log.warning(warning)
    with ExitStack() as stack:
        stack.enter_context(unwound_by_signals())
        if options.dry_run:
            scratch = stack.enter_context(scratch_folder())
            settings = settings.model_copy(update={"predictbench_dry_run": True, "predictbench_scratch": scratch})
        stack.enter_context(ready_database(settings))
        folder = run_folder(settings, key)
        crashes = Crashes(settings, key)
        while True:
            watched = _execute(settings, key, ops, folder, import_path(registry), show or progress, verbose=verbose)
            if not crashes.seen_in(watched):
                break
            ops = _not_twice(ops, watched.begun)
            for suffix in (".json", ".md"):
                (folder / SUMMARY).with_suffix(suffix).unlink(missing_ok=True)
        summary = summary_of(settings, folder, key, watched, options)
        (report or _report)(summary, watched)
        places = publish_summary(settings, summary, options, folder)
        if places and (verbose or not summary.succeeded):
            say(settings, "\n".join(places))
    if watched.signal is not None:
        return 128 + watched.signal
    return 0 if watched.exit_code == 0 and summary.succeeded else 1


class Crashes:
    """Sees whether a run ended because an experiment crashed, in which case it is worth making again.

    The next attempt makes the calls of that experiment in processes of their own, which it survives. So there are as
    many attempts as experiments that crash at most, and one more.
    """

    def __init__(self, settings: "Settings", key: "RunKey") -> None:
        self._settings, self._key = settings, key
        self._known = set(self._left())

    def seen_in(self, watched: "Watched") -> bool:
        """Whether this run ended by a crash that none before it had; if so, ends it in the database and says so."""
        if watched.signal is not None or watched.exit_code == 0:
            return False
        new = {mark: name for mark, name in self._left().items() if mark not in self._known}
        if not new:
            return False
        self._known |= set(new)
        names = ", ".join(sorted(set(new.values())))
        reason = f"the process of the run ended while {names} was at work"
        if not self._settings.predictbench_dry_run:
            _record_failure(self._settings, self._key, watched, "experiment_results", reason)
        say(self._settings, f"{reason}; the run goes on with {names} in a process of its own")
        return True

    def _left(self) -> "dict[Path, str]":
        from predictbench_assets.experiments.crashes import left_marks

        return left_marks(self._settings.local_state, self._key.slug)


def _not_twice(ops: dict[str, dict[str, Any]], begun: set[str]) -> dict[str, dict[str, Any]]:
    """What each op is told when the run is made again: a step that was begun has thrown away what it should."""
    return {
        op: {
            name: value and op.replace("__", "/", 1) not in begun if name in ("refresh", "forget") else value
            for name, value in choices.items()
        }
        for op, choices in ops.items()
    }


def run_folder(settings: "Settings", key: "RunKey") -> Path:
    """A new folder for the files of this one run: its configuration, its log, its summary."""
    from predictbench_assets.clock import SystemClock

    runs = (settings.predictbench_scratch or settings.artifacts) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{key.slug}_{SystemClock().now():%Y%m%dT%H%M%S}_", dir=runs))


def _execute(
    settings: "Settings",
    key: "RunKey",
    ops: dict[str, dict[str, Any]],
    folder: Path,
    import_path: Path | None,
    show: "Callable[[Settings], Progress]",
    *,
    verbose: bool,
) -> "Watched":
    """Run the job as a command of its own, shown here and kept in the folder."""
    from predictbench_assets.launch import child

    scratch = settings.predictbench_scratch
    home = child.prepare_home(settings, (scratch or settings.home) / "dagster", temporary=scratch is not None)
    command = child.run_command(
        settings,
        key,
        home=home,
        config_file=child.write_run_config(folder / "run_config.yaml", ops),
        summary=folder / SUMMARY,
        import_path=import_path,
        scratch=scratch,
    )
    if verbose:
        say(settings, f"$ {command}\n")
    shown = show(settings)
    try:
        return child.run_watched(command, log=folder / LOG, redact=settings.redact, on_line=shown)
    finally:
        shown.close()


def publish_summary(settings: "Settings", summary: "RunSummary", options: DailyOptions, folder: Path) -> list[str]:
    """Put the summary where it is looked for; returns where log and summary are, a line each.

    A dry run leaves one only where it was asked to; a skipped run does not take the place of the one it skipped for.
    """
    asked = options.summary or settings.predictbench_summary
    lines = [f"  log      {folder / LOG}"] if not options.dry_run and (folder / LOG).exists() else []
    if asked is None and not options.dry_run and summary.status != "skipped":
        asked = settings.artifacts / f"summary_{summary.run_date}_w{summary.window_days}.json"
        if _overtaken(asked, summary, folder):
            lines.append(f"  summary  {folder / SUMMARY}")
            asked = None
    if asked is not None:
        lines.append(f"  summary  {summary.write(asked.resolve())}")
    return lines


def _overtaken(usual: Path, summary: "RunSummary", folder: Path) -> bool:
    """Whether a newer attempt left its summary in the usual place while this one, which failed, was running."""
    from predictbench_assets.reporting.summary import RunSummary

    if summary.succeeded or summary.attempt is None or not usual.is_file():
        return False
    if usual.stat().st_mtime_ns < (folder / "run_config.yaml").stat().st_mtime_ns:
        return False
    newer = RunSummary.read(usual).attempt
    return newer is not None and newer > summary.attempt


def say(settings: "Settings", text: str) -> None:
    """Tell a person, or the log where stderr is one."""
    from predictbench_assets.observability.logs import wants_json

    if wants_json(settings):
        for line in text.strip().splitlines():
            _log.info(line.strip())
    else:
        click.echo(text, err=True)


def _checked_key(settings: "Settings", run_date: date | None, window_days: int | None) -> "RunKey":
    from predictbench_assets.runs import UnknownPartition, checked_key

    today = settings.clock.now().date()
    window = settings.target_close_window_days if window_days is None else window_days
    try:
        return checked_key(run_date or today, window, today=today)
    except UnknownPartition as error:
        raise click.UsageError(str(error)) from error


def op_config(settings: "Settings", options: DailyOptions, registry: "Registry") -> dict[str, dict[str, Any]]:
    """What each op is told.

    Raises:
        click.UsageError: a combination that cannot be meant.
    """
    from predictbench_assets.experiments.registry import RegistryError

    if options.limit is not None and settings.environment == "production" and not options.dry_run:
        raise click.UsageError("--limit would store a part of the day in production; add --dry-run")
    if options.refresh and options.experiments:
        raise click.UsageError(
            "--refresh captures the snapshot again that all forecasts of the day answer to: leave --experiment out, "
            "so that every experiment runs on the new one"
        )
    try:
        selected = registry.closure(options.experiments) if options.experiments else frozenset(registry.names)
        forgotten = registry.dependents(options.forget)
    except RegistryError as error:
        raise click.UsageError(str(error)) from error
    _check_forget(settings, options, selected)
    config: dict[str, dict[str, Any]] = {
        "target_window": {"on_existing": options.on_existing},
        "raw_markets": {"refresh": options.refresh, "allow_empty": options.allow_empty},
        "normalized_markets": {"limit": options.limit, "debug_artifacts": options.debug_artifacts},
    }
    if options.limit is None:
        del config["normalized_markets"]["limit"]
    told = {name: {"selected": name in selected, "forget": name in forgotten & selected} for name in registry.names}
    return config | {f"experiment_results__{name}": choices for name, choices in told.items()}


def _check_forget(settings: "Settings", options: DailyOptions, selected: frozenset[str]) -> None:
    """Refuse to forget where it would cost something, and where it would do nothing.

    Raises:
        click.UsageError: as it says.
    """
    if options.forget and settings.environment == "production" and not options.dry_run:
        raise click.UsageError(
            "--forget would throw away answers in production, which may have been paid for: change the version instead"
        )
    if left_out := sorted(set(options.forget) - selected):
        raise click.UsageError(f"--forget {left_out[0]}: it is not run, --experiment names others")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A dry run's folder, gone afterwards whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="predictbench-dry-run-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Leave by an exception when asked to terminate, so that what was begun is ended and scratch files go."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    from predictbench_assets.launch.child import STOPS

    before = {number: signal.signal(number, leave) for number in STOPS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summary_of(
    settings: "Settings", folder: Path, key: "RunKey", watched: "Watched", options: DailyOptions
) -> "RunSummary":
    """The summary that a run left in its folder, or one of what was seen of it.

    What a run that was asked to stop says of its failure is what came of the signal.
    """
    written = _written(folder)
    stopped = watched.signal is not None and watched.reason in (None, _INTERRUPTED)
    if written is not None and (written.succeeded or not stopped):
        return written
    return _seen_from_outside(settings, folder, key, watched, options)


def _written(folder: Path) -> "RunSummary | None":
    from predictbench_assets.reporting.summary import RunSummary

    file = folder / SUMMARY
    return RunSummary.read(file) if file.exists() else None


def _seen_from_outside(
    settings: "Settings", folder: Path, key: "RunKey", watched: "Watched", options: DailyOptions
) -> "RunSummary":
    """The summary of a run that wrote none: killed, ended before it began, or with nothing to do."""
    from predictbench_assets.commit import running_commit
    from predictbench_assets.observability.metrics import export_metrics
    from predictbench_assets.reporting.summary import FailureLine, RunSummary

    skipped = options.on_existing == "skip" and watched.exit_code == 0
    if skipped:
        reason = "the run is stored already, nothing was done; --on-existing update writes it again"
    elif watched.signal is not None and watched.reason in (None, _INTERRUPTED):  # not what failed before it came
        reason = f"stopped by signal {watched.signal}; run it again, it goes on where it stopped"
    elif watched.reason is not None:
        reason = watched.reason
    elif watched.exit_code is not None and watched.exit_code < 0:
        reason = f"the process was killed by signal {-watched.exit_code}; run it again, it goes on where it stopped"
    else:
        ended = f"Dagster ended with exit code {watched.exit_code} before a summary was written"
        # The outermost error says what was given up, the innermost one why.
        raised = ", from ".join(dict.fromkeys((*watched.raised[-1:], *watched.raised[:1])))
        reason = f"{ended}: {raised}" if raised else f"{ended}; the log has more"
    stage = (watched.stage or "target_window").partition("/")[0]
    if not skipped and not settings.predictbench_dry_run:
        _record_failure(settings, key, watched, stage, reason)
    own = FailureLine(market_id=None, stage=stage, reason=reason, retriable=True)
    summary = RunSummary.failed(
        key,
        stage=None if skipped else watched.stage,
        reason=reason,
        status="skipped" if skipped else "failed",
        dry_run=settings.predictbench_dry_run,
        dagster_run_id=watched.dagster_run_id,
        exchange=settings.exchange,
        git_sha=running_commit(settings),
        failures=() if skipped else (own,),
    )
    summary.write(folder / SUMMARY)
    if not summary.dry_run:
        export_metrics(summary, settings)
    return summary


def _record_failure(settings: "Settings", key: "RunKey", watched: "Watched", stage: str, reason: str) -> None:
    """End the run in the database as well, if it is still held by the process that is gone."""
    from typing import cast, get_args

    from predictbench_assets.failures import PredictbenchError, Stage

    if watched.dagster_run_id is None or stage not in get_args(Stage):
        return
    from predictbench_assets.persistence.run_store import RunDatabase

    database = RunDatabase(settings)
    if watched.signal is not None:
        database.hurry()
    try:
        database.fail(key, watched.dagster_run_id, cast("Stage", stage), reason, retriable=True)
    except PredictbenchError as error:
        _log.warning("the failure could not be recorded in the database: %s", settings.redact(str(error)))
    finally:
        database.engine.dispose()


def _report(summary: "RunSummary", watched: "Watched") -> None:
    """Show the summary here, and on the Action's page."""
    console().print(summary.to_table())
    if summary.succeeded and watched.exit_code != 0:
        click.echo(f"the run's data are stored, but Dagster ended with exit code {watched.exit_code}", err=True)
    put_on_page(summary.to_markdown())


def put_on_page(markdown: str) -> None:
    """Show a text on the Action's page, where this is an Action; a page that takes none fails nothing."""
    import os

    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(page).open("a", encoding="utf-8") as file:
                file.write(markdown)
        except OSError as error:
            _log.warning("GITHUB_STEP_SUMMARY: %s cannot be written (%s)", page, error.strerror)
