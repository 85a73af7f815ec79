"""What experiments took, out of the ledger of paid calls and the usage of results: each dollar once."""

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine

from predictbench_assets.experiments.protocol import Usage
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.costs import Cost, RunCost
from predictbench_assets.scoring.store.boards import (
    content_hash,
    encoded_leaderboard,
    rebuild_leaderboard,
    store_leaderboard,
)
from predictbench_assets.scoring.store.boards import stored_leaderboard as stored
from predictbench_assets.scoring.store.costs import load_calls, load_costs
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, open_run, record, result
from predictbench_assets_tests.kit.planted_calls import pay

LATER = NOW + timedelta(days=1)
NEXT = RunKey(date(2026, 2, 3), 7)


def costs(engine: Engine, **how: Any) -> Mapping[tuple[date, str], Cost]:
    return {(one.run_date, one.experiment): one.cost for one in load_costs(engine, LATER, **how)}


def store(engine: Engine, *said: tuple[int, Usage | None], key: RunKey = KEY, **changes: Any) -> None:
    """Store a run in which `paid` forecast markets, and took something for each."""
    lease = open_run(engine, key)
    writer = RunWriter(engine, lease, lease.clock)
    content = str(changes)
    forecasts = [
        record(number, result(), result("paid", usage=usage, **changes), captured_at=NOW) for number, usage in said
    ]
    writer.write(forecasts, [attempt(content=content), attempt("paid", content)])
    writer.finish(RunCounts(len(said), 0, 0, 0, len(said)), "completed")


def test_an_empty_database_has_no_costs(engine: Engine) -> None:
    assert load_costs(engine, LATER) == []


def test_the_ledger_is_added_up_by_status_and_what_nobody_knows_counts_as_reserved(engine: Engine) -> None:
    pay(engine, times=10)
    pay(engine, "refused")
    pay(engine, "truncated", cost=Decimal("0.0150"))
    pay(engine, "failed", times=3)
    pay(engine, "unknown", times=2)
    pay(engine, "invalid", cost=None)
    pay(engine, key=NEXT)
    # 12 x 0.005 less the truncated one's, and its own: 11 x 0.005 + 0.015.
    assert costs(engine)[KEY.run_date, "mini"] == Cost(
        requests=18,
        calls={"answered": 10, "failed": 3, "invalid": 1, "refused": 1, "truncated": 1, "unknown": 2},
        settled={"USD": Decimal("0.0700")},
        reserved=Decimal("0.0400"),
        unpriced=1,
        tokens={"input": 13_000, "cached": 5_200, "output": 2_600, "reasoning": 650},
    )
    assert costs(engine)[KEY.run_date, "mini"].usd == Decimal("0.11")
    assert costs(engine)[NEXT.run_date, "mini"].usd == Decimal("0.005")
    assert set(costs(engine, since=NEXT.run_date)) == {(NEXT.run_date, "mini")}
    assert set(costs(engine, until=KEY.run_date)) == {(KEY.run_date, "mini")}
    assert load_calls(engine, LATER, RunKey(KEY.run_date, 30)) == []
    assert [one.cost.usd for one in load_calls(engine, LATER, NEXT)] == [Decimal("0.005")]


def test_a_call_that_was_answered_later_is_an_unknown_one_at_that_moment(engine: Engine) -> None:
    pay(engine, times=3)
    asked, answered = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)
    [then] = load_costs(engine, answered - timedelta(seconds=1))
    assert then.cost == Cost(requests=3, calls={"unknown": 3}, reserved=Decimal("0.06"))
    [now] = load_costs(engine, answered)
    assert now.cost.usd == Decimal("0.015")
    assert load_costs(engine, asked - timedelta(seconds=1)) == []


def test_an_answer_of_the_journal_is_paid_for_once_and_one_asked_again_twice(engine: Engine) -> None:
    usage = Usage(requests=2, input_tokens=100, output_tokens=30, cost=Decimal("0.25"))
    store(engine, (1, usage), (2, usage))
    store(engine, (1, usage), (2, usage), payload={"another": "attempt"})
    once = costs(engine)[KEY.run_date, "paid"]
    assert once == Cost(forecasts=2, requests=4, settled={"USD": Decimal("0.50")}, tokens={"input": 200, "output": 60})
    store(engine, (1, usage), forecast_at=NOW + timedelta(hours=1))
    assert costs(engine)[KEY.run_date, "paid"].usd == Decimal("0.75")
    assert costs(engine)[KEY.run_date, "paid"].forecasts == 2


def test_currencies_are_never_added_and_what_has_no_price_is_counted(engine: Engine) -> None:
    store(
        engine,
        (1, Usage(cost=Decimal("0.10"))),
        (2, Usage(cost=Decimal("0.20"), currency="EUR")),
        (3, Usage(cost=Decimal("0.30"), currency="EUR")),
        (4, Usage(input_tokens=7)),
        (5, None),
    )
    [line] = load_costs(engine, LATER)
    assert line == RunCost(
        KEY.run_date,
        7,
        "paid",
        "1",
        Cost(
            forecasts=4,
            settled={"USD": Decimal("0.10"), "EUR": Decimal("0.50")},
            unpriced=1,
            tokens={"input": 7},
        ),
    )


def test_the_usage_of_results_is_a_part_of_what_the_ledger_has(engine: Engine) -> None:
    store(engine, (1, Usage(requests=1, cost=Decimal("0.005"))), (2, Usage(requests=1, cost=Decimal("0.005"))))
    pay(engine, times=3, experiment="paid")  # one of them was never stored
    assert costs(engine)[KEY.run_date, "paid"].usd == Decimal("0.015")
    assert costs(engine)[KEY.run_date, "paid"].forecasts == 2


def test_a_board_has_the_costs_of_its_moment_and_one_without_any_keeps_its_hash(engine: Engine) -> None:
    store(engine, (1, None), (2, None))
    free = rebuild_leaderboard(engine, LATER)
    assert free.costs == ()
    assert b"costs" not in encoded_leaderboard(free)
    pay(engine, times=4)
    store(engine, (1, Usage(cost=Decimal("0.30"))), (2, Usage(cost=Decimal("0.10"))), key=NEXT)
    board = rebuild_leaderboard(engine, LATER)
    found = {one.experiment: (one.days, one.usd, one.usd_per_day, one.usd_per_forecast) for one in board.costs}
    assert found == {"mini": (1, 0.02, 0.02, None), "paid": (1, 0.4, 0.4, 0.2)}
    store_leaderboard(engine, board, LATER)
    assert stored(engine, LATER) == board
    assert content_hash(rebuild_leaderboard(engine, LATER)) == content_hash(board)
