"""The database: reachable, migrated, with the rights that a run needs, with room to grow; and the runs of late."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from sqlalchemy import Engine

from predictbench_assets.clock import SKEW_NOTED, SKEW_REFUSED, Clock, skew
from predictbench_assets.database import health
from predictbench_assets.database.connection import DatabaseNotRunning, database_url
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseUnsuitable
from predictbench_assets.database.patience import Patience
from predictbench_assets.diagnosis.checks import Finding, clock_finding, failed, megabytes
from predictbench_assets.failures import PermanentError, PredictbenchError
from predictbench_assets.persistence.stored_runs import StoredRun, first_days, stored_runs
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RunKey
from predictbench_assets.schedule import is_running, scheduled_day
from predictbench_assets.settings import Settings

DAYS = 7
"""Days back that runs are looked for."""

GRACE = timedelta(hours=2)
"""Delay after which a run that is not stored is a failure."""

_DAYS_LEFT_FAIL, _DAYS_LEFT_WARN = 14, 60
_CROWDED = 0.9
_ANSWER_SECONDS = 15.0
_SHOWN_RIGHTS = 5
_PARTS = ("revision", "privileges", "pooler", "size", "exposure", "connections", "clock of the database", "runs")
_GRANT = "as the administrator, run migrations/roles.sql"


def database_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Everything about the database; where it is not reached, the parts are skipped."""
    try:
        url = database_url(settings, start=False)
    except DatabaseNotRunning as error:
        yield Finding("warn", "database", str(error), "predictbench db start")
        yield from (Finding("skip", part, "the database is not running") for part in _PARTS)
        return
    except PermanentError as error:  # the embedded server is another user's, or there is none for this system
        yield failed("database", error)
        yield from (Finding("skip", part, "the database was not reached") for part in _PARTS)
        return
    patience = Patience(min(_ANSWER_SECONDS, settings.db_timeout_seconds), "the doctor's own limit")
    engine = make_engine(url, pool_size=2, application_name="predictbench doctor", patience=patience)
    try:
        yield from _of_engine(settings, engine, clock)
    finally:
        engine.dispose()


def _of_engine(settings: Settings, engine: Engine, clock: Clock) -> Iterator[Finding]:
    try:
        yield from _server(health.server(engine))
    except DatabaseUnsuitable as error:
        yield failed("database", error)
        yield from (Finding("skip", part, "the database is not suitable") for part in _PARTS)
        return
    except PredictbenchError as error:
        setting = "SUPABASE_DB_URL" if settings.deployed else "DATABASE_URL"
        yield failed("database", error, f"check {setting}, and that the server (or the Supabase project) is not paused")
        yield from (Finding("skip", part, "the database was not reached") for part in _PARTS)
        return
    parts: dict[str, Callable[[], Iterable[Finding]]] = {
        "revision": lambda: _revision(engine),
        "privileges": lambda: _privileges(settings, engine),
        "pooler": lambda: _pooler(engine),
        "size": lambda: _size(settings, engine),
        "exposure": lambda: _exposure(engine),
        "connections": lambda: _connections(engine),
        "clock of the database": lambda: _clock(engine, clock),
        "runs": lambda: run_findings(settings, engine),
    }
    needless = ("privileges", "runs") if _has_no_tables(engine) else ()
    for name in _PARTS:
        if name in needless:
            yield Finding("skip", name, "there are no tables yet")
            continue
        try:
            yield from parts[name]()
        except PredictbenchError as error:
            yield failed(name, error)


def _has_no_tables(engine: Engine) -> bool:
    try:
        return health.revision(engine).found is None
    except PredictbenchError:
        return False  # the part's own check gives the reason


def _server(server: health.Server) -> Iterator[Finding]:
    found = f"PostgreSQL {server.version}, database {server.database}, role {server.role}"
    if server.read_only:
        yield Finding(
            "fail",
            "database",
            f"{found}: read-only",
            "use the primary; Supabase makes a full project read-only: a larger disk, or `A full database` in "
            "docs/operations.md",
        )
    else:
        yield Finding("ok", "database", found)


def _revision(engine: Engine) -> Iterator[Finding]:
    revision = health.revision(engine)
    if revision.current:
        yield Finding("ok", "revision", str(revision.found))
    else:
        found = f"the database is at {revision.found or 'none'}, this code needs {revision.needed}"
        yield Finding("fail", "revision", found, "predictbench db upgrade (or run the code that belongs to it)")


def _privileges(settings: Settings, engine: Engine) -> Iterator[Finding]:
    privileges = health.privileges(engine)
    if privileges.lacking:
        yield Finding("fail", "privileges", f"{privileges.role} lacks {_some(privileges.lacking)}", _GRANT)
    elif privileges.excessive and settings.deployed:
        found = f"{privileges.role} has more than the daily run needs: {_some(privileges.excessive)}"
        yield Finding(
            "warn", "privileges", found, "let SUPABASE_DB_URL name predictbench_writer (migrations/roles.sql)"
        )
    else:
        yield Finding("ok", "privileges", f"{privileges.role} has what the daily run needs")


def _pooler(engine: Engine) -> Iterator[Finding]:
    pooler = health.pooler(engine)
    yield Finding("ok", "pooler", f"{pooler.mode}: {pooler.seen}")


def _size(settings: Settings, engine: Engine) -> Iterator[Finding]:
    size = health.size(engine, settings.clock.now())
    found = f"{megabytes(size.database)} in all, {megabytes(size.ours)} ours"
    if size.per_day is not None:
        found += f", {megabytes(size.per_day)} more a day"
    if settings.database_size_limit_mb is None:
        yield Finding("ok", "size", f"{found}; DATABASE_SIZE_LIMIT_MB would tell the days until full")
        return
    left = size.days_until_full(settings.database_size_limit_mb * 1024 * 1024)
    found += f", of {settings.database_size_limit_mb:,} MB"
    if left is None:
        yield Finding("ok", "size", found)
        return
    found += ": full" if left == 0 else f": full in {left:,.0f} days"
    level = "fail" if left < _DAYS_LEFT_FAIL else "warn" if left < _DAYS_LEFT_WARN else "ok"
    fix = "" if level == "ok" else "predictbench prune, a smaller RAW_RETENTION_DAYS, or a larger plan"
    yield Finding(level, "size", found, fix)  # type: ignore[arg-type]


def _exposure(engine: Engine) -> Iterator[Finding]:
    exposed = health.exposed_to(engine)
    if exposed:
        found = f"{', '.join(exposed)} may enter the schema predictbench"
        yield Finding("fail", "exposure", found, f"{_GRANT}: it revokes that")
    else:
        yield Finding("ok", "exposure", "no role of a public API may enter our schema")


def _connections(engine: Engine) -> Iterator[Finding]:
    connections = health.connections(engine)
    found = f"{connections.used} of {connections.allowed}"
    crowded = connections.used >= _CROWDED * connections.allowed
    if connections.allowed_to_role is not None:
        found += f", {connections.used_by_role} of {connections.allowed_to_role} of this role"
        crowded = crowded or connections.used_by_role >= _CROWDED * connections.allowed_to_role
    fix = "end sessions that are left over, or use the pooler's address" if crowded else ""
    yield Finding("warn" if crowded else "ok", "connections", found, fix)


def _clock(engine: Engine, clock: Clock) -> Iterator[Finding]:
    before = clock.now()
    theirs = health.server(engine).now
    found = skew(before, theirs, clock.now())
    yield clock_finding("clock of the database", found, warn=SKEW_NOTED, fail=SKEW_REFUSED)


def run_findings(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """The runs that were due in the last days, by window: an old one that is not complete is a warning, the last one
    a failure."""
    now = settings.clock.now()
    first = first_days(engine)
    if not first:
        yield Finding("warn", "runs", "no run is stored yet", "predictbench daily")
        return
    last = scheduled_day(now, settings.pipeline_run_at_utc)
    days = [last - timedelta(days=ago) for ago in range(DAYS)]
    stored = stored_runs(engine, days[-1], last)
    due = [
        RunKey(day, window) for window in settings.windows for day in days if window in first and first[window] <= day
    ]
    bad = [(key, problem) for key in due if (problem := _problem(settings, stored.get(key), key, now))]
    for key, problem in bad:
        level = "fail" if key.run_date == last else "warn"
        yield Finding(level, "runs", f"{key.run_date}, window {key.window_days}: {problem}", _mended_by(key, now))  # type: ignore[arg-type]
    complete = sum(_complete(stored.get(key)) for key in due)
    if never := [str(window) for window in settings.windows if window not in first]:
        yield Finding("warn", "runs", f"no run of window {', '.join(never)} is stored yet", "predictbench daily")
    yield Finding("ok", "runs", f"{complete} of {len(due)} that were due in {DAYS} days are complete")


def _complete(run: StoredRun | None) -> bool:
    return run is not None and run.status in ("completed", "partial")


def _problem(settings: Settings, run: StoredRun | None, key: RunKey, now: datetime) -> str | None:
    begins = datetime.combine(key.run_date, settings.pipeline_run_at_utc, tzinfo=now.tzinfo)
    if run is None:
        return None if now - begins < GRACE else "there is no run"
    if _complete(run) or is_running(run, now):
        return None
    if run.status == "running":
        return f"marked as running at {run.stage}, but not heard of since {run.heartbeat_at:%Y-%m-%d %H:%M} UTC"
    return on_one_line(f"{run.status}{f' at {run.stage}' if run.stage else ''}: {run.reason or 'no reason is stored'}")


def _mended_by(key: RunKey, now: datetime) -> str:
    if key.run_date == now.date():
        return f"predictbench daily --window-days {key.window_days}"
    return (
        f"predictbench backfill --from {key.run_date} --to {key.run_date} --window-days {key.window_days} "
        "(where its snapshot was frozen; a day that was not captured stays missed)"
    )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN_RIGHTS} more" if len(names) > _SHOWN_RIGHTS else ""
    return ", ".join(names[:_SHOWN_RIGHTS]) + more
