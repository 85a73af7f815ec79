"""Digests are made of what is stored when a run ends, and found wrong when anything of that is touched."""

import json
from datetime import UTC, date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from predictbench_assets.experiments.digest import DigestedForecast, digest_of
from predictbench_assets.persistence.digests import _LINES, check_digests, run_digest
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.releases import CLOSE, KEY, Benchmark, morning

SEVEN = ("--run-date", "2026-02-02", "--window-days", "7")

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
FORECASTS = st.builds(
    DigestedForecast,
    TEXTS,
    TEXTS,
    st.integers(1, 2**31 - 1),
    TEXTS,
    st.floats(0, 1) | st.sampled_from([0.0, 1.0, 5e-324, 1e-5, 0.0001, 0.1 + 0.2, 1 - 2**-53]),
    st.none() | st.datetimes(timezones=st.just(UTC)).filter(lambda one: one.year > 1000),
    st.none() | TEXTS,
    st.none() | TEXTS,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(FORECASTS, max_size=30, unique_by=lambda one: one[:4]))
def test_the_database_writes_lines_as_the_promise_says(engine: Engine, forecasts: list[DigestedForecast]) -> None:
    """The same form, order and escapes, for any text and any number that a column can hold."""
    tables = _LINES[_LINES.index("FROM (") : _LINES.index("WHERE r.status")]
    query = _LINES.replace(
        tables,
        """FROM (
            SELECT *, row_number() OVER (ORDER BY name COLLATE "C", version COLLATE "C", attempt) AS place,
                'completed' AS status, NULL::timestamptz AS stored_at
            FROM jsonb_to_recordset(%(rows)s::jsonb) AS x(name text, version text, attempt integer, market_id text,
                probability float8, forecast_at timestamptz, snapshot_hash text, config_hash text)
        ) a, LATERAL (SELECT a.*) r, LATERAL (SELECT a.market_id) m """,
    )
    assert query != _LINES
    rows = [
        one._asdict() | {"name": one.experiment, "forecast_at": one.forecast_at and one.forecast_at.isoformat()}
        for one in forecasts
    ]
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL extra_float_digits = 1"))
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor, cursor.copy(query, {"rows": json.dumps(rows), "made_at": morning()}) as copy:
            lines = b"".join(bytes(block) for block in copy)
    assert lines == b"".join(one.line() for one in sorted(forecasts, key=lambda one: one[:4]))
    assert digest_of(KEY, forecasts, morning()).forecasts == lines.count(b"\n")


def test_a_run_is_verified_and_its_line_says_so(benchmark: Benchmark) -> None:
    digest = benchmark.run(1, 2, 3)
    assert digest is not None
    assert digest.forecasts == 6
    done = benchmark.verify(*SEVEN)
    assert done.exit_code == 0, done.output
    assert "2026-02-02 window 7: ok, 6 forecasts, made 2026-02-02T07:00:00Z" in done.stdout
    assert f", digest {digest.digest}\n" in done.stdout
    assert "first close 2026-02-09T12:00:00Z" in done.stdout
    by_digest = benchmark.verify("--digest", digest.digest.upper())
    assert by_digest.exit_code == 0
    assert "is the digest of these forecasts" in by_digest.stdout


TAMPERINGS = {
    "a probability by 1e-9": "UPDATE predictbench.experiment_results SET probability = probability + 1e-9"
    " WHERE experiment_result_id = (SELECT min(experiment_result_id::text)::uuid FROM predictbench.experiment_results)",
    "the time of a forecast": "UPDATE predictbench.experiment_results SET forecast_at = forecast_at - interval '1 us'",
    "a forecast that is gone": "DELETE FROM predictbench.experiment_results"
    " WHERE experiment_result_id = (SELECT min(experiment_result_id::text)::uuid FROM predictbench.experiment_results)",
    "a forecast that counts no more": "UPDATE predictbench.experiment_results SET status = 'failed'",
    "forecasts of another market": "UPDATE predictbench.processed_markets SET market_id = 'other' WHERE market_id='m1'",
    "the order of attempts": "UPDATE predictbench.experiment_runs SET attempt = 7",
    "a version": "UPDATE predictbench.experiments SET version = '9'",
    "the digest itself": "UPDATE predictbench.forecast_digests SET digest = repeat('0', 64)",
    "a digest that is gone": "DELETE FROM predictbench.forecast_digests",
    "when it was made": "UPDATE predictbench.forecast_digests SET made_at = made_at - interval '1 day'",
}


@pytest.mark.parametrize("sql", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_whatever_is_touched_is_found(benchmark: Benchmark, sql: str) -> None:
    digest = benchmark.run(1, 2, 3)
    assert digest is not None
    assert benchmark.execute(sql) > 0
    for arguments in (("--since", "2026-02-01"), (*SEVEN, "--digest", digest.digest)):
        done = benchmark.verify(*arguments)
        assert done.exit_code == 1, done.output
        assert "PROBLEM" in done.stdout


def test_two_versions_that_change_places_are_found(benchmark: Benchmark) -> None:
    benchmark.run(1, 2)
    swap = "UPDATE predictbench.experiments SET name = CASE name WHEN 'coin' THEN 'x' ELSE 'coin' END, version = name"
    benchmark.execute(swap)
    assert benchmark.verify("--all").exit_code == 1


def test_a_forecast_that_was_put_in_afterwards_is_found(benchmark: Benchmark) -> None:
    benchmark.run(1)
    benchmark.run(1, at=morning() + timedelta(hours=2), probability=0.7)
    benchmark.execute("UPDATE predictbench.experiment_results SET stored_at = (SELECT min(made_at) FROM"
                      " predictbench.forecast_digests)")  # fmt: skip
    done = benchmark.verify(*SEVEN, "--json")
    assert done.exit_code == 1
    [run] = json.loads(done.stdout)["checked"]
    assert [one["verdict"] for one in run["digests"]] == ["mismatch", "ok"]


def test_a_clock_that_went_back_between_two_attempts_accuses_no_digest(benchmark: Benchmark) -> None:
    first = benchmark.run(1, 2)
    second = benchmark.run(1, 2, 3, at=morning() - timedelta(hours=2), probability=0.7)
    assert first is not None
    assert second is not None
    done = benchmark.verify(*SEVEN, "--json")
    assert done.exit_code == 0, done.output
    [run] = json.loads(done.stdout)["checked"]
    assert [one["digest"] for one in run["digests"]] == [first.digest, second.digest]
    benchmark.settle(1, 2, 3)
    assert benchmark.command("verify", "--release", str(benchmark.release("one"))).exit_code == 0


def test_a_later_attempt_has_a_digest_of_its_own(benchmark: Benchmark) -> None:
    first = benchmark.run(1, 2)
    second = benchmark.run(1, 2, at=morning() + timedelta(hours=2), probability=0.7)
    assert first is not None
    assert second is not None
    assert (first.forecasts, second.forecasts) == (4, 8)
    done = benchmark.verify(*SEVEN)
    assert done.exit_code == 0, done.output
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["2026-02-02 window 7: ok"] * 2
    for digest in (first, second):
        assert benchmark.verify("--digest", digest.digest).exit_code == 0


def test_an_attempt_that_adds_nothing_keeps_the_digest_and_its_time(benchmark: Benchmark) -> None:
    benchmark.run(1, 2)
    again = benchmark.rows("SELECT digest, attempt, made_at FROM predictbench.forecast_digests")
    lease_at = morning()
    benchmark.run(1, 2, at=lease_at)
    assert benchmark.rows("SELECT digest, attempt, made_at FROM predictbench.forecast_digests") == again


def test_forecasts_of_an_attempt_that_never_ended_are_told(benchmark: Benchmark) -> None:
    benchmark.run(1)
    benchmark.run(1, at=morning() + timedelta(hours=2), probability=0.7, ended=False)
    done = benchmark.verify(*SEVEN)
    assert done.exit_code == 0, done.output
    assert "2 forecasts were stored since" in done.stdout


def test_a_clock_that_went_ahead_does_not_leave_forecasts_out(benchmark: Benchmark) -> None:
    benchmark.run(1, at=morning() + timedelta(minutes=5), ended=False)
    digest = benchmark.run(1, 2, at=morning(), probability=0.3)
    assert digest is not None
    assert digest.made_at == morning() + timedelta(minutes=5)
    assert digest.forecasts == 6
    assert benchmark.verify(*SEVEN).exit_code == 0


def test_a_digest_from_after_the_close_proves_nothing_of_forecasts_from_before(benchmark: Benchmark) -> None:
    benchmark.run(1, 2, at=CLOSE + timedelta(hours=1))
    assert benchmark.verify(*SEVEN).exit_code == 0, "they do not claim to be from before"
    claimed = "UPDATE predictbench.experiment_results SET forecast_at = :at"
    benchmark.execute(claimed, at=morning())
    benchmark.execute("DELETE FROM predictbench.forecast_digests")
    benchmark.execute("UPDATE predictbench.processing_runs SET summary = NULL")
    found = next(iter(check_digests(benchmark.engine)))
    assert found.digests == ()
    digest = benchmark.run(1, 2, at=CLOSE + timedelta(hours=2), probability=0.4)
    assert digest is not None
    done = benchmark.verify(*SEVEN)
    assert done.exit_code == 1
    assert "4 forecasts say they were made before their market closed" in done.stdout


def test_nothing_to_check_is_not_success(benchmark: Benchmark) -> None:
    assert benchmark.verify("--all").exit_code == 3
    benchmark.run(1)
    assert benchmark.verify("--run-date", "2026-02-03").exit_code == 3
    assert benchmark.verify("--all").exit_code == 0
    # A run of before digests were kept.
    benchmark.execute("DELETE FROM predictbench.forecast_digests")
    benchmark.execute("UPDATE predictbench.processing_runs SET summary = NULL")
    done = benchmark.verify("--all")
    assert done.exit_code == 3
    assert "no digest is kept" in done.stdout


def test_a_digest_of_nowhere_is_told(benchmark: Benchmark) -> None:
    benchmark.run(1)
    benchmark.run(1, key=RunKey(date(2026, 2, 3), 7))
    for arguments in (("--digest", "ab" * 32), ("--all", "--digest", "ab" * 32)):
        done = benchmark.verify(*arguments)
        assert done.exit_code == 1
        assert "is the digest of no run checked" in done.stdout
    # Of a run that is not among those chosen.
    [[digest]] = benchmark.rows("SELECT digest FROM predictbench.forecast_digests WHERE made_at < '2026-02-03'")
    assert benchmark.verify("--run-date", "2026-02-03", "--digest", digest).exit_code == 1
    assert benchmark.verify("--run-date", "2026-02-02", "--digest", digest).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--digest", "xyz"),
        ("--all", "--since", "2026-02-01"),
        ("--run-date", "2026-02-01", "--since", "2026-02-01"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(benchmark: Benchmark, arguments: tuple[str, ...]) -> None:
    assert benchmark.verify(*arguments).exit_code == 2


def test_a_digest_does_not_need_raw_snapshots(benchmark: Benchmark) -> None:
    benchmark.run(1, 2)
    benchmark.execute("INSERT INTO predictbench.archives VALUES (gen_random_uuid(), 'file:///a', 'x', 2, now())")
    benchmark.execute(
        "UPDATE predictbench.processed_markets SET raw_snapshot = NULL,"
        " raw_archive_id = (SELECT archive_id FROM predictbench.archives)"
    )
    assert benchmark.verify("--all").exit_code == 0


def test_a_digest_is_what_anyone_makes_of_the_rows(benchmark: Benchmark) -> None:
    """Whatever order the server's language puts names and ids in."""
    benchmark.run(1, 2, 10, ended=False)
    benchmark.run(1, 2, 10, at=morning() + timedelta(hours=1), probability=1e-7, ended=False)
    benchmark.execute("UPDATE predictbench.experiments SET name = CASE name WHEN 'coin' THEN 'Zoë' ELSE 'ape' END")
    benchmark.execute("UPDATE predictbench.experiment_runs SET attempt = attempt + 8")
    rows = benchmark.rows(
        """SELECT name, version, attempt, m.market_id, r.probability, r.forecast_at, r.snapshot_hash, r.config_hash
        FROM predictbench.experiment_results r JOIN predictbench.experiment_runs a USING (experiment_run_id)
        JOIN predictbench.experiments e USING (experiment_id)
        JOIN predictbench.processed_markets m USING (processed_market_id) ORDER BY random()"""
    )
    assert {row[2] for row in rows} == {9, 10}
    now = morning() + timedelta(hours=2)
    assert run_digest(benchmark.engine, KEY, now) == digest_of(KEY, [DigestedForecast(*row) for row in rows], now)
