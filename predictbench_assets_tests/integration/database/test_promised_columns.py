"""The names that others rely on: queries, boards and the plan speak of these tables and columns."""

from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from predictbench_assets.database.schema import SCHEMA

COLUMNS = {
    "processing_runs": "run_id run_date window_days target_date started_at finished_at status total_markets"
    " processed_markets failed_markets git_sha attempt holder heartbeat_at dagster_run_id exchange offered_markets"
    " excluded_markets rejected_markets excluded_by_reason stage reason",
    "processed_markets": "processed_market_id run_id market_id market_slug question close_time raw_snapshot"
    " processed_at condition_id event_id cluster category captured_at price bid ask spread price_source price_at"
    " price_quality core core_weight reconstructed withdrawn_at",
    "processed_contracts": "processed_contract_id processed_market_id contract_id name price metadata",
    "experiments": "experiment_id name version description is_active",
    "experiment_runs": "experiment_run_id run_id experiment_id status started_at finished_at error_message",
    "experiment_results": "experiment_result_id experiment_run_id processed_market_id payload score artifact_uri status"
    " reason probability forecast_at snapshot_hash config_hash",
    "processing_failures": "failure_id run_id market_id reason logged_at retriable stage experiment exception_type",
    "snapshots": "run_date window_days captured_at sha256 rows uri",
    "events": "event_id",
    "latest_experiment_results": "market_id run_date window_days experiment version status probability forecast_at",
}
UNIQUE = {
    "processing_runs": ["run_date", "window_days"],
    "processed_markets": ["run_id", "market_id"],
    "processed_contracts": ["processed_market_id", "contract_id"],
    "experiments": ["name", "version"],
}


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_has_its_columns(table: str, engine: Engine) -> None:
    found = {column["name"] for column in inspect(engine).get_columns(table, schema=SCHEMA)}
    assert set(COLUMNS[table].split()) <= found


def test_what_is_one_is_unique_and_what_is_searched_has_an_index(engine: Engine) -> None:
    look = inspect(engine)
    for table, columns in UNIQUE.items():
        assert columns in [one["column_names"] for one in look.get_unique_constraints(table, schema=SCHEMA)]
    indexed = [one["column_names"] for one in look.get_indexes("processed_markets", schema=SCHEMA)]
    assert ["run_id"] in indexed
    assert ["close_time"] in indexed


def test_json_is_binary_and_every_moment_has_its_zone(engine: Engine) -> None:
    query = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = :schema"
    with engine.connect() as connection:
        rows: list[Any] = list(connection.execute(text(query), {"schema": SCHEMA}))
    types = {(table, column): kind for table, column, kind in rows}
    assert not [name for name, kind in types.items() if kind in ("timestamp without time zone", "json")]
    assert types["processed_markets", "raw_snapshot"] == "jsonb"


def test_a_failure_of_the_run_itself_names_no_market(engine: Engine) -> None:
    found = inspect(engine).get_columns("processing_failures", schema=SCHEMA)
    columns = {one["name"]: one["nullable"] for one in found}
    assert columns["market_id"]
    assert not columns["retriable"]
