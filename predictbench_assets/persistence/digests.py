"""Digests of forecasts: computed from what is stored, kept beside it, and computed again by those who doubt."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert as upsert

from predictbench_assets.database.as_of import result_is_known
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import forecast_digests
from predictbench_assets.experiments.digest import ALGORITHM, ForecastDigest, ForecastHasher
from predictbench_assets.runs import RunKey

_HASHED_TOGETHER = 500
"""Lines that are hashed in one go."""

Verdict = Literal["ok", "late", "mismatch"]
"""late: it holds forecasts dated before their market closed, and was made after that itself."""

# Limits for this transaction alone; a pooler's session may print doubles shorter than they are.
_GUARD = text(
    "SELECT set_config('extra_float_digits', '1', true), set_config('statement_timeout', '110s', true),"
    " set_config('work_mem', '64MB', true)"
)

_FORECASTS = """
    FROM predictbench.experiment_runs a
    JOIN predictbench.experiment_results r USING (experiment_run_id)
    JOIN predictbench.processed_markets m USING (processed_market_id)
    WHERE a.run_id = :run_id AND r.status = 'completed' AND r.probability IS NOT NULL"""

# The line that `experiments.digest` defines. The placeholders are psycopg's, which fills them in itself in a COPY.
# Attempts are put in order before their forecasts are: comparing their names 140,000 times takes most of a second.
_LINES = f"""
    COPY (
        SELECT a.name, a.version, a.attempt, m.market_id, r.probability,
            to_char(r.forecast_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.snapshot_hash, r.config_hash
        FROM (
            SELECT experiment_run_id, name, version, attempt,
                row_number() OVER (ORDER BY name COLLATE "C", version COLLATE "C", attempt) AS place
            FROM predictbench.experiment_runs JOIN predictbench.experiments USING (experiment_id)
            WHERE run_id = %(run_id)s
        ) a
        JOIN predictbench.experiment_results r USING (experiment_run_id)
        JOIN predictbench.processed_markets m USING (processed_market_id)
        WHERE r.status = 'completed' AND r.probability IS NOT NULL
            AND {result_is_known("%(made_at)s")}
        ORDER BY a.place, m.market_id COLLATE "C"
    ) TO STDOUT"""  # noqa: S608 - names of ours

_NEWEST = text("""
    SELECT max(r.stored_at) FROM predictbench.experiment_runs a
    JOIN predictbench.experiment_results r USING (experiment_run_id) WHERE a.run_id = :run_id""")

_LATE = text(
    f"""
    SELECT count(*) {_FORECASTS}
        AND NOT {result_is_known(":after")} AND {result_is_known(":made_at")}
        AND r.forecast_at < m.close_time AND m.close_time <= :made_at"""
)
_LATER = text(f"SELECT count(*) {_FORECASTS} AND NOT {result_is_known(':made_at')}")
_FIRST_CLOSE = text("SELECT min(close_time) FROM predictbench.processed_markets WHERE run_id = :run_id")

_RUNS = text("""
    SELECT run_date, window_days, p.summary->'forecast_digest'->>'digest' AS reported
    FROM predictbench.processing_runs p
    WHERE (p.status IN ('completed', 'partial') OR EXISTS (
            SELECT FROM predictbench.forecast_digests d WHERE d.run_id = p.run_id))
        AND run_date BETWEEN :since AND :until
        AND (CAST(:window_days AS integer) IS NULL OR window_days = :window_days)
        AND (CAST(:digest AS text) IS NULL OR EXISTS (
            SELECT FROM predictbench.forecast_digests d WHERE d.run_id = p.run_id AND d.digest = :digest))
    ORDER BY run_date, window_days""")

# Two of one instant can only be of a clock that stands still; the forecasts of both are in the later one.
_DIGESTS = text("""
    SELECT DISTINCT ON (made_at) digest, algorithm, attempt, forecasts, made_at
    FROM predictbench.forecast_digests WHERE run_id = :run_id ORDER BY made_at, attempt DESC""")

_KEPT = text("SELECT digest FROM predictbench.forecast_digests WHERE run_id = :run_id")


@dataclass(frozen=True)
class CheckedDigest:
    """A stored digest, and what the stored forecasts come to now."""

    stored: ForecastDigest
    attempt: int
    """Attempt of the run."""
    found: ForecastDigest
    late: int
    """Forecasts in it, and in no earlier one, dated before their market closed although the digest was made after
    that: nothing proves their date."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on it."""
        if (self.stored.digest, self.stored.forecasts) != (self.found.digest, self.found.forecasts):
            return "mismatch"
        return "late" if self.late else "ok"

    @property
    def problem(self) -> str | None:
        """The problem, in a sentence; None where there is none."""
        stored, found = self.stored, self.found
        if stored.algorithm != ALGORITHM:
            return f"it was made with {stored.algorithm}, which this version of Predictbench does not know"
        if self.verdict == "mismatch":
            return (
                f"{stored.forecasts:,} forecasts with the digest {stored.digest} were stored, "
                f"the database now has {found.forecasts:,} with {found.digest}"
            )
        if self.verdict == "late":
            return (
                f"{self.late:,} forecasts say they were made before their market closed, and the digest was made after"
            )
        return None


@dataclass(frozen=True)
class CheckedRun:
    """The digests of one run, oldest first."""

    key: RunKey
    digests: tuple[CheckedDigest, ...]
    first_close: datetime | None
    """Close of the first of its markets."""
    later: int
    """Forecasts that were stored after the newest digest: of an attempt that is under way, or never ended."""
    missing: str | None = None
    """A digest that the run's own summary names, and that is not kept any more."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, a sentence for each."""
        lost = () if self.missing is None else (f"the digest {self.missing} of the run's summary is not kept any more",)
        return (*(one.problem for one in self.digests if one.problem is not None), *lost)


def run_digest(engine: Engine, key: RunKey, now: datetime) -> ForecastDigest:
    """Digest of all forecasts that are stored of a run.

    Its `made_at` is `now`, or the instant of the newest forecast where another host's clock was ahead of ours.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """

    def work(connection: Connection) -> ForecastDigest:
        connection.execute(_GUARD)
        newest: datetime | None = connection.execute(_NEWEST, {"run_id": key.run_id}).scalar_one()
        return _digest(connection, key, now if newest is None else max(now, newest))

    return in_transaction(engine, work)


def store_digest(connection: Connection, run_id: UUID, digest: ForecastDigest, attempt: int) -> None:
    """Keep a digest in the caller's transaction; one that is kept already stays as it is, its time too."""
    values = {
        "run_id": run_id,
        "digest": digest.digest,
        "algorithm": digest.algorithm,
        "attempt": attempt,
        "forecasts": digest.forecasts,
        "made_at": digest.made_at,
    }
    connection.execute(upsert(forecast_digests).values(**values).on_conflict_do_nothing())


def check_digests(
    engine: Engine,
    *,
    since: date = date.min,
    until: date = date.max,
    window_days: int | None = None,
    digest: str | None = None,
) -> Iterator[CheckedRun]:
    """Compute the digests of stored runs again, a short transaction for each run, oldest run first.

    Args:
        since: the first run date.
        until: the last one, itself included.
        window_days: only runs of this window.
        digest: only the run that this digest is kept for.
    """
    chosen = {"since": since, "until": until, "window_days": window_days, "digest": digest}
    runs = in_transaction(engine, lambda connection: connection.execute(_RUNS, chosen).all())
    for run in runs:
        yield _checked(engine, RunKey(run.run_date, run.window_days), run.reported)


def _checked(engine: Engine, key: RunKey, reported: str | None) -> CheckedRun:
    def work(connection: Connection) -> CheckedRun:
        connection.execute(_GUARD)
        run: dict[str, Any] = {"run_id": key.run_id}
        checked: list[CheckedDigest] = []
        before: object = "-infinity"
        for row in connection.execute(_DIGESTS, run).all():
            stored = ForecastDigest(row.digest, row.forecasts, row.made_at, row.algorithm)
            late = connection.execute(_LATE, run | {"after": before, "made_at": row.made_at}).scalar_one()
            checked.append(CheckedDigest(stored, row.attempt, _digest(connection, key, row.made_at), late))
            before = row.made_at
        first_close = connection.execute(_FIRST_CLOSE, run).scalar_one()
        later = connection.execute(_LATER, run | {"made_at": before}).scalar_one() if checked else 0
        kept = connection.execute(_KEPT, run).scalars()
        missing = reported if reported is not None and reported not in set(kept) else None
        return CheckedRun(key, tuple(checked), first_close, later, missing)

    return in_transaction(engine, work)


def _digest(connection: Connection, key: RunKey, made_at: datetime) -> ForecastDigest:
    hasher = ForecastHasher(key)
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(_LINES, {"run_id": key.run_id, "made_at": made_at}) as lines:
        while some := list(islice(lines, _HASHED_TOGETHER)):
            hasher.update(b"".join(some))
    return hasher.made_at(made_at)
