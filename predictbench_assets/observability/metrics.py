"""A run's counts for Prometheus: a textfile for the node exporter, a push gateway, or both, when set."""

import logging
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, push_to_gateway

from predictbench_assets import web
from predictbench_assets.reporting.output import write_at_once
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.settings import Settings

_PUSH_SECONDS = 10.0
_EXPERIMENT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, float("inf"))

_log = logging.getLogger(__name__)


def export_metrics(summary: RunSummary, settings: Settings) -> None:
    """Write and push the metrics of a run, where the settings name a place. One out of reach is a warning."""
    if settings.prometheus_textfile is None and settings.prometheus_push_gateway is None:
        return
    registry = run_metrics(summary, settings)
    if settings.prometheus_textfile is not None:
        file = _of_window(settings.prometheus_textfile, summary.window_days)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_at_once(file, generate_latest(registry).decode())
        except OSError as error:
            _log.warning("PROMETHEUS_TEXTFILE cannot be written: %s", error)
    if settings.prometheus_push_gateway is not None:
        try:
            push_to_gateway(
                settings.prometheus_push_gateway,
                job="predictbench",
                grouping_key={"window_days": str(summary.window_days)},
                registry=registry,
                timeout=_PUSH_SECONDS,
                handler=_sender,
            )
        except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL, web.WebEnvironmentError) as error:
            _log.warning("PROMETHEUS_PUSH_GATEWAY did not take the metrics: %s", error)


def _sender(
    url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
) -> Callable[[], None]:
    """The request by which the library pushes: its own has no limit in all."""

    def send() -> None:
        answer = web.ask(method, url, limit_s=timeout or _PUSH_SECONDS, longest=0, headers=dict(headers), content=data)
        if not answer.is_success:
            raise OSError(f"it answered {answer.status_code}")

    return send


def _of_window(file: Path, window_days: int) -> Path:
    """The file of one window, `<name>_w7.prom`: a run knows its own numbers only, and must not remove another's.

    The node exporter reads every `.prom` of its folder; the window is a label of every number, too.
    """
    return file.with_name(f"{file.stem}_w{window_days}{file.suffix}")


def run_metrics(summary: RunSummary, settings: Settings) -> CollectorRegistry:
    """The metrics of one run, in a registry of their own. Labels: window, environment, and what is counted."""
    registry = CollectorRegistry()
    names = ("environment", "window_days")
    common = {"environment": settings.environment, "window_days": str(summary.window_days)}

    markets = Counter("predictbench_markets", "Markets by what became of them", [*names, "state"], registry=registry)
    for state in ("offered", "excluded", "rejected", "failed", "processed"):
        markets.labels(**common, state=state).inc(getattr(summary, f"{state}_markets"))

    results = Counter(
        "predictbench_experiment_results", "Results by experiment", [*names, "experiment", "status"], registry=registry
    )
    seconds = Histogram(
        "predictbench_experiment_seconds",
        "Time an experiment took",
        [*names, "experiment"],
        buckets=_EXPERIMENT_BUCKETS,
        registry=registry,
    )
    for name, one in summary.experiments.items():
        for status in ("completed", "skipped", "failed", "not_run"):
            results.labels(**common, experiment=name, status=status).inc(getattr(one, status))
        seconds.labels(**common, experiment=name).observe(one.seconds)

    for counter in ("pages", "requests", "retries", "bytes"):
        Counter(f"predictbench_api_{counter}", f"API {counter} of the walk", names, registry=registry).labels(
            **common
        ).inc(getattr(summary.api, counter))

    runs = Counter("predictbench_runs", "Runs by status", [*names, "status"], registry=registry)
    runs.labels(**common, status=summary.status).inc()
    duration = Gauge("predictbench_run_duration_seconds", "Time the run took", names, registry=registry)
    duration.labels(**common).set(summary.duration_seconds)
    if summary.succeeded:
        success = Gauge(
            "predictbench_last_success_timestamp_seconds", "When a run last succeeded", names, registry=registry
        )
        success.labels(**common).set_to_current_time()
    return registry
