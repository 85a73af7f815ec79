"""Storing a run: markets stream in, batches go out, one bad market costs only itself.

While the server stores one batch, the next ones are made ready and sent behind it, so that neither side waits for the
other. (In one thread: two fight over the interpreter's lock at every chunk sent, which cost more than it gained.) A
batch that the server refuses for its data is sent again in small groups and then market by market, each in a
transaction of its own, in a round trip for all of them. A batch that failed because the database was unavailable is
sent again whole: writing is idempotent, so what had been stored already is found and left alone.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine

from predictbench_assets.clock import Clock
from predictbench_assets.database.errors import (
    Backoff,
    DatabaseRefused,
    DatabaseUnavailable,
    advice,
    cause_of_absence,
    classified,
    error_kind,
)
from predictbench_assets.database.patience import PatientConnection
from predictbench_assets.database.schema import experiment_id, experiment_run_id
from predictbench_assets.experiments.digest import ForecastDigest
from predictbench_assets.failures import Failure, PermanentError
from predictbench_assets.persistence import statements
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.pipelining import (
    Refusal,
    Statement,
    TransactionResult,
    begin_transactions,
    collect_results,
    run_transactions,
)
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, WriteReport
from predictbench_assets.persistence.rows import EncodedMarket, RegisteredAttempt, UnwritableMarket, encode_market
from predictbench_assets.runs import StoredStatus

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_AHEAD = 2  # batches sent while an older one is being stored: enough to hide a slow line
_GROUP = 20  # planning the statement costs as much as storing a few markets, so not all are tried alone at once


class ForecastsOfAnotherSnapshot(PermanentError):
    """The run has a newer snapshot than forecasts that would be lost to it."""


@dataclass
class _Tally:
    """Numbers and failures of one write so far."""

    failures: list[Failure] = field(default_factory=list)
    batches: int = 0
    retried: int = 0
    bytes: int = 0


@dataclass(eq=False)
class _Batch:
    markets: list[EncodedMarket]
    reconstructed: bool
    filling: bool
    outcome: TransactionResult | None = None
    """The server's answer, once it has been read."""


class RunWriter:
    """Writes one run under a lease. One `write`, then one `finish`.

    Args:
        batch_size: the most markets in one transaction.
        max_batch_bytes: the most JSON in one transaction, unless a single market has more.
        backoff: policy of the wait for a database that went away.
    """

    def __init__(
        self,
        engine: Engine,
        lease: Lease,
        clock: Clock,
        batch_size: int = 500,
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
        self._in_flight: list[_Batch] = []
        self._stored: set[str] | None = None
        self._scattered_ids = False

    def write(
        self,
        markets: Iterable[MarketRecord],
        experiments: Sequence[ExperimentAttempt],
        *,
        reconstructed: bool = False,
    ) -> WriteReport:
        """Store markets, each whole or not at all, and report those that could not be, with reasons. Idempotent.

        Args:
            markets: read once, as they are needed; memory is bounded by a few batches.
            experiments: every registered experiment; each market has one result of each.
            reconstructed: True where the snapshot was put together afterwards rather than captured on the day.

        Raises:
            LeaseLost: a newer attempt has taken the run over.
            DatabaseUnavailable: the database did not come back in time; no market is to blame.
            DatabaseRefused: the database lacks a table, a column or a right.
        """
        tally, stored = _Tally(), set[str]()
        try:
            attempts = self._open_attempts(experiments)
            filling = any(attempt.fill for attempt in attempts.values())
            under_way: deque[_Batch] = deque()
            for encoded in self._batches(markets, attempts, tally):
                under_way.append(_Batch(encoded, reconstructed, filling))
                self._send(under_way[-1], tally)
                if len(under_way) > _AHEAD:
                    stored |= self._settle(under_way.popleft(), tally)
            while under_way:
                stored |= self._settle(under_way.popleft(), tally)
            self._drain()
        except BaseException:
            self._disconnect(broken=True)
            raise
        self._disconnect()
        self._stored = (self._stored or set()) | stored
        return WriteReport(len(stored), tally.failures, tally.batches, tally.retried, tally.bytes)

    def finish(
        self,
        counts: RunCounts,
        status: StoredStatus,
        failures: Sequence[Failure] = (),
        summary: Mapping[str, Any] | None = None,
        digest: ForecastDigest | None = None,
    ) -> None:
        """Close the run in one transaction: status, counts, failures, digest, and, when it is complete, withdrawals.

        Raises:
            LeaseLost: a newer attempt has taken the run over.
        """
        if self._stored is None:
            raise RuntimeError("finish() follows write(): without it every stored market would count as withdrawn")
        self._lease.finish(
            counts, status=status, failures=failures, summary=summary, stored=self._stored, digest=digest
        )

    def _open_attempts(self, attempts: Sequence[ExperimentAttempt]) -> dict[str, RegisteredAttempt]:
        """Rows of `experiments` and `experiment_runs`: the newest attempt where it is the same, else one more."""
        return self._backoff.run(lambda: self._classified(lambda: self._open_attempts_once(attempts)))

    def _open_attempts_once(self, attempts: Sequence[ExperimentAttempt]) -> dict[str, RegisteredAttempt]:
        stored = self._stored_before()
        _refuse_losses(stored, attempts)
        newest = {row["name"]: row for row in stored}
        opened, new = {}, []
        for attempt in attempts:
            known = newest.get(attempt.name)
            reused = known is not None and (attempt.status == "not_run" or _same_attempt(known, attempt))
            number = 1 if known is None else int(known["attempt"]) + (not reused)
            target = str(experiment_run_id(self._lease.run_id, attempt.name, number))
            if not reused:
                new.append(_row(attempt) | {"experiment_run_id": target, "attempt": number})
            opened[attempt.name] = RegisteredAttempt(
                experiment_run_id=target, mandatory=attempt.mandatory, fill=reused and attempt.status == "not_run"
            )
        statement = statements.register(
            run_id=self._lease.run_id,
            attempt=self._lease.attempt,
            dagster_run_id=self._lease.dagster_run_id,
            now=self._clock.now(),
            experiments=msgspec.json.encode([_row(attempt) for attempt in attempts]),
            attempts=msgspec.json.encode(new),
        )
        [outcome] = self._transact([statement])
        if outcome.refusal is not None:
            self._raise_unless_data(outcome.refusal)
            raise DatabaseRefused(f"the database refused the experiments: {outcome.refusal.message}")
        self._check_lease(outcome)
        return opened

    def _stored_before(self) -> list[dict[str, Any]]:
        """The stored attempts of all experiments in this run, oldest first; notes what ids its markets have as well."""
        [outcome] = self._transact([statements.stored_before(self._lease.run_id)])
        if outcome.refusal is not None:
            self._raise_unless_data(outcome.refusal)
        rows, market = outcome.row or (None, None)
        # A run keeps the kind of ids that it was first stored with, or its rows would be taken for another market's.
        self._scattered_ids = market is not None and UUID(market.decode()).version == 5
        return msgspec.json.decode(rows or b"[]", type=list[dict[str, Any]])

    def _batches(
        self, markets: Iterable[MarketRecord], attempts: Mapping[str, RegisteredAttempt], tally: _Tally
    ) -> Iterator[list[EncodedMarket]]:
        """Markets that can be written, in batches; the others go to the tally."""
        batch: list[EncodedMarket] = []
        seen: set[str] = set()
        size = 0
        run_id = self._lease.run_id
        for record in markets:
            market_id = record.market.market_id
            try:
                if market_id in seen:
                    raise UnwritableMarket("market_id", "occurs a second time in this run")
                encoded = encode_market(record, run_id, attempts, scattered_ids=self._scattered_ids)
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

    def _send(self, batch: _Batch, tally: _Tally) -> None:
        """Send a batch behind those under way; where that fails, `_settle` sends it again."""
        tally.batches += 1
        tally.bytes += sum(market.size for market in batch.markets)
        statement = self._statement(batch, batch.markets)

        def send() -> None:
            begin_transactions(self._driver(), [(statements.GUARD, statement)])

        try:
            self._classified(send)
            self._in_flight.append(batch)
        except DatabaseUnavailable as error:
            tally.retried += 1
            _log.warning("a batch could not be sent: %s", error, extra={"process_stage": "persisted_run"})

    def _settle(self, batch: _Batch, tally: _Tally) -> set[str]:
        """See a batch through, whatever happens to the connection; returns the ids of the markets that are stored."""
        tries = 0

        def attempt() -> list[Failure]:
            nonlocal tries
            tries += 1
            return self._classified(lambda: self._settle_once(batch))

        try:
            failures = self._backoff.run(attempt)
        finally:
            tally.retried += tries - 1
        tally.failures += failures
        refused = {failure.market_id for failure in failures}
        return {market.market_id for market in batch.markets} - refused

    def _settle_once(self, batch: _Batch) -> list[Failure]:
        if batch in self._in_flight:
            while batch.outcome is None:
                self._collect(1)
        outcome, batch.outcome = batch.outcome, None  # whatever happens now, the next try begins by sending
        if outcome is None:
            [outcome] = self._transact([self._statement(batch, batch.markets)])
        if outcome.refusal is None:
            self._check_lease(outcome)
            return []
        self._raise_unless_data(outcome.refusal)
        return self._store_apart(batch, outcome.refusal)

    def _collect(self, number: int) -> None:
        """Read the answers to the oldest batches under way."""
        for outcome in collect_results(self._driver(), number):
            self._in_flight.pop(0).outcome = outcome

    def _drain(self) -> None:
        """Read the answers to everything under way, so that the connection is idle."""
        if self._in_flight:
            self._collect(len(self._in_flight))
        if self._connection is not None:
            self._driver().pgconn.exit_pipeline_mode()

    def _store_apart(self, batch: _Batch, refusal: Refusal) -> list[Failure]:
        """The markets of a refused batch in groups, then those of refused groups one by one; each step is one round
        trip, each group its own transaction. Returns the markets that are refused alone."""
        _log.warning(
            "the database refused a batch of %d markets, finding out which: %s",
            len(batch.markets),
            refusal.message,
            extra={"process_stage": "persisted_run"},
        )
        failures: list[Failure] = []
        suspects = batch.markets
        for size in (_GROUP, 1):
            groups = [suspects[start : start + size] for start in range(0, len(suspects), size)]
            suspects = []
            outcomes = self._transact([self._statement(batch, group) for group in groups])
            for group, outcome in zip(groups, outcomes, strict=True):
                if outcome.refusal is None:
                    self._check_lease(outcome)
                    continue
                self._raise_unless_data(outcome.refusal)
                if size > 1:
                    suspects += group
                else:
                    failures.append(self._refused(group[0].market_id, outcome.refusal))
        return failures

    def _statement(self, batch: _Batch, markets: Sequence[EncodedMarket]) -> Statement:
        return statements.store(
            markets,
            run_id=self._lease.run_id,
            attempt=self._lease.attempt,
            now=self._clock.now(),
            reconstructed=batch.reconstructed,
            filling=batch.filling,
        )

    def _transact(self, each: Sequence[Statement]) -> list[TransactionResult]:
        self._drain()
        return run_transactions(self._driver(), [(statements.GUARD, statement) for statement in each])

    def _classified(self, action: Callable[[], _Result]) -> _Result:
        """The action's result; a connection that failed is thrown away, so that the next try has a new one."""
        try:
            with classified():
                return action()
        except DatabaseUnavailable:
            self._disconnect(broken=True)
            raise

    def _check_lease(self, outcome: TransactionResult) -> None:
        if outcome.row == (b"1",):
            return
        self._disconnect(broken=True)  # more may be under way, and the pool may have no second connection
        with self._engine.connect() as connection:
            raise self._lease.lost(connection)

    @staticmethod
    def _raise_unless_data(refusal: Refusal) -> None:
        kind = error_kind(refusal.sqlstate)
        reason = f"({refusal.sqlstate}): {refusal.message}"
        if kind == "unavailable":
            raise DatabaseUnavailable(f"the database is not available {reason}{cause_of_absence(refusal.sqlstate)}")
        if kind == "refused":
            raise DatabaseRefused(f"the database refused the write {reason}. {advice(refusal.sqlstate)}")

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

    def _driver(self) -> PatientConnection:
        """The connection of this write, opened when first needed and again after it broke."""
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return cast(PatientConnection, self._connection.connection.driver_connection)

    def _disconnect(self, *, broken: bool = False) -> None:
        connection, self._connection = self._connection, None
        self._in_flight.clear()
        if connection is None:
            return
        if broken:
            connection.invalidate()
        connection.close()


def _row(attempt: ExperimentAttempt) -> dict[str, Any]:
    """The columns of both its tables that the attempt brings along."""
    return asdict(attempt) | {"experiment_id": str(experiment_id(attempt.name, attempt.version))}


def _same_attempt(stored: Mapping[str, Any], attempt: ExperimentAttempt) -> bool:
    """True if a stored attempt has the same content: version, results, and the snapshot that they answer to."""
    content = (stored["version"], stored["content_hash"]) == (attempt.version, attempt.content_hash)
    return content and stored["snapshot_hash"] in (None, attempt.snapshot_hash)


def _refuse_losses(stored: Sequence[Mapping[str, Any]], attempts: Sequence[ExperimentAttempt]) -> None:
    """Stop before a newer snapshot takes the place of one that has forecasts of an experiment which did not run again.

    Boards compare a forecast with the price that it answered to, so these forecasts would count nowhere.
    """
    lost = []
    for attempt in attempts:
        made_on = {row["snapshot_hash"] for row in stored if row["name"] == attempt.name and row["completed"]}
        if attempt.status == "not_run" and made_on and not made_on & {None, attempt.snapshot_hash}:
            lost.append(attempt.name)
    if lost:
        raise ForecastsOfAnotherSnapshot(
            f"the snapshot was captured again, and {', '.join(lost)} forecast the earlier one only: nothing was "
            "stored. Run the whole day again (`predictbench daily` without --experiment), or materialize "
            "experiment_results of these experiments for this partition, and then persisted_run."
        )
