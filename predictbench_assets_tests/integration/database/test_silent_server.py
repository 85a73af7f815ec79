"""A server that takes everything and answers nothing: every wait ends with the setting's name, or with the signal."""

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import psycopg2
import psycopg2.extensions
import pytest
from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.ad_hoc import SqlError, answers
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import Backoff, DatabaseUnavailable, classified, in_transaction
from predictbench_assets.database.patience import Patience, PatientConnection
from predictbench_assets.instance.storage import limit_waits
from predictbench_assets.persistence.pipelining import Statement, run_transactions
from predictbench_assets_tests.kit.relay import Relay, relay_to

SILENT = r"the server has not answered for 0\.2 s \(DB_TIMEOUT_SECONDS\)"


@pytest.fixture
def relay(database_url: str) -> Iterator[Relay]:
    with relay_to(database_url) as made:
        yield made


@pytest.fixture
def patience() -> Patience:
    return Patience(0.2)


@pytest.fixture
def engine(relay: Relay, patience: Patience) -> Iterator[Engine]:
    made = make_engine(relay.url, patience=patience)
    yield made
    made.dispose()


def one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


def test_a_statement_is_given_up_and_the_next_one_gets_a_new_connection(engine: Engine, relay: Relay) -> None:
    with (  # noqa: PT012 - the block is what is left
        pytest.raises(DatabaseUnavailable, match=SILENT),
        classified(),
        engine.begin() as connection,
    ):
        assert one(connection) == 1
        relay.freeze()
        one(connection)
    relay.thaw()
    assert in_transaction(engine, one) == 1


def test_giving_a_connection_back_and_taking_it_again_do_not_wait_either(engine: Engine, relay: Relay) -> None:
    assert in_transaction(engine, one) == 1
    relay.freeze()
    with pytest.raises(DatabaseUnavailable, match="connection timeout expired"):
        in_transaction(engine, one, Backoff(attempts=1))


def test_pipelined_transactions_are_given_up(engine: Engine, relay: Relay) -> None:
    with engine.connect() as connection:
        driver = connection.execution_options(isolation_level="AUTOCOMMIT").connection.driver_connection
        assert isinstance(driver, PatientConnection)
        [outcome] = run_transactions(driver, [[Statement(b"SELECT 1")]])
        assert outcome.row == (b"1",)
        relay.freeze()
        with pytest.raises(DatabaseUnavailable, match=SILENT), classified():
            run_transactions(driver, [[Statement(b"SELECT 1")]])
        connection.invalidate()


def test_what_a_person_asks_is_given_up(relay: Relay, patience: Patience) -> None:
    given = answers(make_engine(relay.url).url, "SELECT 1; SELECT 2", patience=patience)
    assert list(next(given).rows) == [("1",)]
    relay.freeze()
    with pytest.raises(SqlError, match=SILENT):
        next(given)


def test_a_server_that_was_silent_is_given_little_time_until_it_answers(engine: Engine, relay: Relay) -> None:
    patience = Patience(100)
    assert patience.seconds == 100
    assert "for 100 s (DB_TIMEOUT_SECONDS)" in str(patience.exhausted())
    assert patience.seconds == 10
    assert "for 110 s" in str(patience.exhausted())
    patience.answered()
    assert patience.seconds == 100
    patience.hurry()
    assert patience.seconds <= 3


def test_a_process_that_was_asked_to_end_opens_nothing_any_more(engine: Engine, patience: Patience) -> None:
    patience.hurry()
    assert in_transaction(engine, one) == 1, "a server that answers is still asked"
    patience._end = 0.0
    engine.dispose()
    with pytest.raises(DatabaseUnavailable, match="did not answer in the 3 s that were left"):
        in_transaction(engine, one, Backoff(attempts=1))


class Stopped(BaseException):
    """As Dagster and the command line leave a block."""


@pytest.mark.parametrize("pooled", [False, True], ids=["statement", "ping"])
def test_a_signal_is_heard_at_once_and_leaves_as_itself(relay: Relay, *, pooled: bool) -> None:
    engine = make_engine(relay.url, patience=Patience(600))

    def stop(_: int, __: FrameType | None) -> None:
        raise Stopped

    def when_it_waits() -> None:
        relay.held.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    assert in_transaction(engine, one) == 1
    before = signal.signal(signal.SIGUSR1, stop)
    waiting = threading.Thread(target=when_it_waits)
    try:
        with pytest.raises(Stopped):  # noqa: PT012 - the block is what is left
            if pooled:
                relay.freeze()
                waiting.start()
                in_transaction(engine, one)
            else:
                with engine.begin() as connection:
                    one(connection)
                    relay.freeze()
                    waiting.start()
                    one(connection)
    finally:
        waiting.join()
        signal.signal(signal.SIGUSR1, before)
    relay.thaw()
    assert in_transaction(engine, one) == 1
    engine.dispose()


def test_dagsters_own_driver_gives_up_too(relay: Relay) -> None:
    limit_waits(0.2)
    try:
        url = relay.url.replace("postgresql+psycopg", "postgresql")
        connection = psycopg2.connect(url)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)
            relay.freeze()
            with pytest.raises(psycopg2.OperationalError, match=SILENT):
                cursor.execute("SELECT 1")
        assert connection.closed
        with pytest.raises(psycopg2.OperationalError, match=SILENT):
            psycopg2.connect(url)
    finally:
        psycopg2.extensions.set_wait_callback(None)
