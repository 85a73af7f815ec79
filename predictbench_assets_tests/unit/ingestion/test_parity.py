"""What a comparison of a reconstructed cohort with a captured one counts, and what it tolerates."""

from datetime import timedelta
from typing import Any

import pytest

from predictbench_assets.exchanges.exchange import NO_PRICE
from predictbench_assets.ingestion.parity import Parity, compare
from predictbench_assets.markets.market import Market, MarketPrice
from predictbench_assets_tests.kit.builders import KEY, market


def priced(number: int, value: float | None, quality: str = "good", **changes: Any) -> Market:
    price = MarketPrice.model_construct(value=value, quality=quality)
    return market(number, **({"price": price, "cluster": f"c{number}"} | changes))


def cohort(count: int, **changes: Any) -> list[Market]:
    return [priced(number, 0.4, **changes) for number in range(count)]


def of(captured: list[Market], reconstructed: list[Market], why: dict[str, str] | None = None) -> Parity:
    seen = {one.market_id for one in captured} | {"m900"}
    return compare(captured, reconstructed, seen=seen, why_missing=why or {})


def test_members_of_one_side_alone_are_counted_by_cause() -> None:
    captured = [*cohort(4), priced(4, 0.4, "thin")]
    why = {"m1": NO_PRICE, "m2": "ends at another time", "m4": NO_PRICE}

    parity = of(captured, [captured[0], captured[3], priced(900, 0.4), priced(901, 0.4)], why)

    assert (parity.captured, parity.reconstructed, parity.both) == (5, 4, 2)
    assert parity.missing == {NO_PRICE: 2, "ends at another time": 1}
    assert parity.missing_good == {NO_PRICE: 1, "ends at another time": 1}
    assert parity.too_many == {"left out when captured": 1, "not listed when captured": 1}


def test_differences_of_prices_of_good_ones_and_of_all() -> None:
    captured = [priced(number, 0.4, "good" if number < 100 else "thin") for number in range(200)]
    after = [priced(number, 0.4 + number / 1000 if number < 100 else 0.9) for number in range(200)]
    captured.append(priced(200, None, "none"))
    after.append(priced(200, 0.3))

    parity = of(captured, after)

    good, every = parity.good_prices, parity.prices
    assert (good.markets, good.median, good.p90, good.p99) == (100, 0.049, 0.089, 0.098)
    assert (every.markets, every.median, every.p90) == (200, 0.099, 0.5)


def test_texts_ends_and_company_that_changed_are_counted_and_a_label_alone_is_not() -> None:
    captured = [*cohort(2), priced(2, 0.4, cluster="a"), priced(3, 0.4, cluster="a"), priced(4, 0.4, cluster="b")]
    after = [
        priced(0, 0.4, question="Exactly 3?", description="Longer rules"),
        priced(1, 0.4, category="sports", close_time=KEY.start + timedelta(hours=13)),
        *(priced(number, 0.4, cluster="another label") for number in (2, 3)),
        priced(4, 0.4, cluster="c4"),
    ]

    assert of(captured, after).changed == {"question": 1, "description": 1, "end": 1, "category": 1}
    assert of(captured, [*after[:3], priced(3, 0.4, cluster="alone"), after[4]]).changed["cluster"] == 2
    assert of(captured, [*after[:4], priced(4, 0.4, cluster="another label")]).changed["cluster"] == 3


@pytest.mark.parametrize(
    ("lost", "cause", "beyond"),
    [
        (30, NO_PRICE, ()),
        (31, NO_PRICE, ("10.3% good prices missing, of 10% that are tolerated",)),
        (6, "closed before", ()),
        (7, "closed before", ("2.3% markets missing, of 2% that are tolerated",)),
    ],
)
def test_what_is_tolerated_depends_on_the_cause(lost: int, cause: str, beyond: tuple[str, ...]) -> None:
    captured = cohort(300)
    parity = of(captured, captured[lost:], {one.market_id: cause for one in captured[:lost]})
    assert parity.beyond == beyond


def test_markets_without_orders_have_no_price_to_miss_and_few_markets_say_little() -> None:
    thin = cohort(100, price=MarketPrice(value=0.4, quality="thin"))
    assert of(thin, thin[50:], {one.market_id: NO_PRICE for one in thin[:50]}).beyond == ()
    small = cohort(10)
    assert of(small, small[5:], {one.market_id: "closed before" for one in small[:5]}).beyond == ()
    assert of(small, small[4:], {one.market_id: "closed before" for one in small[:4]} | {"m4": "x"}).captured == 10


def test_prices_texts_and_additions_beyond_the_tolerances_are_named() -> None:
    captured = cohort(100)
    moved = [priced(number, 0.41, question="Edited?") for number in range(100)]
    added = [*moved, *(priced(number, 0.4) for number in range(902, 912))]
    assert of(captured, added).beyond == (
        "9.1% markets too many, of 2% that are tolerated",
        "100.0% questions changed, of 5% that are tolerated",
        "a median difference of good prices of 0.0100, of 0.005 that is tolerated",
    )
    tail = [priced(number, 0.5 if number < 2 else 0.4) for number in range(100)]
    assert of(captured, tail).beyond == (
        "a 99th percentile difference of good prices of 0.1000, of 0.03 that is tolerated",
    )
    assert of([], []).beyond == ()
