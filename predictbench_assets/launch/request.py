"""A requested run: its options, their checks, and the configuration of its ops."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from predictbench_assets.experiments.registry import Registry, RegistryError
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.leases import OnExisting
from predictbench_assets.runs import RunKey, UnknownPartition, checked_key
from predictbench_assets.settings import Settings


class RunRefused(PermanentError):
    """A run that cannot be meant as it was asked for."""


@dataclass(frozen=True)
class DailyOptions:
    """The options of a run."""

    run_date: date | None = None
    window_days: int | None = None
    dry_run: bool = False
    limit: int | None = None
    experiments: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    refresh: bool = False
    reconstruct: bool | None = None
    allow_empty: bool = False
    debug_artifacts: bool = False
    summary: Path | None = None
    on_existing: OnExisting = "update"


def requested_key(settings: Settings, run_date: date | None, window_days: int | None) -> RunKey:
    """The partition of a date and a window, by default today and TARGET_CLOSE_WINDOW_DAYS.

    Raises:
        RunRefused: there is no such partition.
    """
    today = settings.clock.now().date()
    window = settings.target_close_window_days if window_days is None else window_days
    try:
        return checked_key(run_date or today, window, today=today)
    except UnknownPartition as error:
        raise RunRefused(str(error)) from error


def op_config(settings: Settings, options: DailyOptions, registry: Registry) -> dict[str, dict[str, Any]]:
    """The configuration of each op of a run.

    Raises:
        RunRefused: a combination that cannot be meant, or an experiment that is not listed.
    """
    if options.limit is not None and settings.environment == "production" and not options.dry_run:
        raise RunRefused("--limit would store a part of the day in production; add --dry-run")
    if options.refresh and options.experiments:
        raise RunRefused(
            "--refresh captures the snapshot again that all forecasts of the day answer to: leave --experiment out, "
            "so that every experiment runs on the new one"
        )
    try:
        selected = registry.closure(options.experiments) if options.experiments else frozenset(registry.names)
        forgotten = registry.dependents(options.forget)
    except RegistryError as error:
        raise RunRefused(str(error)) from error
    _check_forget(settings, options, selected)
    config: dict[str, dict[str, Any]] = {
        "target_window": {"on_existing": options.on_existing},
        "raw_markets": {"refresh": options.refresh, "allow_empty": options.allow_empty},
        "normalized_markets": {"limit": options.limit, "debug_artifacts": options.debug_artifacts},
    }
    if options.reconstruct is not None:
        config["raw_markets"]["reconstruct"] = options.reconstruct
    if options.limit is None:
        del config["normalized_markets"]["limit"]
    chosen = {name: {"selected": name in selected, "forget": name in forgotten & selected} for name in registry.names}
    return config | {f"experiment_results__{name}": choices for name, choices in chosen.items()}


def _check_forget(settings: Settings, options: DailyOptions, selected: frozenset[str]) -> None:
    """Refuse to forget where it would cost something, and where it would do nothing.

    Raises:
        RunRefused: it would.
    """
    if options.forget and settings.environment == "production" and not options.dry_run:
        raise RunRefused(
            "--forget would throw away answers in production, which may have been paid for: change the version instead"
        )
    if left_out := sorted(set(options.forget) - selected):
        raise RunRefused(f"--forget {left_out[0]}: it is not run, --experiment names others")
