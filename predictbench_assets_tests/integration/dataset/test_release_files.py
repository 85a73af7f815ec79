"""A release is the same again whenever it is made, lets only resolutions change, and is checked without a database."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from predictbench_assets.dataset.tables import RELEASED_TABLES
from predictbench_assets.experiments.history import settled_markets
from predictbench_assets.persistence.digests import run_digest, store_digest
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets_tests.kit.releases import AS_OF, Benchmark, morning

NEXT = RunKey(date(2026, 2, 3), 7)
LATER = AS_OF + timedelta(days=30)
TABLES = {"markets", "contracts", "forecasts", "digests", "experiments", "resolutions", "scores"}


def lines(folder: Path, table: str) -> list[dict[str, Any]]:
    with zstandard.open(folder / f"{table}.jsonl.zst", "rt") as file:
        return [json.loads(line) for line in file]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "MANIFEST.json").read_text())
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def filled(benchmark: Benchmark) -> Iterator[Benchmark]:
    """Two cohorts, of which one market has settled."""
    benchmark.run(1, 2, 3)
    benchmark.run(1, 2, key=NEXT, probability=0.6)
    benchmark.settle(1)
    yield benchmark
    # Nothing half written is ever left.
    assert not [path for path in benchmark.folder.rglob("*") if "partial" in path.name]


def test_all_of_it_is_there_twice_with_its_hash(filled: Benchmark) -> None:
    folder = filled.release("one")
    told = manifest(folder)
    assert {table.name for table in RELEASED_TABLES} == TABLES
    assert {path.name for path in folder.iterdir()} == {
        *("MANIFEST.json", "README.md", "LICENSE-NOTICE.md"),
        *(f"{table}.parquet" for table in TABLES),
        *(f"{table}.jsonl.zst" for table in TABLES),
    }
    notice = (folder / "LICENSE-NOTICE.md").read_text()
    assert "SPDX: Apache-2.0" in notice
    assert "does not cover the data" in notice
    for file in told["files"]:
        content = (folder / file["name"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["bytes"] == len(content)
    assert told["rows"] == {
        "markets": 5, "contracts": 10, "forecasts": 10, "digests": 2, "experiments": 2, "resolutions": 1, "scores": 4,
    }  # fmt: skip
    assert (told["version"], told["as_of"], told["git_sha"]) == ("one", "2026-02-20T12:00:00Z", "0123abc")
    for table in RELEASED_TABLES:
        rows = pq.read_table(folder / f"{table.name}.parquet")
        assert rows.num_rows == told["rows"][table.name]
        dictionary = (folder / "README.md").read_text()
        assert all(f"| `{name}` |" in dictionary for name in rows.column_names)
    checked = filled.verify("--release", str(folder))
    assert checked.exit_code == 0, checked.output
    assert "2 digests of 2 cohorts" in checked.stdout


def test_a_sandboxes_data_are_released_as_simulated_ones(filled: Benchmark) -> None:
    real = filled.release("real")
    assert (manifest(real)["exchange"], manifest(real)["simulated"]) == ("gamma.example", False)
    assert "read from Polymarket's public interfaces" in (real / "LICENSE-NOTICE.md").read_text()
    assert "imulated" not in "".join((real / name).read_text() for name in ("LICENSE-NOTICE.md", "README.md"))
    filled.execute("UPDATE predictbench.processing_runs SET exchange = 'localhost'")
    made_up = filled.release("made-up")
    assert (manifest(made_up)["exchange"], manifest(made_up)["simulated"]) == ("localhost", True)
    assert "read from Polymarket's public interfaces" not in (made_up / "LICENSE-NOTICE.md").read_text()
    for name in ("LICENSE-NOTICE.md", "README.md"):
        assert "**Simulated.**" in (made_up / name).read_text()
    assert filled.verify("--release", str(made_up)).exit_code == 0


def test_what_a_row_says(filled: Benchmark) -> None:
    filled.run(1, 2, 3, at=morning() + timedelta(hours=1), probability=0.9)
    folder = filled.release("one")
    market = lines(folder, "markets")[0]
    assert (market["run_date"], market["window_days"], market["market_id"]) == ("2026-02-02", 7, "m1")
    assert "outcome" not in market
    forecasts = [row for row in lines(folder, "forecasts") if row["market_id"] == "m1"]
    assert [(row["run_date"], row["experiment"], row["attempt"], row["probability"]) for row in forecasts] == [
        ("2026-02-02", "baseline_snapshot", 1, 0.4),
        ("2026-02-02", "baseline_snapshot", 2, 0.9),
        ("2026-02-02", "coin", 1, 0.5),
        ("2026-02-02", "coin", 2, 0.5),
        ("2026-02-03", "baseline_snapshot", 1, 0.6),
        ("2026-02-03", "coin", 1, 0.5),
    ]
    [resolution] = lines(folder, "resolutions")
    assert (resolution["market_id"], resolution["state"], resolution["outcome"]) == ("m1", "final", 1.0)
    score = lines(folder, "scores")[0]
    assert score["brier"] == pytest.approx(0.36)
    assert score["edge"] == pytest.approx(0.0)
    assert [row["control"] for row in lines(folder, "experiments")] == [False, True]
    assert [row["name"] for row in lines(folder, "contracts")[:2]] == ["Yes", "No"]


def test_scores_are_those_that_the_database_keeps(filled: Benchmark) -> None:
    assert filled.command("score").exit_code == 0
    stored = filled.rows(
        """SELECT m.market_id, e.name, a.attempt, s.outcome, s.brier, s.log_loss, s.clipped, s.edge, s.disagreement
        FROM predictbench.experiment_scores s JOIN predictbench.experiment_results r USING (experiment_result_id)
        JOIN predictbench.experiment_runs a USING (experiment_run_id)
        JOIN predictbench.experiments e USING (experiment_id)
        JOIN predictbench.processed_markets m USING (processed_market_id)
        JOIN predictbench.processing_runs p ON p.run_id = a.run_id ORDER BY run_date, e.name, a.attempt, m.market_id"""
    )
    names = ("market_id", "experiment", "attempt", "outcome", "brier", "log_loss", "clipped", "edge", "disagreement")
    released = [tuple(row[name] for name in names) for row in lines(filled.release("one"), "scores")]
    assert released == stored


def test_the_same_moment_gives_the_same_bytes(filled: Benchmark) -> None:
    folder = filled.release("one")
    first = files(folder)
    shutil.rmtree(folder)
    filled.settle(2, at=AS_OF + timedelta(days=1))
    filled.run(1, 2, 3, at=AS_OF + timedelta(days=1), probability=0.9)
    filled.now = LATER
    assert files(filled.release("one", "--as-of", AS_OF.isoformat())) == first


def test_resolutions_change_and_nothing_else_does(filled: Benchmark) -> None:
    one = filled.release("one")
    filled.now = LATER
    filled.settle(2, at=AS_OF + timedelta(days=1))
    filled.settle(1, outcome=0.0, at=AS_OF + timedelta(days=2))
    filled.run(4, key=RunKey(date(2026, 2, 21), 7))
    two = filled.release("two", "--previous", str(one))
    told = manifest(two)
    assert told["previous"]["version"] == "one"
    assert told["cohorts"][:2] == manifest(one)["cohorts"]
    assert [row["outcome"] for row in lines(two, "resolutions")] == [0.0, 1.0]
    assert len(lines(two, "scores")) == 8
    assert lines(two, "forecasts")[:10] == lines(one, "forecasts")
    assert filled.verify("--release", str(two)).exit_code == 0


def test_forecasts_of_later_attempts_stay_out_of_released_cohorts(filled: Benchmark) -> None:
    one = filled.release("one")
    filled.now = LATER
    filled.run(1, 2, 3, at=AS_OF + timedelta(days=1), probability=0.9)
    two = filled.release("two", "--previous", str(one / "MANIFEST.json"))
    assert [cohort["left_out"] for cohort in manifest(two)["cohorts"]] == [6, 0]
    assert lines(two, "forecasts") == lines(one, "forecasts")
    assert filled.verify("--release", str(two)).exit_code == 0
    # And stay out of every later one.
    three = filled.release("three", "--previous", str(two))
    assert lines(three, "forecasts") == lines(one, "forecasts")
    assert manifest(three)["cohorts"][0]["frozen_at"] == "2026-02-20T12:00:00Z"


CHANGES = {
    "UPDATE predictbench.experiment_results SET probability = probability + 1e-9 WHERE probability < 0.45": (
        "the cohort 2026-02-02|7 has other rows of forecasts"
    ),
    "DELETE FROM predictbench.experiment_results WHERE probability = 0.6": "2026-02-03|7 has 2 rows of forecasts, it",
    "UPDATE predictbench.processed_markets SET question = 'Another?' WHERE market_id = 'm3'": "other rows of markets",
    "UPDATE predictbench.processed_contracts SET name = 'Yep' WHERE name = 'Yes'": "other rows of contracts",
    "UPDATE predictbench.experiments SET information = 'blind' WHERE name = 'coin'": "coin 1 is described otherwise",
    "DELETE FROM predictbench.processing_runs WHERE run_date = '2026-02-03'": "the cohort 2026-02-03|7 is gone",
    "UPDATE predictbench.forecast_digests SET digest = repeat('0', 64)": "other rows of digests",
}


@pytest.mark.parametrize(("sql", "said"), CHANGES.items(), ids=[said[-20:] for said in CHANGES.values()])
def test_any_other_change_is_refused_and_told(filled: Benchmark, sql: str, said: str) -> None:
    one = filled.release("one")
    assert filled.execute(sql) > 0
    done = filled.command("release", "--output", str(filled.folder / "two"), "--version", "two", "--previous", str(one))
    assert done.exit_code == 1
    assert said in done.output
    assert "only resolutions may change after release one" in done.output
    assert not (filled.folder / "two").exists()


def test_days_of_the_earlier_release_cannot_be_left_out(filled: Benchmark) -> None:
    one = filled.release("one")
    arguments = ("--output", str(filled.folder / "two"), "--version", "two", "--previous", str(one))
    done = filled.command("release", *arguments, "--since", "2026-02-03")
    assert done.exit_code == 1
    assert "the cohort 2026-02-02|7 is gone" in done.output
    done = filled.command("release", *arguments[:2], "--version", "one", "--previous", str(one))
    assert done.exit_code == 1
    assert "was released before" in done.output


def test_nothing_is_overwritten_and_nothing_is_empty(filled: Benchmark) -> None:
    folder = filled.release("one")
    before = files(folder)
    again = filled.command("release", "--output", str(folder))
    assert again.exit_code == 1
    assert "never overwritten" in again.output
    assert files(folder) == before
    none = filled.command("release", "--output", str(filled.folder / "none"), "--since", "2026-03-01")
    assert none.exit_code == 1
    assert "nothing to release" in none.output
    usage = filled.command("release", "--output", str(filled.folder / "none"), "--version", "../up")
    assert usage.exit_code == 2


def test_the_runs_of_a_board_are_released_partial_ones_included(filled: Benchmark) -> None:
    filled.run(5, key=RunKey(date(2026, 2, 4), 7), status="partial")
    filled.run(6, key=RunKey(date(2026, 2, 5), 7), ended=False)
    filled.run(7, key=RunKey(date(2026, 2, 25), 7))
    told = manifest(filled.release("one"))
    assert [cohort["run_date"] for cohort in told["cohorts"]] == ["2026-02-02", "2026-02-03", "2026-02-04"]


def test_boards_releases_and_histories_have_the_same_runs_and_markets(filled: Benchmark) -> None:
    filled.run(5, key=RunKey(date(2026, 2, 4), 7), status="partial")
    filled.run(6, key=RunKey(date(2026, 2, 5), 7), ended=False)
    filled.run(7, key=RunKey(date(2026, 2, 25), 7))  # later than the moment
    filled.run(8, 9, key=RunKey(date(2026, 2, 6), 7))
    filled.run(8, key=RunKey(date(2026, 2, 6), 7), at=morning(RunKey(date(2026, 2, 6), 7)) + timedelta(hours=1))
    filled.settle(2, 3, 5, 6, 7, 8, 9)

    on_the_board = {str(one) for one in load_forecasts(filled.engine, AS_OF).cohorts.market_id}
    released = {one["market_id"] for one in lines(filled.release("one"), "markets") if one["withdrawn_at"] is None}
    learned_from = {one.market_id for one in settled_markets(filled.engine, AS_OF)}

    assert on_the_board == {"m1", "m2", "m3", "m5", "m8"}  # not of what never ended, came later or was withdrawn
    assert released == on_the_board
    assert learned_from == on_the_board


def test_a_market_withdrawn_later_is_as_it_was(filled: Benchmark) -> None:
    one = filled.release("one")
    filled.run(1, 2, at=AS_OF + timedelta(days=1), probability=0.9)
    assert filled.rows("SELECT market_id FROM predictbench.processed_markets WHERE withdrawn_at IS NOT NULL") == [
        ("m3",)
    ]
    filled.now = LATER
    two = filled.release("two", "--previous", str(one))
    assert lines(two, "markets") == lines(one, "markets")


def test_no_secret_and_no_private_address_leaves_the_house(filled: Benchmark) -> None:
    filled.execute(
        "UPDATE predictbench.experiment_results SET artifact_uri = 's3://private-bucket/planted', reason = 'planted',"
        ' payload = \'{"key": "planted"}\', diagnostics = \'{"key": "planted"}\''
    )
    filled.execute("UPDATE predictbench.processing_runs SET holder = 'planted-host', reason = 'planted'")
    folder = filled.release("one")
    texts = [json.dumps(lines(folder, table)) for table in TABLES]
    texts += [(folder / name).read_text() for name in ("MANIFEST.json", "README.md", "LICENSE-NOTICE.md")]
    assert not any("planted" in text or "host:1" in text for text in texts)


def _rewrite(folder: Path, table: str, change: Any) -> None:
    """As somebody would who wants it to look right: lines, their hash in the manifest, and nothing else forgotten."""
    rows = lines(folder, table)
    change(rows)
    path = folder / f"{table}.jsonl.zst"
    text = "".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    told = manifest(folder)
    for file in told["files"]:
        if file["name"] == path.name:
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "MANIFEST.json").write_text(json.dumps(told))


def test_a_release_that_was_touched_is_found(filled: Benchmark) -> None:
    folder = filled.release("one")

    def problems() -> str:
        done = filled.verify("--release", str(folder))
        assert done.exit_code == 1, done.output
        return done.stdout

    sound = files(folder)

    def restore() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in sound.items():
            (folder / name).write_bytes(content)

    (folder / "markets.parquet").write_bytes(b"PAR1")
    assert "markets.parquet is not as it was released" in problems()
    restore()
    (folder / "scores.jsonl.zst").unlink()
    assert "scores.jsonl.zst is missing" in problems()
    restore()
    (folder / "extra.csv").touch()
    assert "extra.csv is not in the manifest" in problems()
    restore()

    def more_sure(rows: list[dict[str, Any]]) -> None:
        rows[0]["probability"] += 1e-9

    _rewrite(folder, "forecasts", more_sure)
    found = problems()
    assert "forecasts.parquet and forecasts.jsonl.zst do not have the same rows" in found
    assert "come to the digest" in found
    assert "the rows of forecasts of the cohort 2026-02-02|7 are not those of the manifest" in found
    restore()
    assert filled.verify("--release", str(folder)).exit_code == 0
    [(digest,), _] = filled.rows("SELECT digest FROM predictbench.forecast_digests ORDER BY made_at")
    assert filled.verify("--release", str(folder), "--digest", digest).exit_code == 0
    assert filled.verify("--release", str(folder), "--digest", "ab" * 32).exit_code == 1
    assert filled.verify("--release", str(folder.parent)).exit_code == 1
    assert filled.verify("--release", str(folder), "--all").exit_code == 2


def test_whatever_a_touched_release_holds_is_a_problem_on_one_line(filled: Benchmark) -> None:
    folder = filled.release("one")
    markets = pq.read_table(folder / "markets.parquet")
    pq.write_table(markets.drop_columns(["question"]), folder / "markets.parquet")
    for name in ("scores.parquet", "contracts.parquet"):
        (folder / name).unlink()
    os.mkfifo(folder / "scores.parquet")
    (folder / "contracts.parquet").mkdir()
    (folder / "x\x1b[2J\nPROBLEM: forged").touch()
    told = manifest(folder)
    del told["rows"]["markets"]
    (folder / "MANIFEST.json").write_text(json.dumps(told | {"version": "1\x1b[2J\nPROBLEM: forged"}))

    def problems() -> list[str]:
        done = filled.verify("--release", str(folder))
        assert done.exit_code == 1
        assert "\x1b" not in done.output
        assert "\nPROBLEM: forged" not in done.stdout
        return done.stdout.splitlines()[1:]

    found = problems()
    assert "PROBLEM: scores.parquet is no file" in found
    assert "PROBLEM: contracts.parquet is no file" in found
    assert r"PROBLEM: x\x1b[2J\nPROBLEM: forged is not in the manifest" in found

    (folder / "scores.parquet").unlink()
    (folder / "contracts.parquet").rmdir()
    for name in ("scores.parquet", "contracts.parquet"):
        pq.write_table(markets.slice(0, 0), folder / name)
    found = problems()
    assert any(line.startswith("PROBLEM: markets cannot be read: ValueError") for line in found)
    assert "PROBLEM: scores.parquet and scores.jsonl.zst do not have the same rows" in found

    pq.write_table(markets, folder / "markets.parquet")
    assert any("the manifest says nothing of it" in line for line in problems())
    (folder / "MANIFEST.json").unlink()
    os.mkfifo(folder / "MANIFEST.json")
    assert "MANIFEST.json is a pipe or a device, and has to be a file" in filled.verify("--release", str(folder)).stderr


def test_a_place_that_takes_no_files_is_told(filled: Benchmark) -> None:
    (filled.folder / "file").touch()
    done = filled.command("release", "--output", str(filled.folder / "file" / "one"))
    assert done.exit_code == 1
    assert "cannot be written" in done.output


MEMORY = """
import resource, sys
from datetime import datetime, UTC
from pathlib import Path
from predictbench_assets.database.engine import make_engine
from predictbench_assets.dataset.check import check_release
from predictbench_assets.dataset.release import make_release

url, folder = sys.argv[1:]
engine = make_engine(url, pool_size=2)
made = make_release(engine, Path(folder), as_of=datetime(2026, 3, 1, tzinfo=UTC), version="big", git_sha=None)
assert check_release(Path(folder)).problems == ()
if sys.platform == "darwin":
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
else:  # there that number begins with the peak of whoever started this process
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10
print(made.rows["forecasts"], made.rows["scores"], peak)
"""


COPIES = """
    WITH copies AS (
        INSERT INTO predictbench.experiments (experiment_id, name, version, description, information, mandatory,
            control, is_active)
        SELECT gen_random_uuid(), 'copy ' || number, '1', '', 'blind', false, false, true
        FROM generate_series(1, :copies) number RETURNING experiment_id
    ), attempts AS (
        INSERT INTO predictbench.experiment_runs (experiment_run_id, run_id, experiment_id, attempt, status,
            content_hash, dagster_run_id)
        SELECT gen_random_uuid(), p.run_id, copies.experiment_id, 1, 'completed', '', ''
        FROM predictbench.processing_runs p, copies RETURNING experiment_run_id, run_id
    )
    INSERT INTO predictbench.experiment_results (experiment_result_id, experiment_run_id, processed_market_id, status,
        probability, forecast_at, stored_at)
    SELECT gen_random_uuid(), a.experiment_run_id, m.processed_market_id, 'completed', random(), m.captured_at,
        m.processed_at
    FROM attempts a JOIN predictbench.processed_markets m USING (run_id)"""


@pytest.mark.long
def test_three_hundred_thousand_forecasts_take_little_memory(benchmark: Benchmark) -> None:
    days = [RunKey(date(2026, 2, day), 7) for day in range(1, 16)]
    for key in days:
        benchmark.run(*range(1000), key=key)
    benchmark.settle(*range(1000), at=datetime(2026, 2, 28, tzinfo=UTC))
    # What nobody would wait for: 18 more experiments of each run, put in at once and digested again.
    benchmark.execute("DELETE FROM predictbench.forecast_digests")
    assert benchmark.execute(COPIES, copies=18) == 270_000
    for key in days:
        digest = run_digest(benchmark.engine, key, morning(key))
        with benchmark.engine.begin() as connection:
            store_digest(connection, key.run_id, digest, 1)
    url = benchmark.engine.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, url, str(benchmark.folder / "big")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    forecasts, scores, megabytes = map(int, done.stdout.split())
    assert forecasts == scores == 300_000
    assert megabytes < 300, f"{megabytes} MB"
