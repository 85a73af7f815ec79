"""Rows of a released cohort are the same in every release, so their columns are fixed."""

from predictbench_assets.dataset.tables import RELEASED_FORECASTS


def test_a_released_forecast_has_the_columns_it_always_had() -> None:
    assert [column.name for column in RELEASED_FORECASTS.columns] == [
        *("run_date", "window_days", "market_id", "experiment", "version", "attempt", "status"),
        *("probability", "probabilities", "score", "forecast_at", "stored_at", "snapshot_hash", "config_hash"),
    ]
