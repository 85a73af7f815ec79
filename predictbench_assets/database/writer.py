"""Storing a run: markets stream in, batches go out, one bad market costs only itself.

While the server stores one batch the next is being made ready. A batch that the server refuses for its data is sent
again market by market, each in its own transaction, in a single round trip. A batch that failed because the database
was unavailable is sent again whole: writing is idempotent, so what had been stored already is found and left alone.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from uuid import UUID

import psycopg
from psycopg.pq.abc import PGconn
from sqlalchemy import Connection, Engine, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from predictbench_assets.clock import Clock
from predictbench_assets.database import statements
from predictbench_assets.database.errors import (
    Backoff,
    DatabaseRefused,
    DatabaseUnavailable,
    classified,
    in_transaction,
    verdict,
)
from predictbench_assets.database.leases import Lease, RunCounts
from predictbench_assets.database.pipeline import Outcome, Refusal, run_transactions
from predictbench_assets.database.records import ExperimentAttempt, MarketRecord, WriteReport
from predictbench_assets.database.rows import EncodedMarket, StoredAttempt, UnwritableMarket, encode_market
from predictbench_assets.database.schema import experiment_id, experiment_run_id, experiment_runs, experiments
from predictbench_assets.failures import Failure

_log = logging.getLogger(__name__)


@dataclass
class _Tally:
    """What has happened so far in one write."""

    failures: list[Failure] = field(default_factory=list)
    batches: int = 0
    retried: int = 0
    bytes: int = 0


class RunWriter:
    """Writes one run under a lease. One `write`, then one `finish`.

    Args:
        batch_size: the most markets in one transaction.
        max_batch_bytes: the most JSON in one transaction, unless a single market has more.
        backoff: how patiently to wait for a database that went away.
    """

    def __init__(
        self,
        engine: Engine,
        lease: Lease,
        clock: Clock,
        batch_size: int = 1_000,
        max_batch_bytes: int = 8_000_000,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        self._engine = engine
        self._lease = lease
        self._clock = clock
        self._batch_size = batch_size
        self._max_batch_bytes = max_batch_bytes
        self._backoff = backoff
        self._connection: Connection | None = None
        self._stored: set[str] | None = None

    def write(
        self,
        markets: Iterable[MarketRecord],
        experiments: Sequence[ExperimentAttempt],
        *,
        reconstructed: bool = False,
    ) -> WriteReport:
        """Store markets, each whole or not at all, and say which could not be and why. Idempotent.

        Args:
            markets: read once, as they are needed; memory is bounded by two batches.
            experiments: every registered experiment; each market has one result of each.
            reconstructed: whether the snapshot was put together afterwards rather than captured on the day.

        Raises:
            LeaseLost: a newer attempt has taken the run over.
            DatabaseUnavailable: the database did not come back in time; no market is to blame.
            DatabaseRefused: the database lacks a table, a column or a right.
        """
        tally, stored = _Tally(), set[str]()
        attempts = self._open_attempts(experiments)
        filling = any(attempt.fill for attempt in attempts.values())

        def send(batch: list[EncodedMarket]) -> list[Failure]:
            return self._store(batch, tally, reconstructed=reconstructed, filling=filling)

        try:
            with ThreadPoolExecutor(1, thread_name_prefix="predictbench-writer") as worker:
                for batch, failures in _one_ahead(worker, send, self._batches(markets, attempts, tally)):
                    lost = {failure.market_id for failure in failures}
                    stored.update(market.market_id for market in batch if market.market_id not in lost)
                    tally.failures += failures
        except BaseException:
            self._disconnect(broken=True)
            raise
        self._disconnect()
        self._stored = (self._stored or set()) | stored
        return WriteReport(len(stored), tally.failures, tally.batches, tally.retried, tally.bytes)

    def finish(
        self,
        counts: RunCounts,
        status: Literal["completed", "partial"],
        failures: Sequence[Failure] = (),
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the run in one transaction: status, counts, failures, and, when it is complete, withdrawals.

        Raises:
            LeaseLost: a newer attempt has taken the run over.
        """
        if self._stored is None:
            raise RuntimeError("finish() follows write(): without it every stored market would count as withdrawn")
        self._lease.finish(counts, status=status, failures=failures, summary=summary, stored=self._stored)

    def _open_attempts(self, attempts: Sequence[ExperimentAttempt]) -> dict[str, StoredAttempt]:
        """Rows of `experiments` and `experiment_runs`: the newest attempt where it is the same, else one more."""

        def work(connection: Connection) -> dict[str, StoredAttempt]:
            self._lease.hold(connection, stage="persisted_run")
            newest = self._newest_attempts(connection)
            _register(connection, attempts)
            new, opened = [], {}
            for attempt in attempts:
                known = newest.get(attempt.name)
                reused = known is not None and (
                    attempt.status == "not_run"
                    or (known.version, known.content_hash) == (attempt.version, attempt.content_hash)
                )
                number = 1 if known is None else known.attempt if reused else known.attempt + 1
                target = experiment_run_id(self._lease.run_id, attempt.name, number)
                if not reused:
                    new.append(self._attempt_row(attempt, target, number))
                opened[attempt.name] = StoredAttempt(
                    experiment_run_id=str(target),
                    mandatory=attempt.mandatory,
                    fill=reused and attempt.status == "not_run",
                )
            if new:
                connection.execute(upsert(experiment_runs).values(new).on_conflict_do_nothing())
            return opened

        return in_transaction(self._engine, work, self._backoff)

    def _newest_attempts(self, connection: Connection) -> dict[str, Any]:
        """The newest stored attempt of each experiment name in this run."""
        rows = connection.execute(
            select(experiments.c.name, experiments.c.version, experiment_runs.c.attempt, experiment_runs.c.content_hash)
            .join(experiment_runs, experiment_runs.c.experiment_id == experiments.c.experiment_id)
            .where(experiment_runs.c.run_id == self._lease.run_id)
            .order_by(experiment_runs.c.attempt)
        )
        return {row.name: row for row in rows}

    def _attempt_row(self, attempt: ExperimentAttempt, target: UUID, number: int) -> dict[str, Any]:
        return {
            "experiment_run_id": target,
            "run_id": self._lease.run_id,
            "experiment_id": experiment_id(attempt.name, attempt.version),
            "attempt": number,
            "dagster_run_id": self._lease.dagster_run_id,
            **{
                name: getattr(attempt, name)
                for name in ("status", "started_at", "finished_at", "error_message", "content_hash")
            },
            **{name: getattr(attempt, name) for name in ("snapshot_hash", "config_hash")},
            **{name: getattr(attempt, name) for name in ("completed", "skipped", "failed")},
        }

    def _batches(
        self, markets: Iterable[MarketRecord], attempts: Mapping[str, StoredAttempt], tally: _Tally
    ) -> Iterator[list[EncodedMarket]]:
        """Markets that can be written, in batches; the others go to the tally."""
        batch: list[EncodedMarket] = []
        seen: set[str] = set()
        size = 0
        for record in markets:
            market_id = record.market.market_id
            try:
                if market_id in seen:
                    raise UnwritableMarket("market_id", "occurs a second time in this run")
                encoded = encode_market(record, self._lease.run_id, attempts)
            except UnwritableMarket as error:
                tally.failures.append(self._failure(market_id, str(error), field=error.field))
                continue
            seen.add(market_id)
            if batch and (len(batch) >= self._batch_size or size + encoded.size > self._max_batch_bytes):
                yield batch
                batch, size = [], 0
            batch.append(encoded)
            size += encoded.size
        if batch:
            yield batch

    def _store(self, batch: list[EncodedMarket], tally: _Tally, *, reconstructed: bool, filling: bool) -> list[Failure]:
        """Store a batch whatever happens to the connection; returns the markets that the server refused."""
        tally.batches += 1
        tally.bytes += sum(market.size for market in batch)
        tries = 0

        def once() -> list[Failure]:
            nonlocal tries
            tries += 1
            try:
                with classified():
                    return self._store_once(batch, reconstructed=reconstructed, filling=filling)
            except DatabaseUnavailable:
                self._disconnect(broken=True)
                raise

        try:
            return self._backoff.run(once)
        finally:
            tally.retried += tries - 1

    def _store_once(self, batch: list[EncodedMarket], *, reconstructed: bool, filling: bool) -> list[Failure]:
        def transact(groups: Sequence[Sequence[EncodedMarket]]) -> list[Outcome]:
            shared = {"run_id": self._lease.run_id, "attempt": self._lease.attempt, "now": self._clock.now()}
            return run_transactions(
                self._pgconn(),
                [
                    (
                        statements.GUARD,
                        statements.store(group, **shared, reconstructed=reconstructed, filling=filling),  # type: ignore[arg-type]
                    )
                    for group in groups
                ],
            )

        [outcome] = transact([batch])
        if outcome.refusal is None:
            self._check_lease(outcome)
            return []
        self._raise_unless_data(outcome.refusal)
        _log.warning(
            "the database refused a batch, writing its markets one by one: %s",
            outcome.refusal.message,
            extra={"process_stage": "persisted_run", "markets": len(batch)},
        )
        failures = []
        outcomes = [outcome] if len(batch) == 1 else transact([[market] for market in batch])
        for market, one in zip(batch, outcomes, strict=True):
            if one.refusal is None:
                self._check_lease(one)
                continue
            self._raise_unless_data(one.refusal)
            failures.append(self._refused(market.market_id, one.refusal))
        return failures

    def _check_lease(self, outcome: Outcome) -> None:
        if outcome.row == (b"1",):
            return
        with self._engine.connect() as connection:
            raise self._lease.lost(connection)

    @staticmethod
    def _raise_unless_data(refusal: Refusal) -> None:
        kind = verdict(refusal.sqlstate)
        said = f"({refusal.sqlstate}): {refusal.message}"
        if kind == "unavailable":
            raise DatabaseUnavailable(f"the database is not available {said}")
        if kind == "refused":
            raise DatabaseRefused(f"the database refused the write {said}. Run `predictbench db upgrade`.")

    def _refused(self, market_id: str, refusal: Refusal) -> Failure:
        rule = f", {refusal.constraint}" if refusal.constraint else ""
        return self._failure(
            market_id, f"the database refused the market: {refusal.message} (SQLSTATE {refusal.sqlstate}{rule})"
        )

    def _failure(self, market_id: str, reason: str, *, field: str | None = None) -> Failure:
        shown = market_id.replace("\x00", "").encode("utf-8", "replace").decode()[:255]
        return Failure(
            market_id=shown,
            stage="persisted_run",
            reason=reason,
            retriable=False,
            logged_at=self._clock.now(),
            field=field,
        )

    def _pgconn(self) -> PGconn:
        """The connection of this write, opened when first needed and again after it broke."""
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        driver = cast("psycopg.Connection[Any]", self._connection.connection.driver_connection)
        return driver.pgconn

    def _disconnect(self, *, broken: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if broken:
            connection.invalidate()
        connection.close()


def _register(connection: Connection, attempts: Sequence[ExperimentAttempt]) -> None:
    """Keep `experiments` in step with what is registered: other versions of the same names are no longer active."""
    if not attempts:
        return
    insertion = upsert(experiments).values(
        [
            {
                "experiment_id": experiment_id(attempt.name, attempt.version),
                "name": attempt.name,
                "version": attempt.version,
                "description": attempt.description,
                "information": attempt.information,
                "mandatory": attempt.mandatory,
                "is_active": True,
            }
            for attempt in sorted(attempts, key=lambda attempt: attempt.name)
        ]
    )
    changing = ("description", "information", "mandatory", "is_active")
    connection.execute(
        insertion.on_conflict_do_update(
            index_elements=["experiment_id"],
            set_={name: insertion.excluded[name] for name in changing},
            where=_any_differs([(experiments.c[name], insertion.excluded[name]) for name in changing]),
        )
    )
    ids = [experiment_id(attempt.name, attempt.version) for attempt in attempts]
    connection.execute(
        update(experiments)
        .where(
            experiments.c.name.in_([attempt.name for attempt in attempts]),
            experiments.c.experiment_id.not_in(ids),
            experiments.c.is_active,
        )
        .values(is_active=False)
    )


def _any_differs(pairs: Sequence[tuple[Any, Any]]) -> Any:
    return or_(*(left.is_distinct_from(right) for left, right in pairs))


def _one_ahead(
    worker: ThreadPoolExecutor,
    send: Callable[[list[EncodedMarket]], list[Failure]],
    batches: Iterator[list[EncodedMarket]],
) -> Iterator[tuple[list[EncodedMarket], list[Failure]]]:
    """Each batch with what its sending returned, the next one being made while it is on its way."""
    under_way: tuple[list[EncodedMarket], Future[list[Failure]]] | None = None
    for batch in batches:
        if under_way is not None:
            yield under_way[0], under_way[1].result()
        under_way = batch, worker.submit(send, batch)
    if under_way is not None:
        yield under_way[0], under_way[1].result()
