"""A database that goes away while a run is being written: the run waits, and no market is blamed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.errors import Backoff
from predictbench_assets.persistence.records import MarketRecord
from predictbench_assets.persistence.run_contents import RunContents
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, MakeRun, Tables, differences
from predictbench_assets_tests.kit.database import administer
from predictbench_assets_tests.kit.killing import small

SETTINGS = {"PROCESSING_EXPERIMENTS": BASELINE}


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun) -> Tables:
    """What a run that nobody disturbs leaves in the database."""
    daily = make_run(**SETTINGS)
    assert daily.here().exit_code == 0
    return daily.tables()


@contextmanager
def disturbed(before: int, disturbance: Callable[[], Any], **writer: Any) -> Iterator[None]:
    """Let something happen before a write in batches of five is handed the market of that number."""
    happened = False
    records = RunContents.records

    def interrupted(contents: RunContents) -> Iterator[MarketRecord]:
        nonlocal happened
        for number, record in enumerate(records(contents), start=1):
            if number == before and not happened:
                happened = True
                disturbance()
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunContents, "records", interrupted)
        patch.setattr("predictbench_assets.persistence.run_write.RunWriter", small(RunWriter, **writer))
        yield
    assert happened


def cut_connections(server: EmbeddedPostgres, database_url: str) -> None:
    """End every connection to a database."""
    name = make_url(database_url).database
    administer(server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


@pytest.mark.parametrize("before", [3, 8, 25, 40])
def test_a_connection_that_is_cut_during_the_write_is_opened_again(
    before: int, make_run: MakeRun, postgres_server: EmbeddedPostgres, undisturbed: Tables
) -> None:
    daily = make_run(**SETTINGS)

    with disturbed(before, partial(cut_connections, postgres_server, daily.database_url)):
        ran = daily.here()

    assert ran.exit_code == 0
    assert ran.said["failures"] == []
    assert not differences(undisturbed, daily.tables())


def test_a_server_that_is_started_again_is_waited_for(
    make_run: MakeRun, postgres_server: EmbeddedPostgres, undisturbed: Tables
) -> None:
    daily = make_run(**SETTINGS)
    back: list[threading.Timer] = []

    def restart() -> None:
        postgres_server.stop()
        back.append(threading.Timer(0.3, postgres_server.start))
        back[0].start()

    try:
        with disturbed(35, restart):
            ran = daily.here()
    finally:
        for timer in back:
            timer.join()
        postgres_server.start()

    assert ran.exit_code == 0
    assert ran.said["failures"] == []
    assert not differences(undisturbed, daily.tables())


def test_a_database_that_stays_away_fails_the_run_and_no_market(
    make_run: MakeRun, postgres_server: EmbeddedPostgres, undisturbed: Tables
) -> None:
    daily = make_run(**SETTINGS)

    try:
        with disturbed(35, postgres_server.stop, backoff=Backoff(attempts=2, first=0.05)):
            ran = daily.here()
    finally:
        postgres_server.start()

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "persisted_run")
    assert "the database is not available" in ran.said["reason"]
    [failure] = ran.said["failures"]
    assert (failure["market_id"], failure["retriable"]) == (None, True)
    assert daily.count("processing_failures") == 0
    # The batches that were written before stay; the run is not complete.
    assert 0 < daily.count("processed_markets") < 40
    assert daily.run_row("status") == "running"

    assert daily.here().exit_code == 0
    assert not differences(undisturbed, daily.tables())


def test_a_database_without_tables_says_what_to_run(make_run: MakeRun, empty_database_url: str) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)
    daily.database_url = empty_database_url

    ran = daily.here()

    assert ran.exit_code == 1
    assert "predictbench db upgrade" in ran.said["reason"]
    with psycopg.connect(
        make_url(empty_database_url).set(drivername="postgresql").render_as_string(False)
    ) as connection:
        assert connection.execute("SELECT to_regnamespace('predictbench')").fetchone() == (None,)
