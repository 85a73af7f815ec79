"""`predictbench experiments`: those that will run, what they may cost, a new one, a try, and a replay of one."""

import importlib.util
import json
import keyword
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from predictbench_assets.cli.options import (
    as_usage_errors,
    configured_settings,
    day_option,
    demo_option,
    experiment_names,
    run_date_option,
    window_option,
    windows_option,
)
from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.declared import templates
from predictbench_assets.experiments.declared.file import read_declarations, registry_of
from predictbench_assets.experiments.declared.kinds import KINDS
from predictbench_assets.experiments.declared.table import Limits
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import SEES, Estimate, Experiment, Prerequisite, Usage
from predictbench_assets.experiments.registry import NAME, NAME_RULE, Registry, RegistryError
from predictbench_assets.experiments.runner import Progress as RunnerProgress
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.launch.replay import Replay
from predictbench_assets.launch.request import RunRefused, requested_key
from predictbench_assets.launch.signals import exiting_on_signals
from predictbench_assets.launch.trial import NotStaged, StagedDay, Trial, staged_day, try_experiment
from predictbench_assets.markets.market import Market
from predictbench_assets.observability.console import console, error_console, print_item, print_table
from predictbench_assets.reporting.charts import calibration_and_edge
from predictbench_assets.reporting.output import money
from predictbench_assets.reporting.replay import ReplayedPartition, replay_table
from predictbench_assets.runs import RunKey
from predictbench_assets.schedule import days_between
from predictbench_assets.scoring.boards import BoardRow, Leaderboard
from predictbench_assets.settings import EXPERIMENTS_FILE, Settings, load_settings
from predictbench_assets.texts import encoding_of, read_text

_A_CENT = Decimal("0.01")
_SHOWN = 4_000
"""Characters of a prompt or an answer that are printed."""


@click.group(
    invoke_without_command=True,
    epilog="""\
\b
Examples:
  predictbench experiments
  predictbench experiments --json
  predictbench experiments new my_model
  predictbench experiments try my_model --limit 3
  predictbench experiments replay my_model --from 2026-11-01 --to 2026-11-22
""",
)
@click.option("--json", "as_json", is_flag=True, help="As a JSON array.")
@click.pass_context
def experiments(context: click.Context, as_json: bool) -> None:
    """List the registered experiments, in the order in which they may run.

    Where one can tell what it costs, so much for the core and for the whole of the newest day that is staged. What one
    cannot forecast without (a key, a provider) is a warning; `doctor` looks at servers as well.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    registry = registry_of(settings)
    day = _estimated_day(settings, registry)
    if as_json:
        click.echo(json.dumps([_as_json(one, settings, registry, day) for one in registry], indent=2))
        return
    head = ("experiment", "kind", "model", "information", "needs", "limits", "core", "day", "description")
    rows = [_row(one, settings, registry, day) for one in registry]
    # A column that says nothing of any experiment is left out: most installations declare none.
    silent = {1: "code", 2: "", 5: "", 6: "-", 7: "-"}
    shown = [n for n in range(len(head)) if n not in silent or any(row[n] != silent[n] for row in rows)]
    print_table([head[n] for n in shown], [[row[n] for n in shown] for row in rows])
    for one in registry:
        for missing in _missing(one):
            print_item(f"warning: {one.name}: ", settings.redact(f"{missing.found} ({missing.fix})"), sys.stderr)
    if day is not None:
        print_item("", f"core and day: estimated for the {len(day.markets):,} markets of {day.key}")


def _missing(one: Experiment) -> list[Prerequisite]:
    """What it cannot forecast without; nothing where its class means another thing by that name."""
    try:
        return [each for each in one.prerequisites() if each.level == "fail"]
    except (Exception, SystemExit):  # a stranger's code
        return []


def _row(one: Experiment, settings: Settings, registry: Registry, day: StagedDay | None) -> tuple[str, ...]:
    core, whole = _estimates(one, day)
    return (
        f"{one.name} {one.version}",
        str(one.kind),
        _model(one) or "",
        one.information,
        ", ".join(one.requires),
        _limits_text(_limits(one, registry), one.shards),
        _cost_text(core),
        _cost_text(whole),
        settings.redact(one.description) + (" Part of every run." if one.mandatory else ""),
    )


def _as_json(one: Experiment, settings: Settings, registry: Registry, day: StagedDay | None) -> dict[str, Any]:
    core, whole = _estimates(one, day)
    return {
        "name": one.name,
        "version": one.version,
        "kind": str(one.kind),
        "model": _model(one),
        "requires": list(one.requires),
        "mandatory": one.mandatory,
        "information": one.information,
        "limits": _limits(one, registry).model_dump(mode="json", exclude_none=True),
        "shards": one.shards,
        "estimated_usd": {"core": _cost_json(core), "day": _cost_json(whole)} if day is not None else None,
        "description": settings.redact(one.description),
    }


def _model(one: Experiment) -> str | None:
    """The model in the experiment's configuration, where that names one."""
    model = dict(one.config).get("model")
    return model if isinstance(model, str) else None


def _limits(one: Experiment, registry: Registry) -> Limits:
    """The limits of its table, or those that its class has."""
    if (table := registry.table(one.name)) is not None:
        return table.limits
    return Limits.model_construct(
        markets=one.max_markets, concurrency=one.max_concurrency, timeout_seconds=one.timeout_seconds
    )


def _limits_text(limits: Limits, shards: int) -> str:
    parts = {
        "{:,} shards": shards if shards > 1 else None,
        "${:,.2f} a day": limits.usd_per_day,
        "{:,} tokens a day": limits.tokens_per_day,
        "{:,} calls a day": limits.calls_per_day,
        "{:,} markets": limits.markets,
        "{:,} at once": limits.concurrency,
        "{:,} requests a minute": limits.requests_per_minute,
        "{:g} s a call": limits.timeout_seconds,
    }
    return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def _estimated_day(settings: Settings, registry: Registry) -> StagedDay | None:
    """The newest staged day, if an experiment can tell what it would cost."""
    if all(type(one).estimate is Experiment.estimate for one in registry):
        return None
    try:
        return staged_day(settings, None, settings.target_close_window_days)
    except NotStaged:
        return None
    except (PredictbenchError, OSError) as error:
        click.echo(settings.redact(f"warning: no cost is estimated, no day can be read: {error}"), err=True)
        return None


def _estimates(one: Experiment, day: StagedDay | None) -> tuple[Estimate | None, Estimate | None]:
    """What the core and the whole day would cost, as far as its limit of markets goes."""
    if day is None:
        return None, None
    asked = day.order[: one.max_markets]
    return _estimate(one, [market for market in asked if market.core]), _estimate(one, asked)


def _estimate(one: Experiment, markets: Sequence[Market]) -> Estimate | None:
    """The experiment's own estimate; None where its class means another thing by that name."""
    try:
        found: object = one.estimate(markets)
    except Exception:  # a stranger's code, asked for a column of a listing
        return None
    return found if isinstance(found, Estimate) else None


def _cost_text(cost: Estimate | None) -> str:
    if cost is None:
        return "-"
    if cost.at_most == 0:
        return "free"
    return f"{_dollars(cost.expected)} (at most {_dollars(cost.at_most)})"


def _cost_json(cost: Estimate | None) -> dict[str, str] | None:
    return None if cost is None else {"expected": str(cost.expected), "at_most": str(cost.at_most)}


def _dollars(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.3f}" if amount >= _A_CENT else f"${amount:.2g}"


@experiments.command(
    epilog="""\
\b
Examples:
  predictbench experiments new my_model
  predictbench experiments new cheap_blind --kind language_model
""",
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["code", *KINDS]),
    default="code",
    metavar="KIND",
    help="A class of your own (code), or a table, such as language_model.  [default: code]",
)
def new(name: str, kind: str) -> None:
    """Begin an experiment NAME: a class with its test, or a table.

    The files NAME.py and test_NAME.py go into this folder; with --kind a table is added to the end of experiments.toml,
    or of the file that EXPERIMENTS_FILE names. Nothing that is there is changed.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise click.UsageError(
            f"{name!r} cannot be an experiment's name: it has to be {NAME_RULE}, and no word of Python"
        )
    if kind == "code":
        _write_class(name)
    else:
        _append_table(name, kind)


def _write_class(name: str) -> None:
    files = {Path(f"{name}.py"): templates.module_text(name), Path(f"test_{name}.py"): templates.test_text(name)}
    if there := [str(file) for file in files if file.exists() or file.is_symlink()]:
        raise click.ClickException(f"{' and '.join(there)} is there already, and is left as it is: choose another name")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise click.ClickException(f"{name} is the name of a module that is installed: choose another name")
    for file, text in files.items():
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    path = f"{name}:{templates.class_name(name)}"
    click.echo(
        f"wrote {' and '.join(map(str, files))}\n\nNext:\n"
        f"  python -m pytest test_{name}.py\n"
        f"  predictbench demo --past 8 --experiment {path}\n\n"
        f"To have it in each day's run, put these lines into {EXPERIMENTS_FILE}:\n\n"
        f'[{name}]\nkind = "{path}"\n\nThen try it, and no forecast is stored:\n'
        f"  predictbench experiments try {name}"
    )


def _append_table(name: str, kind: str) -> None:
    settings = load_settings()
    file = (settings.experiments_file or Path(EXPERIMENTS_FILE)).expanduser()
    before = ""
    if file.exists() or file.is_symlink():
        before = read_text(file)
        if encoding_of(file) not in ("utf-8", "utf-8-sig"):
            raise click.ClickException(f"{file} is not UTF-8: save it as UTF-8, then a table can be added")
        declared = read_declarations(settings)
        if declared is not None and name in declared.tables:
            raise click.ClickException(f"{file} has a table [{name}] already: choose another name")
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    text = templates.table_text(name, kind)
    tomllib.loads(before + gap + text)  # what is there stays valid
    with file.open("a", encoding="utf-8", newline="\n") as opened:
        opened.write(gap + text)
    click.echo(
        f"added to {file}:\n\n{text}\nNext, once it says what you mean:\n"
        f"  predictbench experiments\n"
        f"  predictbench experiments try {name} --limit 3"
    )


@experiments.command(
    "try",
    epilog="""\
\b
Examples:
  predictbench experiments try shrunk_market
  predictbench experiments try my_model --limit 10 --run-date 2026-11-23
  predictbench experiments try my_module:MyModel --market 511754
""",
)
@click.argument("name", metavar="NAME|MODULE:CLASS", shell_complete=experiment_names)
@click.option("--market", "market_id", metavar="ID", help="This market alone, by its id or its condition id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=3, show_default=True, help="Markets, the core first.")
@run_date_option
@window_option
@click.option("--json", "as_json", is_flag=True, help="As a JSON array.")
@demo_option
def try_(
    name: str, market_id: str | None, limit: int, run_date: date | None, window_days: int | None, as_json: bool
) -> None:
    """Try NAME on a few markets of a staged day; no forecast is stored.

    Shows what it was given, what it answered and what that took, before it is let loose on thousands. Calls that cost
    something do so here, too, once: the ledger keeps their answers, and the day's run takes them from there. Without a
    date the newest staged day. Exit code 1 if nothing was forecast.
    """
    settings = configured_settings()
    with as_usage_errors(RunRefused):
        window = requested_key(settings, run_date, window_days).window_days
    with as_usage_errors(RegistryError):
        registry, name = _registry_with(settings, name)
    experiment = registry[name]
    day = staged_day(settings, run_date, window)
    trial = try_experiment(settings, registry, name, day, day.chosen(experiment, market_id, limit))
    if as_json:
        pairs = zip(trial.markets, trial.outcomes, strict=True)
        click.echo(json.dumps([_tried_json(market, one, trial, settings) for market, one in pairs], indent=2))
    else:
        _show_trial(experiment, day, trial, settings)
    sys.exit(0 if any(one.status == "completed" for one in trial.outcomes) else 1)


@experiments.command(
    epilog="""\
\b
Examples:
  predictbench experiments replay shrunk_market --run-date 2026-11-23
  predictbench experiments replay my_module:MyModel --from 2026-11-01 \\
    --to 2026-11-22 --window-days 1,7 --core
  predictbench experiments replay my_model --from 2026-11-01 --to 2026-11-22 \\
    --picture my_model.png
""",
)
@click.argument("name", metavar="NAME|MODULE:CLASS", shell_complete=experiment_names)
@day_option("--run-date", help="The day of the run.  [default: the newest that is staged]")
@day_option("--from", "first", help="The first run date, of several.")
@day_option("--to", "last", help="The last run date, itself included.  [default: today, UTC]")
@windows_option("Days from there to the close.  [default: TARGET_CLOSE_WINDOW_DAYS]")
@click.option("--limit", type=click.IntRange(min=1), metavar="K", help="K markets of each run only, the core first.")
@click.option("--core", is_flag=True, help="The core samples only.")
@click.option("--yes", is_flag=True, help="Make calls that cost something; else only answers that are paid for count.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", help="On stdout.")
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|FILE.svg",
    help="Draw calibration and the edge by run date there.",
)
@demo_option
def replay(
    name: str,
    run_date: date | None,
    first: date | None,
    last: date | None,
    window_days: tuple[int, ...] | None,
    limit: int | None,
    core: bool,
    yes: bool,
    format_: str,
    picture: Path | None,
) -> None:
    """Run NAME on stored days, beside the market; no forecast is stored.

    Each run is replayed on its staged markets with the history of its freeze, and scored as a board would by what has
    settled since. A model that learned from later days may know the answers: a replay proves no foresight. Nothing is
    paid without --yes; what it pays for is kept in the ledger. Exit code 0 if all were replayed, 1 if one failed or
    nothing was forecast, 3 if some are not staged.
    """
    if picture is not None and picture.suffix.lower() not in (".png", ".svg"):
        raise click.BadParameter(f"{picture} ends neither with .png nor with .svg", param_hint="--picture")
    settings = configured_settings()
    with as_usage_errors(RegistryError):
        registry, name = _registry_with(settings, name)
    if not registry[name].forecasts:
        raise click.UsageError(f"{name} prepares what others require, and makes no forecasts: replay one of these")
    keys = _replayed_keys(settings, run_date, first, last, window_days or (settings.target_close_window_days,))
    with exiting_on_signals(), opened_database(settings) as engine:
        one = Replay(settings, registry, name, engine, limit=limit, core=core, asks=yes)
        done, stopped = _replay_all(one, keys, as_json=format_ == "json")
        built = one.leaderboard()
    rows = [row for row in built.rows if row.board in one.boards] if built is not None else []
    if format_ == "json":
        click.echo(_replay_tail(one, rows))
    else:
        title = f"{one.experiment.name} {one.experiment.version}"
        console().print(replay_table(title, done, [row for row in rows if row.is_whole], one.disagreements))
        for sentence in _replay_notes(one, done):
            print_item("", sentence)
    if picture is not None:
        _draw_replay(picture, built, one)
    sys.exit(130 if stopped else _replay_exit_code(done))


def _registry_with(settings: Settings, name: str) -> tuple[Registry, str]:
    """The experiments, and the name of the one that is meant: by name, or as module:Class, be it listed or not."""
    if ":" in name and name not in settings.processing_experiments:
        listed = (*settings.processing_experiments, name)
        settings = settings.model_copy(update={"processing_experiments": listed})
    registry = registry_of(settings)
    if ":" not in name:
        return registry, registry[name].name
    named = [one for one, path in registry.listings.items() if path == name]
    if len(named) != 1:
        raise click.UsageError(f"{name} makes {', '.join(named) or 'none'}: list it, and name one of them")
    return registry, named[0]


def _replayed_keys(
    settings: Settings, run_date: date | None, first: date | None, last: date | None, windows: tuple[int, ...]
) -> list[RunKey]:
    if run_date is not None and (first is not None or last is not None):
        raise click.UsageError("--run-date is one day, --from and --to are several: leave one of them out")
    if first is None and last is not None:
        raise click.UsageError("say from which day on: --from")
    if first is None and run_date is None:
        return sorted(staged_day(settings, None, window).key for window in windows)
    begin = first or run_date or settings.clock.now().date()  # one of the two is given
    end = last or run_date or settings.clock.now().date()
    if end < begin:
        raise click.UsageError(f"--to {end} is before --from {begin}")
    with as_usage_errors(RunRefused):
        for day in (begin, end):
            requested_key(settings, day, windows[0])
    return sorted(days_between(begin, end, windows))


def _replay_all(one: Replay, keys: Sequence[RunKey], *, as_json: bool) -> tuple[list[ReplayedPartition], bool]:
    """Replay each partition; of each its forecasts are printed, where they are, and let go. True if Ctrl-C ended it."""
    done: list[ReplayedPartition] = []
    if as_json:
        click.echo(_replay_head(one))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=len(keys))

        def show(key: RunKey, now: RunnerProgress) -> None:
            bar.update(task, description=f"{key} {now.experiment} {now.done:,}/{now.total:,}")

        try:
            for key in keys:
                bar.update(task, description=str(key))
                result = one.partition(key, partial(show, key))
                if as_json:
                    click.echo(f"{',' if done else ''}{msgspec.json.encode(result).decode()}")
                done.append(msgspec.structs.replace(result, forecasts=()))
                bar.advance(task)
        except KeyboardInterrupt:
            return done, True
    return done, False


def _replay_head(one: Replay) -> str:
    facts = {"experiment": one.experiment.name, "version": one.experiment.version, "as_of": one.as_of.isoformat()}
    return json.dumps(facts)[:-1] + ', "partitions": ['


def _replay_tail(one: Replay, rows: Sequence[BoardRow]) -> str:
    facts = {
        "boards": msgspec.to_builtins(rows),
        "disagreements": msgspec.to_builtins(one.disagreements),
        "not_asked": one.not_asked,
        "not_asked_usd": _cost_json(one.not_asked_cost),
    }
    return f"],\n{json.dumps(facts)[1:]}"


def _replay_notes(one: Replay, done: Sequence[ReplayedPartition]) -> Iterator[str]:
    """Sentences on what it cost, what it would cost, and what is missing."""
    amounts = Counter[str]()
    for partition in done:
        amounts.update({name: value for name, value in partition.usage.items() if name.startswith("cost_")})
    if amounts:
        costs = ", ".join(money(amount, name.removeprefix("cost_")) for name, amount in amounts.items())
        yield f"These answers cost {costs}, those that were there before included."
    if one.not_asked:
        cost = "at a cost that is not known" if one.not_asked_cost is None else f"for {_cost_text(one.not_asked_cost)}"
        yield f"{one.not_asked:,} markets were not asked about, since that has to be paid for: --yes does, {cost}."
    if missing := [partition for partition in done if partition.state == "missing"]:
        windows = ",".join(str(window) for window in sorted({partition.window_days for partition in missing}))
        yield (
            f"{len(missing):,} of {len(done):,} runs are not staged. Those that have a snapshot are staged again by "
            f"`predictbench backfill --from {missing[0].run_date} --to {missing[-1].run_date} "
            f"--window-days {windows} --experiment baseline_snapshot`."
        )
    yield "No forecast was stored."


def _draw_replay(picture: Path, built: Leaderboard | None, one: Replay) -> None:
    if built is None:
        click.echo(f"{picture} was not drawn: no market of these runs is stored", err=True)
        return
    drawn = calibration_and_edge(built, one.boards, svg=picture.suffix.lower() == ".svg")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(drawn)
    except OSError as error:
        raise click.FileError(str(picture), error.strerror) from error


def _replay_exit_code(done: Sequence[ReplayedPartition]) -> int:
    if any(one.state == "failed" for one in done):
        return 1
    if any(one.state == "missing" for one in done):
        return 3
    return 0 if any(one.completed for one in done) else 1


def _show_trial(experiment: Experiment, day: StagedDay, trial: Trial, settings: Settings) -> None:
    for market, one in zip(trial.markets, trial.outcomes, strict=True):
        print_item("", market.question)
        print_item("  market     ", f"{market.market_id}, {market.category}{', of the core' if market.core else ''}")
        unseen = "" if SEES[experiment.information].prices else " (not shown to it)"
        price = market.price.value
        print_item("  price      ", "none" if price is None else f"{price:.3f}{unseen}")
        print_item("  forecast   ", _answer(one))
        if one.usage is not None:
            print_item("  took       ", _usage_text(one.usage))
        for title, text in _texts(market, one, trial):
            print_item(f"  {title:<10} ", _cut(settings.redact(text)))
        click.echo("")
    counts = ", ".join(
        f"{count} {status}"
        for status in ("completed", "skipped", "failed")
        if (count := sum(one.status == status for one in trial.outcomes))
    )
    also = f" Asked as well: {', '.join(trial.also_run)}." if trial.also_run else ""
    cost = _cost_of(trial.outcomes)
    print_item("", f"{counts} of {day.key}{cost}; no forecast was stored.{also}")


def _answer(one: Outcome) -> str:
    if one.probability is not None:
        return f"{one.probability:.3f} in {one.seconds:.1f} s"
    at = f" ({one.place})" if one.place else ""
    return f"none, {one.status}: {one.reason}{at}"


def _usage_text(usage: Usage) -> str:
    parts = {
        "{:,} requests": usage.requests,
        "{:,} tokens in": usage.input_tokens,
        "{:,} of them cached": usage.cached_tokens,
        "{:,} tokens out": usage.output_tokens,
        f"{{}} {usage.currency}": usage.cost,
        "{:.1f} s": usage.seconds,
        "by {}": usage.model,
    }
    return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def _cost_of(outcomes: Iterable[Outcome]) -> str:
    costs: dict[str, Decimal] = {}
    for one in outcomes:
        if one.usage is not None and one.usage.cost is not None:
            costs[one.usage.currency] = costs.get(one.usage.currency, Decimal(0)) + one.usage.cost
    return "".join(f", {amount} {currency}" for currency, amount in costs.items())


def _texts(market: Market, one: Outcome, trial: Trial) -> Iterable[tuple[str, str]]:
    """What there is to read: what was sent and answered, payload, diagnostics and the artifact, each by its name."""
    for paid in trial.calls_of(market):
        sent = paid.content if isinstance(paid.content, dict) else {"sent": paid.content or "(paid for before)"}
        yield from ((key, value) for key, value in sent.items() if isinstance(value, str) and value)
        reply = paid.reply
        status = paid.call.status if reply is None else reply.status
        reason = paid.call.reason if reply is None else reply.reason
        yield "answer", f"({status}{f': {reason}' if reason else ''}) {'' if reply is None else reply.text}"
    for part in (one.payload, one.diagnostics):
        for key, value in (part or {}).items():
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if one.artifact_uri is not None and (content := trial.artifacts.get(one.artifact_uri)) is not None:
        yield "artifact", content.decode(errors="replace")


def _tried_json(market: Market, one: Outcome, trial: Trial, settings: Settings) -> dict[str, Any]:
    return {
        "market_id": market.market_id,
        "question": market.question,
        "price": market.price.value,
        "status": one.status,
        "probability": one.probability,
        "reason": one.reason,
        "place": one.place,
        "seconds": one.seconds,
        "usage": None if one.usage is None else msgspec.to_builtins(one.usage),
        "shown": [[title, _cut(settings.redact(text))] for title, text in _texts(market, one, trial)],
    }


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
