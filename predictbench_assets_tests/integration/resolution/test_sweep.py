"""The sweep against an exchange that settles, corrects itself, forgets and falls silent."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from predictbench_assets.persistence.leases import ForeignExchange
from predictbench_assets.resolution.ledger import LEDGER_LOCK
from predictbench_assets.resolution.sweep import ROUND, SweepInterrupted
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import Market, Settlement, World
from predictbench_assets_tests.kit.sweeps import NOW, Swept

DAYS = timedelta(days=1)
AFTER = 10 * DAYS
"""Nearly all markets of the cohort have settled by then."""
NOWHERE = "http://127.0.0.1:9"


def opposite(market: Market) -> tuple[float, float]:
    first, second = market.settlement.payout
    return second, first


def test_every_market_settles_as_the_exchange_says(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    report = swept.at(40 * DAYS)
    found = swept.rows("SELECT market_id, state, outcome, closed_time FROM market_resolutions")
    truth = [(one.market_id, "final", one.settlement.payout[0], one.settlement.closed) for one in cohort]
    assert sorted((*row[:3], int(row[3].timestamp())) for row in found) == sorted(truth)
    assert report.states == {"final": len(cohort)}
    assert report.looked_at == report.became_final == report.observations == len(cohort)
    assert (report.remaining, report.vanished, report.unreadable, report.changed) == (0, 0, 0, ())
    assert report.requests == swept.asked() <= 2 + len(cohort) // 40 + 5


def test_states_follow_the_oracle_until_a_market_is_final(swept: Swept, one: Market) -> None:
    ends = one.ends
    steps = ((ends + 3600, "proposed"), (ends + 7200, "disputed"))
    swept.world.settle(one.market_id, Settlement(ends + 86_400, (0.0, 1.0), steps))
    swept.store([one])
    seen = []
    for hours in (0, 1, 2, 23, 24):
        swept.at(datetime.fromtimestamp(ends, UTC) + timedelta(hours=hours) - NOW)
        seen.append(swept.resolution(one.market_id))
    assert seen == [
        ("open", None, "gamma"),
        ("proposed", None, "gamma"),
        ("disputed", None, "gamma"),
        ("disputed", None, "gamma"),
        ("final", 0.0, "gamma"),
    ]
    assert swept.observations() == 4, "the second look at the dispute said nothing new"
    [(checks,)] = swept.rows("SELECT checks FROM resolution_checks")
    assert checks == 5


def test_a_sweep_that_is_run_again_adds_nothing(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    swept.at(AFTER)
    before = swept.rows("SELECT * FROM resolution_observations ORDER BY observation_id")
    report = swept.again()
    assert swept.rows("SELECT * FROM resolution_observations ORDER BY observation_id") == before
    assert (report.observations, report.became_final, report.looked_at) == (0, 0, len(cohort))
    assert {checks for (checks,) in swept.rows("SELECT checks FROM resolution_checks")} == {2}


def test_what_was_seen_later_is_not_taken_back_by_a_sweep_of_an_earlier_day(swept: Swept, cohort: list[Market]) -> None:
    seen = "SELECT market_id, observed_at, state FROM resolution_observations"
    *early, late = cohort
    swept.store(early)
    swept.at(40 * DAYS)
    before = set(swept.rows(seen))
    swept.store([late])
    with serve(swept.world, now=NOW + 2 * DAYS) as of_before:
        report = Swept(swept.engine, of_before, swept.world).again()
    assert (report.looked_at, report.changed) == (1, ())
    assert {market for market, _, _ in set(swept.rows(seen)) - before} == {late.market_id}


def test_an_observation_is_as_of_its_answer_not_of_its_question(swept: Swept, cohort: list[Market]) -> None:
    class SecondPerRequest:
        def now(self) -> datetime:
            return began + swept.asked() * timedelta(seconds=1)

    swept.store(cohort)
    began = NOW + AFTER
    swept.exchange.set_time(began)
    report = swept.again(moving=SecondPerRequest())
    assert report.requests > 0
    observed = {at for (at,) in swept.rows("SELECT observed_at FROM resolution_observations")}
    assert observed == {began + report.requests * timedelta(seconds=1)}, "a board of before must not know them"


def test_what_the_budget_does_not_reach_comes_first_the_next_time(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    first, second = (swept.at(AFTER + hours * timedelta(hours=1), max_requests=1) for hours in range(2))
    assert first.requests == second.requests == 1
    # One request is about forty markets; those of the first one that are open are left for a second one.
    assert 30 < first.looked_at <= 40
    assert first.remaining == len(cohort) - first.looked_at
    [(seen,)] = swept.rows("SELECT count(*) FROM resolution_checks")
    assert seen > len(cohort) - 5
    swept.at(AFTER + DAYS)
    assert swept.rows("SELECT count(*) FROM resolution_checks") == [(len(cohort),)]


def test_a_limit_is_kept(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    first = swept.at(AFTER, limit=10)
    assert (first.looked_at, first.remaining) == (10, len(cohort) - 10)
    swept.again(limit=10)
    assert swept.rows("SELECT count(*), max(checks) FROM resolution_checks") == [(20, 1)]


def test_a_sweep_that_is_stopped_has_stored_its_rounds(swept: Swept) -> None:
    markets = [one for day in range(9, 16) for one in swept.world.day(NOW.date().replace(day=day)).markets]
    markets = [one for one in markets if one.created <= NOW.timestamp()][: ROUND + 30]
    assert len(markets) > ROUND
    swept.store(markets)

    def stop(done: int, total: int) -> None:
        assert (done, total) == (ROUND, len(markets))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept.at(20 * DAYS, on_progress=stop)
    assert swept.rows("SELECT count(*), max(checks) FROM resolution_checks") == [(ROUND, 1)]
    rest = swept.again(limit=len(markets) - ROUND)
    assert swept.rows("SELECT count(*), max(checks) FROM resolution_checks") == [(len(markets), 1)]
    assert rest.looked_at == len(markets) - ROUND


def test_a_changed_settlement_supersedes_and_the_old_one_stays(swept: Swept, cohort: list[Market], one: Market) -> None:
    swept.store(cohort)
    swept.at(AFTER)
    swept.exchange.settle(one.market_id, opposite(one))
    report = swept.again()  # at the very same time: the newest still wins
    before, after = one.settlement.payout[0], one.settlement.payout[1]
    assert swept.resolution(one.market_id) == ("final", after, "gamma")
    assert report.observations == 1
    [change] = report.changed
    assert change.market_id == one.market_id
    assert change.before != change.now
    outcomes = (
        "SELECT outcome FROM resolution_observations WHERE market_id = :id AND state = 'final' ORDER BY observed_at"
    )
    assert swept.rows(outcomes, id=one.market_id) == [(before,), (after,)]
    times = swept.rows("SELECT observed_at FROM resolution_observations WHERE market_id = :id", id=one.market_id)
    assert len(set(times)) == len(times)


@pytest.mark.parametrize("payout", ['["x", null]', "7", '{"a": 1}', "[" + "9" * 5000 + "]"])
def test_a_stored_payout_that_cannot_be_read_costs_its_market_alone_a_second_look(
    swept: Swept, cohort: list[Market], one: Market, payout: str, caplog: pytest.LogCaptureFixture
) -> None:
    swept.store(cohort)
    swept.at(AFTER)
    swept.rows(
        "UPDATE resolution_observations SET payout = cast(:payout AS jsonb) WHERE market_id = :id AND state = 'final'"
        " RETURNING 1",
        id=one.market_id,
        payout=payout,
    )
    report = swept.again()
    assert report.looked_at == len(cohort)
    assert report.observations == 1
    assert [change.market_id for change in report.changed] == [one.market_id]
    assert f"the stored payout of market {one.market_id} cannot be read" in caplog.text
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")
    assert swept.again().observations == 0


def test_a_settlement_that_is_taken_back_is_open_again(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.at(AFTER)
    swept.exchange.settle(one.market_id, None)
    report = swept.again()
    state = swept.resolution(one.market_id)
    assert state is not None
    assert state[0] in ("open", "proposed")
    assert [change.now for change in report.changed] == [state[0]]
    swept.exchange.settle(one.market_id, (0.5, 0.5))
    assert swept.again().splits == 1
    assert swept.resolution(one.market_id) == ("final", 0.5, "gamma")


def test_final_markets_are_looked_at_for_thirty_days_more(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.at(AFTER)
    assert swept.at(AFTER + 30 * DAYS - timedelta(minutes=1)).looked_at == 1
    asked = swept.asked()
    assert swept.at(AFTER + 30 * DAYS).queued == 0
    assert swept.asked() == asked


def test_a_split_is_read_however_gamma_writes_it(swept: Swept, cohort: list[Market]) -> None:
    half, whole, *_ = swept.store(cohort)
    swept.exchange.settle(half, (0.5, 0.5))
    swept.exchange.settle(whole, (1, 1))
    assert swept.again(NOW + AFTER).splits == 2
    for market_id in (half, whole):
        assert swept.resolution(market_id) == ("final", 0.5, "gamma")
    rows = swept.rows("SELECT raw #>> '{gamma,outcomePrices}' FROM resolution_observations WHERE outcome = 0.5")
    assert {written for (written,) in rows} == {'["0.5","0.5"]', '["1","1"]'}


def test_the_clob_is_asked_where_gamma_cannot_be_read_or_takes_something_back(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.exchange.settle(one.market_id, (0, 1), gamma=(0, 0))
    report = swept.again(NOW + AFTER)
    assert swept.resolution(one.market_id) == ("final", 0.0, "clob")
    assert (report.unreadable, report.became_final) == (0, 1)
    # Gamma says something else now; the CLOB, which pays, does not.
    swept.exchange.settle(one.market_id, (0, 1), gamma=(1, 0))
    for _ in range(2):
        assert swept.again(NOW + AFTER).observations == 0
    assert swept.resolution(one.market_id) == ("final", 0.0, "clob")
    assert swept.problem(one.market_id) == "Gamma says 1/0, the CLOB 0/1; the CLOB is believed"


def test_a_closed_market_without_a_payout_waits(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.exchange.settle(one.market_id, (0.9999, 0.0001))
    report = swept.again(NOW + AFTER)
    state = swept.resolution(one.market_id)
    assert state is not None
    assert state[0] != "final"
    assert report.unreadable == 1
    assert "is no settlement" in str(swept.problem(one.market_id))


def test_without_the_clob_settlements_are_found_but_none_is_taken_back(
    swept: Swept, cohort: list[Market], one: Market
) -> None:
    swept.store(cohort)
    swept.at(AFTER)
    swept.exchange.settle(one.market_id, opposite(one))
    report = swept.again(clob_url=NOWHERE, max_attempts=1)
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")
    assert (report.observations, report.remaining) == (0, 1)
    assert "CLOB" in report.problems[0]
    assert swept.again().observations == 1


@pytest.mark.parametrize("condition", [None, "", "0xno", "0x" + "0" * 64])
def test_a_market_without_a_usable_condition_is_followed_by_its_id(
    swept: Swept, one: Market, condition: str | None
) -> None:
    swept.store([one], condition=condition)
    swept.at(AFTER)
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")
    assert "GET /markets/{}" in swept.exchange.requests


def test_a_market_that_vanished_is_noted_and_given_up_in_the_end(
    swept: Swept, cohort: list[Market], one: Market
) -> None:
    swept.store(cohort)
    swept.exchange.settle(one.market_id, vanish=True)
    report = swept.at(AFTER)
    assert report.vanished == 1
    assert swept.resolution(one.market_id) is None
    assert "does not know it any more" in str(swept.problem(one.market_id))

    report = swept.at(datetime.fromtimestamp(one.ends, UTC) + 60 * DAYS - NOW)
    assert (report.vanished, report.gave_up) == (1, 1)
    assert swept.resolution(one.market_id) == ("gave_up", None, "gamma")
    assert one.market_id not in asked_again(swept)


def asked_again(swept: Swept) -> set[str]:
    """The markets that another sweep would look at."""
    before = dict(swept.rows("SELECT market_id, checks FROM resolution_checks"))
    swept.again()
    after = dict(swept.rows("SELECT market_id, checks FROM resolution_checks"))
    return {market_id for market_id, checks in after.items() if checks != before.get(market_id)}


def test_a_final_market_that_vanishes_stays_final(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.at(AFTER)
    swept.exchange.settle(one.market_id, vanish=True)
    assert swept.again().vanished == 1
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")


def test_a_market_that_never_settles_is_given_up_after_sixty_days(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept.exchange.settle(one.market_id, None)
    close = datetime.fromtimestamp(one.ends, UTC) - NOW
    assert swept.at(close + 60 * DAYS - timedelta(seconds=1)).gave_up == 0
    assert swept.at(close + 60 * DAYS).gave_up == 1
    swept.exchange.settle(one.market_id, (1, 0))
    asked = swept.asked()
    assert swept.at(close + 61 * DAYS).queued == 0
    assert swept.asked() == asked
    assert swept.resolution(one.market_id) == ("gave_up", None, "gamma")


def test_a_late_settlement_that_is_taken_back_is_asked_about_once_more(swept: Swept, one: Market) -> None:
    swept.store([one])
    close = datetime.fromtimestamp(one.ends, UTC) - NOW
    assert swept.at(close + 45 * DAYS).became_final == 1
    swept.exchange.settle(one.market_id, None)
    assert swept.at(close + 61 * DAYS).gave_up == 0
    assert swept.at(close + 62 * DAYS).gave_up == 1


def test_one_that_settled_in_the_meantime_is_not_given_up(swept: Swept, one: Market) -> None:
    swept.store([one])
    assert swept.at(70 * DAYS).gave_up == 0
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")


def test_before_its_close_a_market_is_looked_at_every_second_day(swept: Swept, one: Market) -> None:
    swept.store([one])
    queued = [swept.at(hours * timedelta(hours=1)).queued for hours in (1, 25, 49, 73, 97)]
    assert queued == [0, 0, 1, 0, 1]
    swept.exchange.settle(one.market_id, (1, 0))
    assert swept.at(timedelta(hours=145)).became_final == 1, "it has closed before its day"


def test_the_outcome_is_that_of_the_outcome_that_was_forecast(swept: Swept, one: Market) -> None:
    swept.store([one], turned=True)
    swept.at(AFTER)
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[1], "gamma")


def test_an_exchange_that_falls_silent_costs_what_it_did_not_answer(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    swept.exchange.set_faults("http500=1")
    with pytest.raises(SweepInterrupted, match="predictbench resolve") as failed:
        swept.at(AFTER)
    assert failed.value.report.remaining == len(cohort)
    assert swept.rows("SELECT count(*) FROM resolution_checks") == [(0,)]
    swept.exchange.set_faults("")
    assert swept.again().remaining == 0


def test_a_faulty_exchange_gives_the_same_ledger(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    swept.exchange.set_faults("http500=0.15,http429=0.1,reset=0.1,truncate=0.1,html403=0.05")
    for _ in range(3):
        swept.at(40 * DAYS, max_attempts=12)
    assert swept.resolution(cohort[0].market_id) is not None
    final = swept.rows("SELECT market_id, outcome FROM resolution_observations WHERE state = 'final'")
    assert sorted(final) == sorted((one.market_id, one.settlement.payout[0]) for one in cohort)


def test_a_sweep_waits_for_the_observations_of_another(swept: Swept, one: Market) -> None:
    """Both have found the market final; the one that comes second sees that it is known."""
    swept.store([one])
    swept.exchange.set_time(NOW + AFTER)
    with ThreadPoolExecutor(1) as threads:
        with swept.engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": LEDGER_LOCK})
            other = threads.submit(swept.again)
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            deadline = time.monotonic() + 10
            while connection.execute(waiting).scalar_one() == 0:
                assert time.monotonic() < deadline
                assert not other.done(), "it did not wait"
                time.sleep(0.01)
            connection.execute(text(FINAL), {"id": one.market_id, "now": NOW + AFTER - DAYS, **said(one)})
        assert other.result().observations == 0
    assert swept.observations(one.market_id) == 1


FINAL = """
    INSERT INTO predictbench.resolution_observations
        (market_id, observed_at, source, state, status, payout, outcome, closed_time)
    VALUES (:id, :now, 'gamma', 'final', 'resolved', cast(:payout AS jsonb), :outcome, :closed)
"""


def said(market: Market) -> dict[str, object]:
    """What Gamma says of a settled market, as parameters."""
    payout = market.settlement.payout
    closed = datetime.fromtimestamp(market.settlement.closed, UTC)
    return {"payout": str(list(payout)), "outcome": payout[0], "closed": closed}


def test_another_exchanges_database_is_refused(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    with pytest.raises(ForeignExchange, match="gamma-api"):
        swept.again(exchange="gamma-api.polymarket.com")
    assert swept.asked() == 0


def test_an_empty_database_needs_no_request(swept: Swept) -> None:
    report = swept.at(AFTER)
    assert (report.queued, report.requests) == (0, 0)


def test_an_older_sandbox_of_the_same_seed_gives_the_same_answer(swept: Swept, one: Market) -> None:
    """What was settled by hand belongs to the exchange that was told, not to its seed."""
    swept.exchange.settle(one.market_id, opposite(one))
    with serve(World(7, 60), now=NOW + AFTER) as other:
        swept.store([one])
        swept.exchange = other
        swept.again()
    assert swept.resolution(one.market_id) == ("final", one.settlement.payout[0], "gamma")
