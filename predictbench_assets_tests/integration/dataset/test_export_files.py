"""An export is read back: the same rows in both formats, of one moment, and never half an export taken for a whole."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sqlalchemy import text

from predictbench_assets.cli.main import main
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseRefused
from predictbench_assets.dataset import stored_tables
from predictbench_assets.dataset.export import ExportManifest, ExportUnwritable, export_tables
from predictbench_assets.dataset.files import Format
from predictbench_assets.dataset.tables import EXPORTED_TABLES
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import all_variables, load_settings
from predictbench_assets.staging import StagedFileMissing, StagingArea
from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, MakeRun
from predictbench_assets_tests.kit.planted_calls import pay
from predictbench_assets_tests.kit.stored_days import KEY, Stored

NOW = datetime(2026, 9, 1, tzinfo=UTC)
NEXT = RunKey(date(2026, 2, 3), 7)


def exported(stored: Stored, folder: Path, format_: Format = "jsonl", **how: Any) -> ExportManifest:
    days = {"since": date(2026, 2, 1), "until": date(2026, 2, 28)}
    values = days | {"format_": format_, "now": NOW, "git_sha": "abc"} | how
    return export_tables(stored.engine, StagingArea(str(folder)), **values)


def lines(folder: Path, table: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{table}.jsonl").read_text().splitlines()]


def parquet(folder: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file as JSON lines would have them."""
    rows: list[dict[str, Any]] = pq.read_table(folder / f"{table}.parquet").to_pylist()
    return [{name: _as_json(value) for name, value in row.items()} for row in rows]


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def test_both_formats_have_the_same_rows(daily: DailyRun, tmp_path: Path) -> None:
    assert daily.here().exit_code == 0
    nothing = dict.fromkeys(all_variables())
    environment = nothing | daily.environment(tmp_path / "none", {})
    said = {}
    for format_ in ("parquet", "jsonl"):
        arguments = ["export", "--since", "2026-03-01", "--format", format_, "--to", str(tmp_path / format_)]
        done = CliRunner(env=environment).invoke(main, arguments)
        assert done.exit_code == 0, done.output
        said[format_] = done.stdout
    assert "markets.parquet" in said["parquet"]
    arguments = ["export", "--since", "2026-02-01", "--until", "2026-02-28", "--to", str(tmp_path / "empty")]
    empty = CliRunner(env=environment).invoke(main, arguments)
    assert empty.exit_code == 0
    assert "no run is stored from 2026-02-01 to 2026-02-28" in empty.stdout
    for table in EXPORTED_TABLES:
        rows = lines(tmp_path / "jsonl", table.name)
        assert parquet(tmp_path / "parquet", table.name) == rows
        assert all(list(row) == [column.name for column in table.columns] for row in rows)
    assert len(lines(tmp_path / "jsonl", "markets")) == 40
    forecasts = lines(tmp_path / "jsonl", "forecasts")
    assert len(forecasts) == 40 * len({row["experiment"] for row in forecasts})
    assert len(lines(tmp_path / "jsonl", "runs")) == 1
    [digest] = lines(tmp_path / "jsonl", "digests")
    assert digest["forecasts"] == sum(row["status"] == "completed" for row in forecasts)


def test_the_manifest_vouches_for_every_file(stored: Stored, tmp_path: Path) -> None:
    stored.run(1, 2)
    exported(stored, tmp_path, "parquet")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    files = {file.pop("name"): file for file in manifest.pop("files")}
    assert manifest == {
        "format": "parquet",
        "since": "2026-02-01",
        "until": "2026-02-28",
        "exported_at": "2026-09-01T00:00:00+00:00",
        "git_sha": "abc",
        "exchange": "gamma.example",
        "simulated": False,
    }
    assert files.keys() == {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
    for name, file in files.items():
        content = (tmp_path / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["bytes"] == len(content)
    assert files["forecasts.parquet"]["rows"] == 2
    assert files["data_dictionary.md"]["rows"] is None


def test_paid_calls_are_exported_with_what_they_cost_and_not_with_who_ran_them(stored: Stored, tmp_path: Path) -> None:
    stored.run(1)
    pay(stored.engine, times=2)
    pay(stored.engine, "unknown")
    pay(stored.engine, key=NEXT)  # of a run that is not stored
    exported(stored, tmp_path / "lines")
    rows = lines(tmp_path / "lines", "model_calls")
    known = sorted((row["status"], row["cost"] or 0.0, row["reserved_cost"]) for row in rows)
    assert known == [("answered", 0.005, 0.02), ("answered", 0.005, 0.02), ("unknown", 0.0, 0.02)]
    assert {row["run_date"] for row in rows} == {"2026-02-02"}
    assert not {"owner", "claimed_at"} & rows[0].keys()
    exported(stored, tmp_path / "columns", "parquet")
    assert parquet(tmp_path / "columns", "model_calls") == rows


def test_the_newest_attempt_that_got_to_a_market(stored: Stored, tmp_path: Path) -> None:
    stored.run(1, 2, 3)
    stored.run(1, 2, probability=0.6)
    stored.run(1, key=NEXT, probability=0.7)
    exported(stored, tmp_path)
    found = [
        (row["run_date"], row["market_id"], row["probability"], row["attempt"]) for row in lines(tmp_path, "forecasts")
    ]
    assert found == [
        ("2026-02-02", "m1", 0.6, 2),
        ("2026-02-02", "m2", 0.6, 2),
        ("2026-02-02", "m3", 0.4, 1),
        ("2026-02-03", "m1", 0.7, 1),
    ]
    view = stored.rows(
        "SELECT run_date, market_id, experiment, version, attempt, status, probability, forecast_at"
        " FROM predictbench.latest_experiment_results ORDER BY run_date, market_id, experiment"
    )
    rows = [
        tuple(
            row[name]
            for name in (
                "run_date",
                "market_id",
                "experiment",
                "version",
                "attempt",
                "status",
                "probability",
                "forecast_at",
            )
        )
        for row in lines(tmp_path, "forecasts")
    ]
    assert [tuple(_as_json(value) for value in row) for row in view] == rows


def test_what_a_market_says(stored: Stored, tmp_path: Path) -> None:
    stored.run(1)
    stored.observe(1, "proposed")
    stored.settled(1, at=datetime(2026, 2, 11, tzinfo=UTC))
    stored.prune(now=NOW)
    assert stored.archived() == {"m1"}, "an export needs no raw snapshot"
    exported(stored, tmp_path)
    [market] = lines(tmp_path, "markets")
    expected = {
        "run_date": "2026-02-02",
        "window_days": 7,
        "market_id": "m1",
        "close_time": "2026-02-09T12:00:00Z",
        "event_title": "An event",
        "price": 0.4,
        "spread": 0.02,
        "core": False,
        "outcomes": ["Yes", "No"],
        "outcome_ids": ["101", "102"],
        "outcome_prices": [0.4, 0.6],
        "resolution": "final",
        "outcome": 1.0,
        "resolution_observed_at": "2026-02-11T00:00:00Z",
    }
    assert {name: market[name] for name in expected} == expected | {"spread": pytest.approx(0.02)}


def test_the_types_of_parquet(stored: Stored, tmp_path: Path) -> None:
    stored.run(1)
    exported(stored, tmp_path, "parquet")
    schema = pq.read_schema(tmp_path / "markets.parquet")
    assert schema.field("close_time").type == pa.timestamp("us", tz="UTC")
    assert schema.field("run_date").type == pa.date32()
    assert schema.field("price").type == pa.float64()
    assert schema.field("window_days").type == pa.int64()
    assert pa.types.is_dictionary(schema.field("category").type)
    assert schema.field("outcomes").type.value_type == pa.string()
    assert not schema.field("market_id").nullable
    assert schema.field("volume").metadata[b"unit"] == b"USDC"


def test_days_without_runs_make_files_without_rows(stored: Stored, tmp_path: Path) -> None:
    stored.run(1)
    january: Mapping[str, Any] = {"since": date(2026, 1, 1), "until": date(2026, 1, 31)}
    for format_ in ("parquet", "jsonl"):
        folder = tmp_path / format_
        assert exported(stored, folder, format_, **january).rows == 0
        assert (folder / "manifest.json").exists()
        read = parquet if format_ == "parquet" else lines
        assert not any(read(folder, table.name) for table in EXPORTED_TABLES)


def test_the_days_asked_for_are_both_included(stored: Stored, tmp_path: Path) -> None:
    for day in (1, 2, 3, 4):
        stored.run(1, key=RunKey(date(2026, 2, day), 7), probability=day / 10)
    exported(stored, tmp_path, since=date(2026, 2, 2), until=date(2026, 2, 3))
    assert [row["run_date"] for row in lines(tmp_path, "runs")] == ["2026-02-02", "2026-02-03"]
    assert [row["run_date"] for row in lines(tmp_path, "markets")] == ["2026-02-02", "2026-02-03"]


def test_all_files_show_one_moment(stored: Stored, tmp_path: Path) -> None:
    """A run that is stored while the export goes on is in none of its files."""
    stored.run(1)
    seen: list[str] = []

    def meanwhile(table: str, _: int) -> None:
        if not seen:
            stored.run(1, 2, key=NEXT)
            stored.run(1, 2, 3, probability=0.9)
        seen.append(table)

    exported(stored, tmp_path, progress=meanwhile)
    assert set(seen) == {table.name for table in EXPORTED_TABLES}
    assert [len(lines(tmp_path, table.name)) for table in EXPORTED_TABLES] == [1, 1, 1, 0, 0, 0, 0]
    assert lines(tmp_path, "forecasts")[0]["probability"] == 0.4


def test_a_half_export_is_not_taken_for_a_whole_one(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.run(1)
    exported(stored, tmp_path, "parquet")
    (tmp_path / "notes.txt").write_text("a person's own")

    # The database goes away: the earlier export stays as it was.
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(stored_tables, "_ALL_RUNS", text("SELECT nothing FROM predictbench.of_the_kind"))
        with pytest.raises(DatabaseRefused):
            exported(stored, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    # The place stops taking files: there is no manifest, whatever else is there.
    area = StagingArea(str(tmp_path))

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(area.fs, name)

        def put_file(self, source: str, target: str) -> None:
            if "forecasts" in target:
                raise OSError(28, "No space left on device")
            area.fs.put_file(source, target)

    full = StagingArea(str(tmp_path))
    full.fs = Full()
    with pytest.raises(ExportUnwritable, match="No space left"):
        export_tables(
            stored.engine, full, since=KEY.run_date, until=KEY.run_date, format_="jsonl", now=NOW, git_sha=None
        )
    assert not (tmp_path / "manifest.json").exists()

    # The next one is whole, and what the earlier one had left in its place is gone.
    exported(stored, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("manifest.json", "notes.txt", "data_dictionary.md", "data_dictionary.json"),
        *(f"{table.name}.jsonl" for table in EXPORTED_TABLES),
    }


def test_an_export_into_an_object_store(stored: Stored, store: dict[str, str], tmp_path: Path) -> None:
    stored.run(1, 2)
    settings = load_settings(**{name.lower(): value for name, value in store.items()})
    address = f"{store['STAGING_URI']}/exports/day"
    area = StagingArea(address, settings.storage_options(address))
    for format_ in ("parquet", "jsonl"):
        export_tables(
            stored.engine, area, since=KEY.run_date, until=KEY.run_date, format_=format_, now=NOW, git_sha=None
        )
    assert len(area.read_bytes("markets.jsonl").splitlines()) == 2
    with pytest.raises(StagedFileMissing):
        area.read_bytes("markets.parquet")


def test_no_bucket_is_made_of_a_misspelt_name(stored: Stored, store: dict[str, str]) -> None:
    settings = load_settings(**{name.lower(): value for name, value in store.items() if name != "STAGING_S3_REGION"})
    address = "s3://predictbenhc/exports"
    area = StagingArea(address, settings.storage_options(address))
    with pytest.raises(ExportUnwritable, match="cannot be written to s3://predictbenhc/exports"):
        export_tables(
            stored.engine, area, since=KEY.run_date, until=KEY.run_date, format_="jsonl", now=NOW, git_sha=None
        )
    assert not area.fs.exists("predictbenhc")


def test_failures_and_failed_runs_are_told(make_run: MakeRun, tmp_path: Path) -> None:
    daily = make_run(
        World(markets_per_day=20), PROCESSING_EXPERIMENTS=BASELINE, POLYMARKET_BASE_URL="http://127.0.0.1:9"
    )
    assert daily.here(POLYMARKET_MAX_ATTEMPTS="1").exit_code == 1
    engine = make_engine(daily.database_url, pool_size=0)
    march = {"since": date(2026, 3, 1), "until": date(2026, 3, 31)}
    export_tables(engine, StagingArea(str(tmp_path)), **march, format_="jsonl", now=NOW, git_sha=None)
    [run] = lines(tmp_path, "runs")
    assert (run["status"], run["stage"]) == ("failed", "raw_markets")
    [failure] = lines(tmp_path, "failures")
    assert (failure["market_id"], failure["stage"], failure["attempt"]) == (None, "raw_markets", 1)
    assert failure["reason"]
