"""The writer against a real server: what is stored, what is not, and what a rerun does."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid5

import pytest
from sqlalchemy import Engine, text

from predictbench_assets.database.schema import processed_market_id
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Usage
from predictbench_assets.markets.market import Contract, MarketPrice
from predictbench_assets.persistence.leases import Lease, LeaseLost, RunCounts
from predictbench_assets.persistence.records import MarketRecord
from predictbench_assets.persistence.run_contents import result_record
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, market, open_run, record, result
from predictbench_assets_tests.kit.database import Database

Writers = Callable[..., RunWriter]


def counts(processed: int, **others: int) -> RunCounts:
    values = {"excluded": 0, "rejected": 0, "failed": 0} | others
    return RunCounts(
        offered=processed + sum(values.values()),
        excluded=values["excluded"],
        rejected=values["rejected"],
        failed=values["failed"],
        processed=processed,
    )


def test_a_market_is_stored_with_everything_that_is_known_about_it(writer: Writers, database: Database) -> None:
    written = record(4)
    report = writer().write([written], [attempt()])

    assert (report.processed, report.failures, report.batches, report.retried) == (1, [], 1, 0)
    [row] = database.rows(
        "SELECT processed_market_id, run_id, market_id, market_slug, question, close_time, raw_snapshot, processed_at,"
        " event_id, price, bid, ask, round(spread::numeric, 6)::float8, price_source, price_quality, price_at, volume,"
        " liquidity, core, core_weight, reconstructed, withdrawn_at FROM predictbench.processed_markets"
    )
    expected = written.market
    assert row == (
        processed_market_id(KEY.run_id, "m4"),
        KEY.run_id,
        "m4",
        expected.slug,
        expected.question,
        expected.close_time,
        json.loads(written.raw),
        NOW,
        "e1",
        0.4,
        0.39,
        0.41,
        0.02,
        "clob",
        "good",
        NOW,
        1234.5,
        99.25,
        True,
        2.0,
        False,
        None,
    )
    assert database.rows(
        "SELECT contract_id, name, price, metadata FROM predictbench.processed_contracts ORDER BY contract_id"
    ) == [("401", "Yes", 0.4, {"index": 0}), ("402", "No", 0.6, {"index": 1})]
    assert database.rows("SELECT event_id, slug, title, neg_risk FROM predictbench.events") == [
        ("e1", "event-1", "An event", False)
    ]
    assert database.rows(
        "SELECT status, probability, probabilities, payload, forecast_at, snapshot_hash, config_hash"
        " FROM predictbench.experiment_results"
    ) == [("completed", 0.4, [0.4, 0.6], written.results[0].payload, NOW, "snap", "conf")]


IDS = """
    SELECT 'market' AS of, processed_market_id AS id FROM predictbench.processed_markets
    UNION ALL SELECT 'contract', processed_contract_id FROM predictbench.processed_contracts
    UNION ALL SELECT 'result', experiment_result_id FROM predictbench.experiment_results
    UNION ALL SELECT 'failure', failure_id FROM predictbench.processing_failures"""


def test_ids_are_those_that_anyone_can_compute(writer: Writers, database: Database) -> None:
    def custom(namespace: UUID, name: str) -> UUID:
        hashed = uuid5(namespace, name).hex
        return UUID(KEY.run_id.hex[:8] + hashed[8:12] + "8" + hashed[13:])

    writer().write([record(1)], [attempt()])
    stored = custom(KEY.run_id, "market|m1")
    run = uuid5(KEY.run_id, "experiment_run|baseline_snapshot|1")
    assert database.scalar("SELECT experiment_run_id FROM predictbench.experiment_runs") == run
    assert set(database.rows(IDS)) == {
        ("market", stored),
        ("contract", custom(stored, "contract|101")),
        ("contract", custom(stored, "contract|102")),
        ("result", custom(stored, f"result|{run}")),
    }


def test_the_rows_of_a_run_lie_together_in_every_index(engine: Engine, writer: Writers, database: Database) -> None:
    keys = [KEY, RunKey(KEY.run_date, 30), RunKey(KEY.run_date + timedelta(days=1), 7)]
    for key in keys:
        held = writer(open_run(engine, key))
        report = held.write([*map(record, range(8)), record(1)], [attempt()])
        held.finish(counts(8, failed=1), "completed", report.failures)
    for of, rows in (("market", 8), ("contract", 16), ("result", 8), ("failure", 1)):
        ids = [row[0] for row in database.rows(f"SELECT id FROM ({IDS}) one WHERE of = '{of}' ORDER BY id")]
        beginnings = [one.hex[:8] for one in ids]
        assert beginnings == [
            key.run_id.hex[:8] for key in sorted(keys, key=lambda key: key.run_id) for _ in range(rows)
        ]


def give_ids_in_no_order(database: Database) -> None:
    """Give what is stored the ids that it had before those of a run began alike: each a uuid5."""
    markets = {
        old: uuid5(KEY.run_id, f"market|{market_id}")
        for old, market_id in database.rows("SELECT processed_market_id, market_id FROM predictbench.processed_markets")
    }
    with database.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, own, named in (
            ("processed_contracts", "processed_contract_id", "'contract|' || contract_id"),
            ("experiment_results", "experiment_result_id", "'result|' || experiment_run_id"),
        ):
            for row in connection.execute(
                text(f"SELECT {own} AS id, processed_market_id, {named} AS name FROM predictbench.{table}")
            ).all():
                market_uuid = markets[row.processed_market_id]
                connection.execute(
                    text(
                        f"UPDATE predictbench.{table} SET {own} = :new, processed_market_id = :market WHERE {own} = :id"
                    ),
                    {"id": row.id, "new": uuid5(market_uuid, row.name), "market": market_uuid},
                )
        connection.execute(
            text(
                "UPDATE predictbench.processed_markets SET processed_market_id = :new WHERE processed_market_id = :id"
            ),
            [{"id": old, "new": new} for old, new in markets.items()],
        )


def test_a_run_of_before_ids_began_alike_keeps_its_rows(writer: Writers, database: Database) -> None:
    records = [record(number) for number in range(20)]
    writer().write(records, [attempt()])
    give_ids_in_no_order(database)
    assert {identity.version for _, identity in database.rows(IDS)} == {5}
    state = f"SELECT one.*, (SELECT max(xmin::text) FROM predictbench.processed_markets) FROM ({IDS}) one ORDER BY 1, 2"
    before = database.rows(state)
    report = writer().write(records, [attempt()])
    assert (report.processed, report.failures, database.rows(state)) == (20, [], before)


def test_what_is_added_to_a_run_of_before_is_found_again_too(writer: Writers, database: Database) -> None:
    writer().write([record(1)], [attempt()])
    give_ids_in_no_order(database)
    three = (*market(1).contracts[:1], Contract(contract_id="103", index=1, name="Maybe", price=0.5))
    for _ in range(2):
        report = writer().write([record(1, contracts=three, question="Will it?"), record(2)], [attempt(content="B")])
        assert (report.processed, report.failures) == (2, [])
        markets = [uuid5(KEY.run_id, f"market|m{number}") for number in (1, 2)]
        assert database.rows(
            "SELECT market_id, processed_market_id, question FROM predictbench.processed_markets ORDER BY market_id"
        ) == [("m1", markets[0], "Will it?"), ("m2", markets[1], record(2).market.question)]
        assert set(database.rows("SELECT processed_contract_id FROM predictbench.processed_contracts")) == {
            (uuid5(markets[place], f"contract|{number}"),) for place, number in ((0, 101), (0, 103), (1, 201), (1, 202))
        }
        assert database.rows(
            "SELECT market_id, attempt FROM predictbench.experiment_results JOIN predictbench.processed_markets"
            " USING (processed_market_id) JOIN predictbench.experiment_runs USING (experiment_run_id) ORDER BY 1, 2"
        ) == [("m1", 1), ("m1", 2), ("m2", 2)]


def test_many_batches_make_the_same_rows_as_one(writer: Writers, database: Database) -> None:
    report = writer(batch_size=7).write((record(number) for number in range(50)), [attempt()])
    assert (report.processed, report.batches) == (50, 8)
    assert database.counts() == {
        "events": 17,
        "processed_markets": 50,
        "processed_contracts": 100,
        "experiment_runs": 1,
        "experiment_results": 50,
    }


def test_batches_are_cut_by_bytes_too(writer: Writers) -> None:
    big = b'{"x":"' + b"y" * 40_000 + b'"}'
    report = writer(max_batch_bytes=100_000).write([record(number, raw=big) for number in range(6)], [attempt()])
    assert (report.processed, report.batches) == (6, 3)


def test_markets_are_read_only_as_they_are_needed(writer: Writers) -> None:
    ahead = []

    def source() -> Iterator[MarketRecord]:
        for number in range(100):
            ahead.append(number)
            yield record(number)
            if number == 60:
                raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        writer(batch_size=10).write(source(), [attempt()])
    assert len(ahead) == 61


def test_writing_the_same_again_changes_nothing(writer: Writers, database: Database) -> None:
    records = [record(number) for number in range(20)]
    state = (
        "SELECT 'm', processed_market_id, xmin::text, ctid::text FROM predictbench.processed_markets"
        " UNION ALL SELECT 'c', processed_contract_id, xmin::text, ctid::text FROM predictbench.processed_contracts"
        " UNION ALL SELECT 'r', experiment_result_id, xmin::text, ctid::text FROM predictbench.experiment_results"
        " UNION ALL SELECT 'e', md5(event_id)::uuid, xmin::text, ctid::text FROM predictbench.events ORDER BY 1, 2"
    )
    writer().write(records, [attempt()])
    before = database.rows(state)
    report = writer().write(records, [attempt()])  # another Dagster run, so another attempt of the run
    assert report.processed == 20
    assert database.rows(state) == before


def test_a_changed_market_is_updated_in_place_and_its_forecast_is_kept(writer: Writers, database: Database) -> None:
    writer().write([record(1)], [attempt()])
    three = (*market(1).contracts[:1], Contract(contract_id="103", index=1, name="Maybe", price=0.5))
    moved = MarketPrice(value=0.7, bid=0.6, ask=0.8, source="gamma", quality="thin")
    changed = record(1, result(probability=0.7), question="Will it?", contracts=three, price=moved)
    writer().write([changed], [attempt()])

    assert database.rows("SELECT question, price, price_quality, price_at FROM predictbench.processed_markets") == [
        ("Will it?", 0.7, "thin", None)
    ]
    assert database.rows("SELECT contract_id, name FROM predictbench.processed_contracts ORDER BY 1") == [
        ("101", "Yes"),
        ("103", "Maybe"),
    ]
    assert database.rows("SELECT probability FROM predictbench.experiment_results") == [(0.4,)]


def test_other_content_is_another_attempt_even_when_it_was_there_before(writer: Writers, database: Database) -> None:
    for content, probability in (("A", 0.1), ("B", 0.2), ("A", 0.1), ("A", 0.1)):
        writer().write([record(1, result(probability=probability))], [attempt(content=content)])
    assert database.rows(
        "SELECT er.attempt, er.content_hash, r.probability FROM predictbench.experiment_runs er"
        " JOIN predictbench.experiment_results r USING (experiment_run_id) ORDER BY 1"
    ) == [(1, "A", 0.1), (2, "B", 0.2), (3, "A", 0.1)]
    assert database.rows("SELECT attempt, probability FROM predictbench.latest_experiment_results") == [(3, 0.1)]


def test_a_new_version_is_another_attempt_and_the_active_one(writer: Writers, database: Database) -> None:
    writer().write([record(1)], [attempt(version="1")])
    writer().write([record(1, result(probability=0.9))], [attempt(version="2")])
    assert database.rows("SELECT version, is_active FROM predictbench.experiments ORDER BY 1") == [
        ("1", False),
        ("2", True),
    ]
    assert database.rows("SELECT version, attempt, probability FROM predictbench.latest_experiment_results") == [
        ("2", 2, 0.9)
    ]


def test_an_interrupted_attempt_is_completed_not_repeated(writer: Writers, database: Database) -> None:
    writer().write([record(1)], [attempt()])
    writer().write([record(1), record(2)], [attempt()])
    assert database.rows(
        "SELECT market_id, attempt FROM predictbench.latest_experiment_results ORDER BY market_id"
    ) == [("m1", 1), ("m2", 1)]


def test_an_experiment_that_was_not_run_never_hides_its_results(writer: Writers, database: Database) -> None:
    base, other = attempt(), attempt("uniform")
    writer().write([record(1, result(), result("uniform", 0.5))], [base, other])

    def skipped(number: int) -> MarketRecord:
        return record(number, result(), result("uniform", None, status="not_run", reason="not selected"))

    absent = attempt("uniform", content="none", status="not_run")
    writer().write([skipped(1), skipped(2)], [base, absent])
    writer().write([skipped(1), skipped(2)], [base, absent])
    latest = "SELECT market_id, status, attempt FROM predictbench.latest_experiment_results"
    assert database.rows(f"{latest} WHERE experiment = 'uniform' ORDER BY market_id") == [
        ("m1", "completed", 1),
        ("m2", "not_run", 1),
    ]
    writer().write(
        [record(number, result(), result("uniform", 0.5)) for number in (1, 2)], [base, attempt("uniform", content="C")]
    )
    assert database.rows(f"{latest} WHERE experiment = 'uniform' ORDER BY market_id") == [
        ("m1", "completed", 2),
        ("m2", "completed", 2),
    ]


def test_results_of_an_older_attempt_are_not_hidden_by_not_run_rows_either(writer: Writers, database: Database) -> None:
    writer().write([record(1), record(2)], [attempt(content="A")])
    writer().write([record(1)], [attempt(content="B")])
    not_run = result(probability=None, status="not_run")
    optional = attempt(content="none", status="not_run", mandatory=False)
    writer().write([record(1, not_run), record(2, not_run), record(3, not_run)], [optional])
    assert database.rows(
        "SELECT market_id, status, attempt FROM predictbench.latest_experiment_results ORDER BY market_id"
    ) == [("m1", "completed", 2), ("m2", "completed", 1), ("m3", "not_run", 2)]


def test_a_mandatory_experiment_without_a_result_keeps_the_market_out(writer: Writers, database: Database) -> None:
    bad = record(2, result(probability=None, status="skipped", reason="no price at all"))
    report = writer().write([record(1), bad], [attempt()])
    assert [(failure.market_id, failure.reason) for failure in report.failures] == [
        ("m2", "results[baseline_snapshot] is mandatory and skipped: no price at all")
    ]
    assert database.rows("SELECT market_id FROM predictbench.processed_markets") == [("m1",)]


def test_a_complete_run_withdraws_what_it_no_longer_has_and_takes_it_back(writer: Writers, database: Database) -> None:
    withdrawn = "SELECT market_id, withdrawn_at IS NOT NULL FROM predictbench.processed_markets ORDER BY market_id"

    def run(numbers: tuple[int, ...], status: str = "completed") -> None:
        held = writer()
        held.write([record(number) for number in numbers], [attempt()])
        held.finish(counts(len(numbers)), status)  # type: ignore[arg-type]

    run((1, 2, 3))
    run((1, 2))
    assert database.rows(withdrawn) == [("m1", False), ("m2", False), ("m3", True)]
    run((1,), "partial")
    assert database.rows(withdrawn) == [("m1", False), ("m2", False), ("m3", True)]
    run((1, 3))
    assert database.rows(withdrawn) == [("m1", False), ("m2", True), ("m3", False)]
    assert database.counts()["experiment_results"] == 3


def test_finish_writes_counts_status_failures_and_summary_at_once(
    writer: Writers, take: Callable[..., Lease], database: Database
) -> None:
    lease = take()
    held = writer(lease)
    report = held.write([record(1), record(1)], [attempt()])
    held.finish(counts(1, failed=1, excluded=2), "completed", report.failures, {"hello": [1]})
    held.finish(
        counts(1, failed=1, excluded=2), "completed", report.failures, {"hello": [1]}
    )  # an answer that was lost

    assert database.rows(
        "SELECT status, offered_markets, excluded_markets, rejected_markets, total_markets, processed_markets,"
        " failed_markets, summary, finished_at FROM predictbench.processing_runs"
    ) == [("completed", 4, 2, 0, 2, 1, 1, {"hello": [1]}, NOW)]
    assert database.rows(
        "SELECT attempt, market_id, stage, reason, retriable FROM predictbench.processing_failures"
    ) == [(1, "m1", "persisted_run", "market_id occurs a second time in this run", False)]
    assert database.rows("SELECT status, finished_at FROM predictbench.processing_attempts") == [("completed", NOW)]
    with pytest.raises(LeaseLost, match="has ended already"):
        held.write([record(2)], [attempt()])


def test_counts_that_do_not_add_up_are_refused(writer: Writers, database: Database) -> None:
    held = writer()
    held.write([record(1)], [attempt()])
    with pytest.raises(Exception, match="counts_add_up"):
        held.finish(RunCounts(offered=5, excluded=0, rejected=0, failed=0, processed=1), "completed")
    assert database.scalar("SELECT status FROM predictbench.processing_runs") == "running"


def test_finish_without_write_would_withdraw_everything_and_is_refused(writer: Writers) -> None:
    with pytest.raises(RuntimeError, match="follows write"):
        writer().finish(counts(0), "completed")


def test_an_empty_day_is_a_complete_run(writer: Writers, database: Database) -> None:
    held = writer()
    assert held.write([], [attempt()]).processed == 0
    held.finish(counts(0), "completed")
    assert database.scalar("SELECT status FROM predictbench.processing_runs") == "completed"


def test_two_runs_that_share_events_do_not_disturb_each_other(
    writer: Writers, take: Callable[..., Lease], database: Database
) -> None:
    from datetime import date

    from predictbench_assets.runs import RunKey

    other = take(RunKey(date(2026, 2, 3), 6))
    writer().write([record(1)], [attempt()])
    writer(other).write([record(1)], [attempt()])
    assert database.counts()["processed_markets"] == 2
    assert database.counts()["events"] == 1


def test_nothing_is_left_in_the_session(writer: Writers, database: Database) -> None:
    writer().write([record(1)], [attempt()])
    with database.engine.connect() as connection:
        for name in ("statement_timeout", "lock_timeout"):
            assert connection.execute(text(f"SHOW {name}")).scalar_one() == "0"


def test_usage_is_stored_in_columns_to_the_last_digit(writer: Writers, database: Database) -> None:
    cost = Decimal("0.000560000000000000000000001")
    usage = Usage(
        requests=2, input_tokens=1_000, output_tokens=200, cached_tokens=400, cost=cost, seconds=1.5, model="m"
    )
    refused = Outcome(market_id="m2", status="skipped", reason="refused", usage=Usage(requests=1, currency="EUR"))
    writer().write(
        [
            record(1, result(), result("uniform", 0.5, usage=usage)),
            record(2, result(), result_record("uniform", refused)),
        ],
        [attempt(), attempt("uniform")],
    )
    stored = database.rows(
        """SELECT requests, input_tokens, output_tokens, cached_tokens, cost, currency, seconds, model
        FROM predictbench.experiment_results ORDER BY requests DESC NULLS LAST"""
    )
    nothing = (None,) * 8
    assert stored == [(2, 1_000, 200, 400, cost, "USD", 1.5, "m"), (1, *nothing[1:]), nothing, nothing]
