"""What can go wrong while a run is written: bad markets, lost connections, a server that restarts, a lost lease."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import Backoff, DatabaseRefused, DatabaseUnavailable
from predictbench_assets.failures import Failure
from predictbench_assets.markets.market import Contract, MarketPrice
from predictbench_assets.persistence import statements
from predictbench_assets.persistence.leases import Lease, LeaseLost, RunCounts
from predictbench_assets.persistence.pipelining import Statement
from predictbench_assets.persistence.records import MarketRecord
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets_tests.kit.builders import attempt, open_run, record, result
from predictbench_assets_tests.kit.database import Database

Writers = Callable[..., RunWriter]
Takes = Callable[..., Lease]

DEEP = b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


def contract(price: float | None = 0.4, contract_id: str = "1", name: str = "Yes") -> Contract:
    return Contract.model_construct(contract_id=contract_id, index=0, name=name, price=price)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(1, raw=rb'{"a":"x\u0000y"}'), "a contains a NUL character"),
        (record(1, raw=rb'{"a":{"b":["\ud800 x"]}}'), "a.b[0] contains half a surrogate pair"),
        (record(1, raw=b'{"a":"\xff"}'), "raw_snapshot is not UTF-8 at byte 6"),
        (record(1, raw=b'{"a":1'), "raw_snapshot is not JSON"),
        (record(1, raw=b'{"a":NaN}'), "raw_snapshot is not JSON"),
        (record(1, raw=b"[1]"), "raw_snapshot is not a JSON object"),
        (record(1, raw=DEEP), "raw_snapshot is nested too deep"),
        (record(1, question="a\x00b"), "question contains a NUL character"),
        (record(1, question="\ud800"), "raw_snapshot cannot be written as JSON"),
        (record(1, slug="x" * 501), "market_slug has 501 characters, 500 fit"),
        (record(1, volume=float("nan")), "volume is nan, not a finite number"),
        (record(1, liquidity=float("inf")), "liquidity is inf, not a finite number"),
        (record(1, price=MarketPrice.model_construct(value=1.5)), "price is 1.5, not in [0, 1]"),
        (record(1, contracts=(contract(float("nan")),)), "contracts[0].price is nan"),
        (record(1, contracts=(contract(), contract())), "contracts[0] repeats the contract id 1"),
        (record(1, contracts=(contract(name="n" * 501),)), "contracts[0].name has 501 characters"),
        (record(1, result(probability=float("nan"))), "results[baseline_snapshot].probability is nan"),
        (record(1, result(payload={"a": [float("nan")]})), "results[baseline_snapshot].payload.a[0] is nan"),
        (record(1, result(payload={"a": object()})), "results[baseline_snapshot].payload cannot be written as JSON"),
        (record(1, result(diagnostics={"a": "\x00"})), "diagnostics.a contains a NUL character"),
        (record(1, result(forecast_at=record(1).market.close_time.replace(tzinfo=None))), "has no time zone"),
    ],
)
def test_a_market_that_cannot_be_stored_is_told_by_its_field(
    writer: Writers, database: Database, bad: MarketRecord, reason: str
) -> None:
    report = writer().write([record(0), bad, record(2)], [attempt()])
    assert report.processed == 2
    [failure] = report.failures
    assert (failure.market_id, failure.stage, failure.retriable) == ("m1", "persisted_run", False)
    assert reason in failure.reason
    assert database.counts()["processed_markets"] == 2


@pytest.mark.parametrize(
    "fine", [rb'{"a":"\\u0000"}', rb'{"a":"\ud83d\ude00"}', rb'{"n":123456789012345678901234567890.5}', b' {"a": 1}\n']
)
def test_what_only_looks_bad_is_stored(writer: Writers, database: Database, fine: bytes) -> None:
    assert writer().write([record(1, raw=fine)], [attempt()]).failures == []
    [(stored,)] = database.rows("SELECT raw_snapshot FROM predictbench.processed_markets")
    assert stored == json.loads(fine)


def poisoned(size: int, bad: Callable[[int], MarketRecord]) -> Iterator[MarketRecord]:
    for number in range(size):
        yield bad(number) if number % 100 == 37 else record(number)


def only_the_server_refuses(number: int) -> MarketRecord:
    """Bad in ways that the client does not look for: a number out of range, an unknown source, a null."""
    rumour = MarketPrice.model_construct(value=0.5, bid=None, ask=None, source="rumour", quality="good")  # type: ignore[arg-type]
    kinds = (
        record(number, raw=b'{"n":1e400000}'),
        record(number, price=rumour),
        record(number, category=None),
    )
    return kinds[number // 100 % 3]


def test_one_percent_poisoned_is_refused_before_sending(writer: Writers, database: Database) -> None:
    def bad(number: int) -> MarketRecord:
        kinds = (
            record(number, raw=rb'{"a":"\u0000"}'),
            record(number, price=MarketPrice.model_construct(value=float("nan"))),
            record(number, slug="x" * 600),
        )
        return kinds[number // 100 % 3]

    report = writer().write(poisoned(5_000, bad), [attempt()])
    expect_only_the_poisoned_missing(report.failures, database)


def test_one_percent_poisoned_is_isolated_by_the_server(writer: Writers, database: Database) -> None:
    report = writer().write(poisoned(5_000, only_the_server_refuses), [attempt()])
    expect_only_the_poisoned_missing(report.failures, database)
    reasons = {failure.reason.split("SQLSTATE ")[1][:5] for failure in report.failures}
    assert reasons == {"22003", "23514", "23502"}
    assert report.retried == 0


def expect_only_the_poisoned_missing(failures: list[Failure], database: Database) -> None:
    assert {failure.market_id for failure in failures} == {f"m{number}" for number in range(37, 5_000, 100)}
    assert len(failures) == 50
    assert all(failure.reason and not failure.retriable for failure in failures)
    stored = database.counts()
    assert (stored["processed_markets"], stored["processed_contracts"], stored["experiment_results"]) == (
        4_950,
        9_900,
        4_950,
    )


def test_a_market_is_stored_whole_or_not_at_all(writer: Writers, database: Database) -> None:
    """The last of its rows is bad, everything before it is fine, and it is alone in its batch."""
    bad = record(1, result(status="guessed"))
    optional = attempt(mandatory=False)
    report = writer(batch_size=1).write([bad, record(2)], [optional])
    assert [failure.market_id for failure in report.failures] == ["m1"]
    assert database.rows("SELECT market_id FROM predictbench.processed_markets") == [("m2",)]
    assert database.counts()["processed_contracts"] == 2


def kill_others(url: str) -> None:
    """What an outage looks like to a client: its connections are gone."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_connections_killed_in_the_middle_blame_no_market(
    writer: Writers, database: Database, database_url: str
) -> None:
    def source() -> Iterator[MarketRecord]:
        for number in range(100):
            if number in (35, 36, 71):
                kill_others(database_url)
            yield record(number)

    report = writer(batch_size=10).write(source(), [attempt()])
    assert (report.processed, report.failures) == (100, [])
    assert report.retried >= 2
    assert database.counts()["experiment_results"] == 100


def test_a_server_restarted_between_batches_is_waited_for(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        migrations.upgrade(server.url)
        engine = make_engine(server.url)
        lease = open_run(engine)

        def source() -> Iterator[MarketRecord]:
            for number in range(60):
                if number == 31:
                    server.stop()
                    server.start()
                yield record(number)

        report = RunWriter(engine, lease, lease.clock, batch_size=10, backoff=Backoff(6, 0.01, 0.05)).write(
            source(), [attempt()]
        )
        assert (report.processed, report.failures) == (60, [])
        assert Database(engine).counts()["processed_markets"] == 60
        engine.dispose()


def test_a_database_that_stays_away_fails_the_run_and_no_market(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        migrations.upgrade(server.url)
        engine = make_engine(server.url)
        lease = open_run(engine)

        def source() -> Iterator[MarketRecord]:
            yield from (record(number) for number in range(15))
            server.stop()
            yield from (record(number) for number in range(15, 40))

        writing = RunWriter(engine, lease, lease.clock, batch_size=10, backoff=Backoff(3, 0.01, 0.02))
        with pytest.raises(DatabaseUnavailable, match="not available") as caught:
            writing.write(source(), [attempt()])
        assert caught.value.retriable
        engine.dispose()


def test_a_statement_that_takes_too_long_is_not_a_bad_market(
    writer: Writers, take: Takes, database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = Statement(b"SELECT set_config('lock_timeout', '20ms', true)")
    monkeypatch.setattr(statements, "GUARD", hurried)
    lease = take()
    with engine.begin() as blocker:
        blocker.execute(text("SELECT 1 FROM predictbench.processing_runs FOR UPDATE"))
        with pytest.raises(DatabaseUnavailable, match="55P03"):
            writer(lease).write([record(1)], [attempt()])


def test_a_newer_attempt_stops_the_older_one_between_batches(writer: Writers, take: Takes, database: Database) -> None:
    mine = take(holder="first:1")

    def source() -> Iterator[MarketRecord]:
        for number in range(50):
            if number == 35:
                take(holder="second:2")
            yield record(number)

    with pytest.raises(LeaseLost, match=r"attempt 1 .* stops: attempt 2 took over .*second:2"):
        writer(mine, batch_size=10).write(source(), [attempt()])
    assert database.counts()["processed_markets"] <= 30


def test_an_older_attempt_cannot_finish(writer: Writers, take: Takes, database: Database) -> None:
    mine = writer()
    mine.write([record(1)], [attempt()])
    take()
    with pytest.raises(LeaseLost):
        mine.finish(RunCounts(offered=1, excluded=0, rejected=0, failed=0, processed=1), "completed")
    assert database.scalar("SELECT status FROM predictbench.processing_runs") == "running"


def test_a_database_behind_the_code_is_told_as_such(writer: Writers, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictbench.processed_markets DROP COLUMN core_weight"))
    with pytest.raises(DatabaseRefused, match="predictbench db upgrade"):
        writer().write([record(1)], [attempt()])


def test_a_pool_of_one_is_enough(database_url: str, take: Takes) -> None:
    engine = make_engine(database_url, pool_size=1)
    lease = take()
    report = RunWriter(engine, lease, lease.clock, batch_size=3).write(
        poisoned(40, only_the_server_refuses), [attempt()]
    )
    assert (report.processed, len(report.failures)) == (39, 1)
    take()
    with pytest.raises(LeaseLost):
        RunWriter(engine, lease, lease.clock).write([record(1)], [attempt()])
    engine.dispose()


_texts = st.text(st.characters(exclude_categories=()), max_size=6)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.dictionaries(_texts, _values, max_size=4), min_size=1, max_size=60), escape=st.booleans())
def test_any_payload_comes_back_equal_or_is_a_failure(
    writer: Writers, database: Database, payloads: list[dict[str, object]], escape: bool
) -> None:
    def raw(payload: dict[str, object]) -> bytes:
        return json.dumps(payload, ensure_ascii=escape).encode("utf-8", "surrogatepass")

    report = writer(batch_size=20).write(
        [record(n, raw=raw(payload)) for n, payload in enumerate(payloads)], [attempt()]
    )
    failed = {failure.market_id for failure in report.failures}
    stored = dict(database.rows("SELECT market_id, raw_snapshot FROM predictbench.processed_markets"))
    for number, payload in enumerate(payloads):
        if f"m{number}" in failed:
            assert "\\u0000" in json.dumps(payload) or "\\ud" in json.dumps(payload)
        else:
            assert stored[f"m{number}"] == payload
