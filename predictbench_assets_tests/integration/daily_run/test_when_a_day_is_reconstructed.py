"""Reconstructed days in runs: when one is made, what it never replaces, and what an exchange that is unwell leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from uuid import uuid4

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.engine import make_engine
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.exchanges.polymarket.reconstruction import PricesMissing
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.ingestion.snapshot import SNAPSHOT, FrozenSnapshot, NoSnapshot, freeze
from predictbench_assets.persistence.leases import record_missed
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.snapshots import SnapshotOfAnotherKind
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, DailyRun, MakeRun, Tables, differences

LATER = NOW + timedelta(days=20)
LATE = {"PREDICTBENCH_NOW": LATER.isoformat(), "PROCESSING_EXPERIMENTS": BASELINE}
RECONSTRUCT = {"raw_markets": {"reconstruct": True}}


@contextmanager
def stages(daily: DailyRun, now: datetime, **variables: str) -> Iterator["Stages"]:
    """The first stages of a run at an instant, without Dagster around them."""
    given = daily.environment(daily.folder / "summary.json", {"PREDICTBENCH_NOW": now.isoformat(), **variables})
    settings = load_settings(
        **{name.lower(): value for name, value in given.items() if name != "PREDICTBENCH_ENV_FILE"}
    )
    database = RunDatabase(settings)
    try:
        yield Stages(daily, database, settings, now)
    finally:
        database.engine.dispose()


class Stages:
    def __init__(self, daily: DailyRun, database: RunDatabase, settings: Settings, now: datetime) -> None:
        self.daily, self.database, self.settings, self.now = daily, database, settings, now
        self.writer = ""

    def freeze(self, key: RunKey = KEY, *, reconstruct: bool = True, refresh: bool = False) -> FrozenSnapshot:
        self.writer = uuid4().hex
        self.database.open(key, self.writer)
        return freeze(
            configured_exchange(self.settings),
            self.daily.staging,
            self.database,
            key,
            today=self.now.date(),
            dagster_run_id=self.writer,
            refresh=refresh,
            as_of=key.at(NOW.timetz()) if reconstruct else None,
        )


def live(daily: DailyRun) -> list[tuple[object, ...]]:
    return daily.rows("SELECT content_hash, as_of, refused FROM predictbench.snapshots WHERE superseded_at IS NULL")


@pytest.fixture
def small(make_run: MakeRun) -> DailyRun:
    return make_run(World(markets_per_day=12), PROCESSING_EXPERIMENTS=BASELINE)


def test_a_missed_day_can_be_reconstructed_and_says_so(small: DailyRun) -> None:
    record_missed(
        make_engine(small.database_url, pool_size=0),
        [KEY],
        reason="the schedule was late",
        holder="host:1",
        exchange="localhost",
        git_sha=None,
        clock=FixedClock(NOW + timedelta(days=1)),
    )
    small.sandbox.set_time(LATER)

    ran = small.here(ops=RECONSTRUCT, PREDICTBENCH_NOW=LATER.isoformat())

    assert ran.exit_code == 0, ran.said["reason"]
    assert small.run_row("status", "as_of") == ("completed", NOW)
    assert ran.said["snapshot"]["as_of"] == "2026-03-02T07:00:00Z"
    left_out = ran.said["snapshot"]["left_out"]
    assert left_out == ran.metadata("raw_markets")["left_out"]
    assert left_out["closed before"] > 0
    assert small.rows("SELECT DISTINCT price_quality, reconstructed, core FROM predictbench.processed_markets"
                      " WHERE core") == [("history", True, True)]  # fmt: skip


def test_a_captured_day_stays_captured(small: DailyRun) -> None:
    assert small.here().exit_code == 0
    before = live(small)
    small.sandbox.set_time(LATER)
    with stages(small, LATER) as late:
        assert late.freeze().reused
        with pytest.raises(NoSnapshot, match="a refresh of"):
            late.freeze(refresh=True)
    assert live(small) == before


def test_a_reconstructed_day_stays_so_whatever_the_clock_says(small: DailyRun) -> None:
    soon = NOW + timedelta(days=1)
    small.sandbox.set_time(soon)
    with stages(small, soon) as late:
        made = late.freeze()
        again = late.freeze(reconstruct=False)
    assert (made.reused, again.reused) == (False, True)
    assert made.file.sha256 == again.file.sha256
    before = live(small)
    with stages(small, NOW) as early, pytest.raises(SnapshotOfAnotherKind, match="was reconstructed"):
        early.freeze(refresh=True)
    assert live(small) == before


@pytest.mark.parametrize("hour", [5, 9], ids=["before the hour", "after the hour"])
def test_today_is_captured_and_never_reconstructed(small: DailyRun, hour: int) -> None:
    now = NOW.replace(hour=hour)
    if hour > NOW.hour:
        small.sandbox.set_time(now)
    with stages(small, now) as today:
        header = today.freeze().file.header(SnapshotHeader)
    assert (header.as_of, header.captured_at) == (None, now)


def test_a_day_to_come_is_neither_captured_nor_reconstructed(small: DailyRun) -> None:
    tomorrow = RunKey(date(2026, 3, 3), 7)
    with stages(small, NOW) as today, pytest.raises(NoSnapshot, match="is of the future"):
        today.freeze(tomorrow)
    assert not small.sandbox.requests


def test_what_a_check_refused_is_read_again_if_it_was_captured_and_made_again_if_not(small: DailyRun) -> None:
    with stages(small, NOW) as today:
        captured = today.freeze().file
        today.database.refuse(KEY, captured.sha256, "too few", today.writer)
    small.sandbox.set_time(LATER)
    with stages(small, LATER) as late:
        assert late.freeze().file.sha256 == captured.sha256
        other = RunKey(date(2026, 3, 4), 7)
        first = late.freeze(other).file
        late.database.refuse(other, first.sha256, "too few", late.writer)
        again = late.freeze(other)
    assert not again.reused


# A process that is killed

CLIENT = "predictbench_assets.exchanges.polymarket.client:PolymarketClient"
KEPT = "predictbench_assets.exchanges.polymarket.kept_listings:KeptListings"


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun) -> Tables:
    """What the run of a reconstructed day leaves in the database."""
    daily = make_run(**LATE)
    daily.sandbox.set_time(LATER)
    assert daily.here().exit_code == 0
    return daily.tables()


@pytest.mark.parametrize(
    ("point", "walked_again"),
    [
        (f"{CLIENT}._read_page:after:3", True),
        (f"{KEPT}.keep:after:1", False),
        (f"{CLIENT}._histories_of:after:1", False),
        ("predictbench_assets.persistence.snapshots:register_snapshot:before:1", False),
    ],
    ids=["in the walk", "when the listing is kept", "in the histories", "before it is registered"],
)
def test_a_killed_reconstruction_is_none_and_the_next_run_goes_on_from_its_listing(
    make_run: MakeRun, undisturbed: Tables, point: str, walked_again: bool
) -> None:
    daily = make_run(**LATE)
    daily.sandbox.set_time(LATER)
    assert daily.forked(killed_at=point).exit_code == -signal.SIGKILL
    assert live(daily) == []
    walks = daily.sandbox.requests["GET /markets/keyset"]

    assert daily.here().exit_code == 0

    assert not differences(undisturbed, daily.tables())
    assert (daily.sandbox.requests["GET /markets/keyset"] > walks) == walked_again


# An exchange that is unwell


def test_a_day_without_a_market_fails_for_now(make_run: MakeRun) -> None:
    empty = make_run(World(markets_per_day=0), **LATE)
    empty.sandbox.set_time(LATER)
    ran = empty.here()
    assert (ran.exit_code, ran.said["stage"], empty.run_row("status")) == (1, "raw_markets", "failed")
    assert "lists no market" in ran.said["reason"]
    assert (live(empty), empty.count("processed_markets")) == ([], 0)


@pytest.mark.parametrize("faults", ["http500=0.03,http429=0.01,reset=0.01,retry_after=0", "truncate=0.03,repeat=0.02"])
def test_faults_on_the_way_change_nothing(make_run: MakeRun, faults: str) -> None:
    world = World(markets_per_day=40)
    hashes = set()
    for wrong in ("", faults):
        daily = make_run(world, faults=wrong, seed=3)
        daily.sandbox.set_time(LATER)
        with stages(daily, LATER, POLYMARKET_MAX_ATTEMPTS="9") as late:
            hashes.add(late.freeze().file.sha256)
        assert bool(daily.sandbox.injected) == bool(wrong)
    assert len(hashes) == 1


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["the route is gone", "half of the tokens"])
def test_a_history_that_does_not_answer_leaves_no_half_of_a_day(make_run: MakeRun, share: float) -> None:
    daily = make_run(World(markets_per_day=40))
    daily.sandbox.set_time(LATER)
    daily.sandbox.app.histories_answered = share
    with stages(daily, LATER) as late:
        with pytest.raises(PricesMissing) as failed:
            late.freeze()
        assert isinstance(failed.value, PredictbenchError)
        assert (live(daily), daily.staging.list("snapshots")) == ([], [])
        daily.sandbox.app.histories_answered = 1.0
        made = late.freeze().file
    whole = make_run(World(markets_per_day=40))
    whole.sandbox.set_time(LATER)
    with stages(whole, LATER) as late:
        assert late.freeze().file.sha256 == made.sha256
    assert daily.staging.open_uri(made.uri, SNAPSHOT).sha256 == made.sha256


def test_tokens_that_batches_leave_out_are_asked_about_one_by_one(make_run: MakeRun) -> None:
    hashes = []
    for share in (1.0, 0.5):
        daily = make_run(World(markets_per_day=40))
        daily.sandbox.set_time(LATER)
        daily.sandbox.app.histories_answered, daily.sandbox.app.answers_singly = share, True
        with stages(daily, LATER) as late:
            hashes.append(late.freeze().file.sha256)
        assert bool(daily.sandbox.requests["GET /clob/prices-history"]) == (share < 1)
    assert len(set(hashes)) == 1
