"""What doctor says of databases: good ones, empty ones, full ones, those of others; and of the runs in them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.engine import make_url

from predictbench_assets.clock import Clock, FixedClock, SystemClock
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.schema import processing_runs
from predictbench_assets.diagnosis.checks import Finding
from predictbench_assets.diagnosis.database import database_findings, run_findings
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.integration.diagnosis.own_settings import NOW, MakeSettings
from predictbench_assets_tests.kit.database import administer, database_of

TODAY = NOW.date()
FINDINGS = """
import sys
from predictbench_assets.clock import SystemClock
from predictbench_assets.diagnosis.database import database_findings
from predictbench_assets.settings import Settings
for one in database_findings(Settings(_env_file=None, predictbench_home=sys.argv[1]), SystemClock()):
    print(one.level, one.name, one.found)
"""
Parts = dict[str, Finding]
Diagnose = Callable[..., Parts]


@pytest.fixture
def diagnose(make_settings: MakeSettings) -> Diagnose:
    """Findings by part, of a database and settings."""

    def look_at(url: str | None, clock: Clock | None = None, **values: Any) -> Parts:
        found = database_findings(make_settings(database_url=url, **values), clock or SystemClock())
        return {finding.name: finding for finding in found}

    return look_at


@pytest.fixture
def role(postgres_server: EmbeddedPostgres, database_url: str) -> Iterator[str]:
    """A role without any right, that may log in."""
    name = f"role_{uuid4().hex[:12]}"
    administer(postgres_server, f"CREATE ROLE {name} LOGIN PASSWORD 'secret-of-the-role'")
    yield name
    execute(database_url, f"DROP OWNED BY {name}")
    administer(postgres_server, f"DROP ROLE {name}")


def execute(url: str, statement: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)


def levels(parts: Parts) -> dict[str, str]:
    return {name: finding.level for name, finding in parts.items()}


def test_a_good_database(diagnose: Diagnose, database_url: str) -> None:
    parts = diagnose(database_url)
    assert levels(parts) == {
        **dict.fromkeys(("database", "revision", "privileges", "pooler", "size", "exposure", "connections"), "ok"),
        "clock of the database": "ok",
        "runs": "warn",  # there is none yet
    }
    assert parts["database"].found.startswith("PostgreSQL ")
    assert "direct" in parts["pooler"].found
    assert "DATABASE_SIZE_LIMIT_MB" in parts["size"].found


def test_a_database_without_tables(diagnose: Diagnose, empty_database_url: str) -> None:
    parts = diagnose(empty_database_url)
    assert parts["revision"].level == "fail"
    assert "predictbench db upgrade" in parts["revision"].fix
    assert parts["privileges"].level == "skip"  # one cause, one failure, one thing to do
    assert parts["runs"].level == "skip"
    assert parts["clock of the database"].level == "ok"


@pytest.mark.parametrize("address", ["postgresql://a:secret-word@127.0.0.1:9/b", "postgresql://a@nowhere.invalid/b"])
def test_a_database_that_is_not_there(diagnose: Diagnose, address: str) -> None:
    parts = diagnose(address)
    assert parts.pop("database").level == "fail"
    assert set(levels(parts).values()) == {"skip"}
    assert len(parts) == 8
    assert not any("secret-word" in part.found for part in parts.values())


def test_the_embedded_database_is_not_started(diagnose: Diagnose, tmp_path: Any) -> None:
    parts = diagnose(None)
    assert (parts.pop("database").level, set(levels(parts).values())) == ("warn", {"skip"})
    assert list(tmp_path.iterdir()) == []


def test_a_role_without_rights(diagnose: Diagnose, database_url: str, role: str) -> None:
    url = make_url(database_url).set(username=role).render_as_string(hide_password=False)
    parts = diagnose(url)
    assert parts["privileges"].level == "fail"
    assert "migrations/roles.sql" in parts["privileges"].fix
    assert f"{role} lacks" in parts["privileges"].found


def test_a_deployment_that_uses_a_role_with_too_many_rights(make_settings: MakeSettings, database_url: str) -> None:
    settings = make_settings(
        environment="staging", supabase_db_url=database_url, staging_uri="s3://bucket/staging", predictbench_now=None
    )
    parts = {finding.name: finding for finding in database_findings(settings, SystemClock())}
    assert parts["privileges"].level == "warn"
    assert "predictbench_writer" in parts["privileges"].fix


def test_a_schema_that_the_public_may_enter(diagnose: Diagnose, database_url: str) -> None:
    execute(database_url, "GRANT USAGE ON SCHEMA predictbench TO PUBLIC")
    parts = diagnose(database_url)
    assert (parts["exposure"].level, "PUBLIC" in parts["exposure"].found) == ("fail", True)


def test_a_read_only_database(diagnose: Diagnose, database_url: str) -> None:
    execute(database_url, f"ALTER DATABASE {make_url(database_url).database} SET default_transaction_read_only = on")
    parts = diagnose(database_url)
    assert (parts["database"].level, "read-only" in parts["database"].found) == ("fail", True)


def test_a_database_that_would_give_back_other_texts(diagnose: Diagnose, postgres_server: EmbeddedPostgres) -> None:
    with database_of(postgres_server, "ENCODING 'LATIN1' TEMPLATE template0") as url:
        parts = diagnose(url)
    database = parts.pop("database")
    assert (database.level, "LATIN1" in database.found, "ENCODING 'UTF8'" in database.found) == ("fail", True, True)
    assert set(levels(parts).values()) == {"skip"}


def test_a_database_that_would_give_back_other_numbers(diagnose: Diagnose, database_url: str) -> None:
    execute(database_url, f"ALTER DATABASE {make_url(database_url).database} SET extra_float_digits = 0")
    database = diagnose(database_url)["database"]
    assert (database.level, "RESET extra_float_digits" in database.found) == ("fail", True)


def test_a_server_with_another_time(diagnose: Diagnose, database_url: str) -> None:
    parts = diagnose(database_url, FixedClock(datetime.now(UTC) + timedelta(minutes=5)))
    assert parts["clock of the database"].level == "fail"
    assert "ahead of it" in parts["clock of the database"].found


@pytest.mark.parametrize(("limit", "level"), [(1, "fail"), (1_000_000, "ok")])
def test_a_plan_with_a_limit(diagnose: Diagnose, database_url: str, limit: int, level: str) -> None:
    parts = diagnose(database_url, database_size_limit_mb=limit)
    assert parts["size"].level == level
    assert ("prune" in parts["size"].fix) == (level == "fail")


# Runs


def store(engine: Engine, day: date, status: str, window: int = 7, **values: Any) -> None:
    key = RunKey(day, window)
    at = datetime(day.year, day.month, day.day, 7, 5, tzinfo=UTC)
    counts = dict.fromkeys(
        ("offered_markets", "excluded_markets", "rejected_markets", "total_markets", "processed_markets"), 0
    ) | {"failed_markets": 0}
    row = {
        "run_id": key.run_id,
        "run_date": day,
        "window_days": window,
        "target_date": key.target_date,
        "started_at": at,
        "heartbeat_at": at,
        "status": status,
        "attempt": 1,
        "holder": "test",
        "dagster_run_id": uuid4().hex,
        "exchange": "localhost",
        **(counts if status in ("completed", "partial") else {}),
        **values,
    }
    with engine.begin() as connection:
        connection.execute(insert(processing_runs).values(row))


def days_ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def runs(make_settings: MakeSettings, engine: Engine, **values: Any) -> list[Finding]:
    return list(run_findings(make_settings(**values), engine))


def test_a_week_of_good_runs(make_settings: MakeSettings, engine: Engine) -> None:
    for days in range(10):
        store(engine, days_ago(days), "completed" if days else "partial")
    [finding] = runs(make_settings, engine)
    assert (finding.level, finding.found) == ("ok", "7 of 7 that were due in 7 days are complete")


def test_what_went_wrong_on_older_days_is_a_warning(make_settings: MakeSettings, engine: Engine) -> None:
    store(engine, days_ago(20), "completed")
    store(engine, days_ago(5), "missed", reason="no run began")
    store(engine, days_ago(4), "failed", stage="raw_markets", reason="the exchange was down")
    store(engine, days_ago(3), "interrupted", stage="persisted_run")
    store(engine, days_ago(2), "running", stage="target_window")
    store(engine, days_ago(0), "completed")
    found = runs(make_settings, engine)
    assert [one.level for one in found] == ["warn"] * 6 + ["ok"]
    told = {one.found[:10]: one.found for one in found[:-1]}
    assert "there is no run" in told[str(days_ago(1))]
    assert "not heard of since" in told[str(days_ago(2))]
    assert "interrupted at persisted_run" in told[str(days_ago(3))]
    assert "failed at raw_markets: the exchange was down" in told[str(days_ago(4))]
    assert "missed: no run began" in told[str(days_ago(5))]
    assert "there is no run" in told[str(days_ago(6))]
    assert all("predictbench backfill --from" in one.fix for one in found[:-1])


@pytest.mark.parametrize(
    ("stored", "level"),
    [
        ({"status": "failed", "stage": "raw_markets", "reason": "why"}, "fail"),
        ({"status": "running", "stage": "raw_markets"}, "fail"),
        ({"status": "running", "stage": "raw_markets", "heartbeat_at": NOW - timedelta(minutes=10)}, None),
        ({"status": "missed", "reason": "why"}, "fail"),
        (None, "fail"),
    ],
)
def test_the_run_of_today(
    make_settings: MakeSettings, engine: Engine, stored: dict[str, Any] | None, level: str | None
) -> None:
    store(engine, days_ago(1), "completed")
    if stored is not None:
        store(engine, TODAY, **stored)
    found = runs(make_settings, engine)
    assert [one.level for one in found] == [*([level] if level else []), "ok"]
    if level:
        assert found[0].fix == "predictbench daily --window-days 7"


def test_a_run_that_is_not_due_yet_is_not_missing(make_settings: MakeSettings, engine: Engine) -> None:
    store(engine, days_ago(1), "completed")
    early = {"predictbench_now": NOW.replace(hour=6)}
    assert [one.level for one in runs(make_settings, engine, **early)] == ["ok"]
    begun = {"predictbench_now": NOW.replace(hour=7, minute=30)}
    assert [one.level for one in runs(make_settings, engine, **begun)] == ["ok"]


def test_each_scheduled_window_is_looked_at(make_settings: MakeSettings, engine: Engine) -> None:
    store(engine, days_ago(1), "completed")
    store(engine, days_ago(1), "completed", window=1)
    store(engine, TODAY, "completed", window=1)
    store(engine, TODAY, "failed", window=14)  # by hand, not scheduled
    found = runs(make_settings, engine, horizons="1,7,30")
    assert [(one.level, one.found) for one in found] == [
        ("fail", f"{TODAY}, window 7: there is no run"),
        ("warn", "no run of window 30 is stored yet"),
        ("ok", "3 of 4 that were due in 7 days are complete"),
    ]


def test_the_embedded_server_of_another_user(tmp_path: Path) -> None:
    closed = tmp_path / "postgres" / "data"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o000)
    before = []
    if os.geteuid() == 0:  # to whom it has to be another's, and who would read it all the same
        os.chown(closed.parent, 54321, -1)
        before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*before, sys.executable, "-c", FINDINGS, tmp_path], capture_output=True, text=True, check=False
    )
    closed.parent.chmod(0o700)
    database, *others = done.stdout.splitlines()
    assert database.startswith("fail database"), done.stderr
    assert "DATABASE_URL" in database
    assert others
    assert all(line.startswith("skip ") for line in others)
