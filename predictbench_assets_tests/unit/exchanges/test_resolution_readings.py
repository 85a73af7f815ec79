"""How a settlement is read: only an exact payout of a closed market is one."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.payloads import read_head, read_market
from predictbench_assets.exchanges.polymarket.settlement import (
    FirstOutcome,
    clob_reading,
    gamma_reading,
    reconciled,
    settled_payout,
)
from predictbench_assets.markets.settlement import Reading
from predictbench_assets_tests.kit.builders import wire_row

TOKENS = ["111", "222"]


def row(**changes: Any) -> bytes:
    """A market that the first outcome has won."""
    settled = {
        "closed": True,
        "closedTime": "2026-06-04 00:34:19+00",
        "outcomePrices": '["1", "0"]',
        "clobTokenIds": json.dumps(TOKENS),
        "umaResolutionStatus": "resolved",
        "umaResolutionStatuses": '["proposed"]',
    }
    return wire_row(**(settled | changes))


def clob(closed: Any = True, winner: int | None = 0, prices: tuple[Any, ...] = (1, 0)) -> bytes:
    tokens = [
        {"token_id": token, "outcome": name, "price": price, "winner": place == winner}
        for place, (token, name, price) in enumerate(zip(TOKENS, ("Yes", "No"), prices, strict=True))
    ]
    return json.dumps({"condition_id": "0x1", "closed": closed, "tokens": tokens}).encode()


@pytest.mark.parametrize(
    ("prices", "payout"),
    [
        (["1", "0"], (1, 0)),
        (["0", "1"], (0, 1)),
        (["1.0", "0.000"], (1, 0)),
        (["0.5", "0.5"], (0.5, 0.5)),
        (["1", "1"], (0.5, 0.5)),
        ([1, 0], (1, 0)),
        (["0", "0", "1"], (0, 0, 1)),
        (["1", "1", "1", "1"], (0.25, 0.25, 0.25, 0.25)),
        (["0.333333", "0.333333", "0.333333"], (1 / 3, 1 / 3, 1 / 3)),
        (["0", "0"], None),
        (["2", "0"], None),
        (["0.5", "0"], None),
        (["1", "1", "0"], None),
        (["0.9999", "0.0001"], None),
        (["0.99999999999999999999", "0"], None),  # a float would take it for 1
        (["0.5843311669077693146635445446077281", "0.4156688330922306853364554553922719"], None),
        (["0.3", "0.3", "0.3"], None),
        (["1"], None),
        ([], None),
        (["-1", "2"], None),
        (["NaN", "NaN"], None),
        (["Infinity", "0"], None),
        (["1", None], None),
        (["yes", "no"], None),
        ([True, False], None),
        ("nonsense", None),
        (7, None),
        (..., None),
    ],
)
def test_only_an_exact_payout_is_a_settlement(prices: Any, payout: tuple[float, ...] | None) -> None:
    sent = json.dumps(prices) if isinstance(prices, list) else prices
    names = json.dumps([str(place) for place in range(len(prices))]) if isinstance(prices, list) else ...
    read = gamma_reading(row(outcomePrices=sent, outcomes=names))
    assert read.payout == payout
    assert read.state == ("open" if payout is None else "final")
    assert read.outcome == (None if payout is None else payout[0])
    assert (read.problem is None) == (payout is not None)
    # As a list rather than inside a string, as one route sends it.
    if isinstance(prices, list):
        assert gamma_reading(row(outcomePrices=prices, outcomes=names)).payout == payout


@pytest.mark.parametrize(
    ("status", "closed", "state"),
    [
        ("resolved", True, "final"),
        ("proposed", True, "final"),
        ("disputed", True, "final"),
        (..., True, "final"),
        ("proposed", False, "proposed"),
        ("disputed", False, "disputed"),
        ("challenged", False, "disputed"),
        ("resolved", False, "open"),
        (..., False, "open"),
        (7, False, "open"),
        ("x" * 1_000, False, "open"),
        ("\x00", False, "open"),
    ],
)
def test_the_oracles_status_is_no_gate(status: Any, closed: bool, state: str) -> None:
    read = gamma_reading(row(umaResolutionStatus=status, closed=closed))
    assert read.state == state
    assert (read.closed_time is None) == (not closed)
    assert read.problem is None


def test_a_price_of_one_settles_nothing_while_the_market_is_open() -> None:
    for closed in (False, "false", 0, "perhaps", {}, ...):
        assert gamma_reading(row(closed=closed)).state == "open"
    assert gamma_reading(row().replace(b'"closed": true', b'"closed": null')).state == "open"


@pytest.mark.parametrize("closed", [True, False, None, "true", "false", "True", 1, 0, "1", "", "perhaps", [], {}, 7])
def test_a_market_is_closed_for_its_settlement_as_it_is_for_a_listing(closed: Any) -> None:
    listed, dropped = read_market(row(closed=closed, question="?", endDate="2026-06-04T00:00:00Z"))
    read = gamma_reading(row(closed=closed))
    assert read.closed == bool(listed.closed) == clob_reading(clob(closed=closed)).closed
    assert (read.state == "final") == read.closed == (read_head(row(closed=closed)).first_token_id is None)
    assert ("closed is neither true nor false" in str(read.problem)) == ("closed" in dropped)


def test_a_dispute_is_remembered_from_the_history() -> None:
    assert gamma_reading(row(umaResolutionStatuses='["proposed", "disputed", "proposed"]')).doubtful
    assert not gamma_reading(row(umaResolutionStatuses='["proposed", "proposed"]')).doubtful
    assert gamma_reading(row(outcomePrices='["0.5","0.5"]')).doubtful
    assert gamma_reading(row(outcomePrices='["0","0"]')).doubtful


@pytest.mark.parametrize(
    ("first", "payout"),
    [
        (FirstOutcome("111", "Yes"), (1, 0)),
        (FirstOutcome("222", "No"), (0, 1)),
        (FirstOutcome("222"), (0, 1)),
        (FirstOutcome(None, "No"), (0, 1)),
        (FirstOutcome("333", " no "), (0, 1)),  # the market has other ids now
        (FirstOutcome("222", "Neither"), (0, 1)),
        (FirstOutcome("333"), None),
        (FirstOutcome("333", "Neither"), None),
        (FirstOutcome("222", "Yes"), None),  # only one of both was turned round
        (FirstOutcome(), (1, 0)),
    ],
)
def test_the_payout_follows_the_outcome_that_was_forecast(
    first: FirstOutcome, payout: tuple[float, ...] | None
) -> None:
    """Not the place: the listing may have turned round since the market was stored."""
    for read in (gamma_reading(row(), first), clob_reading(clob(), first)):
        assert read.payout == payout
        assert read.state == ("open" if payout is None else "final")
        assert read.doubtful == (payout is None)
        assert (read.problem is None) == (payout is not None)
    if payout is None:
        assert "which outcome was first" in str(gamma_reading(row(), first).problem)


def test_the_payout_of_three_follows_too() -> None:
    three = row(outcomes='["a","b","c"]', outcomePrices='["0","1","0"]', clobTokenIds='["1","2","3"]')
    assert gamma_reading(three, FirstOutcome("2", "b")).payout == (1, 0, 0)


@pytest.mark.parametrize("missing", [{"clobTokenIds": ...}, {"clobTokenIds": "[]"}, {"clobTokenIds": '["111"]'}])
def test_without_ids_the_names_decide(missing: dict[str, Any]) -> None:
    turned = {"outcomes": '["No", "Yes"]', "outcomePrices": '["0", "1"]'}
    first = FirstOutcome("111", "Yes")
    assert gamma_reading(row(**turned, **missing), first).payout == (1, 0)
    assert gamma_reading(row(**missing), first).payout == (1, 0)
    for unnamed in (..., '["Yes", "Yes"]', '["Up", "Down"]'):
        assert gamma_reading(row(outcomes=unnamed, **missing), first).payout is None
        # What all share alike is the same in any order.
        split = row(outcomes=unnamed, outcomePrices='["0.5", "0.5"]', **missing)
        assert gamma_reading(split, first).payout == (0.5, 0.5)


def test_another_source_decides_where_the_row_does_not_show_the_order() -> None:
    first = FirstOutcome("222", "No")
    unplaced = gamma_reading(row(clobTokenIds=..., outcomes=...), first)
    assert reconciled(unplaced, clob_reading(clob(), first)).payout == (0, 1)
    assert reconciled(unplaced, clob_reading(clob(closed=False), first)).problem == unplaced.problem


def test_ids_are_those_of_the_rows_version() -> None:
    both = {"clobTokenIds": '["111", "222"]', "positionIds": ["222", "111"], "outcomes": ...}
    for version, payout in (("v1", (1, 0)), (..., (1, 0)), ("v2", (0, 1)), ("v3", None)):
        assert gamma_reading(row(version=version, **both), FirstOutcome("111")).payout == payout


def test_more_payouts_than_outcomes_are_no_settlement() -> None:
    read = gamma_reading(row(outcomePrices='["1","0","0"]'))
    assert read.payout is None
    assert read.problem is not None


@pytest.mark.parametrize(
    ("body", "payout"),
    [
        (clob(), (1, 0)),
        (clob(winner=1, prices=(0, 1)), (0, 1)),
        (clob(winner=1, prices=(0.5, 0.5)), (0, 1)),
        (clob(winner=None, prices=(0.5, 0.5)), (0.5, 0.5)),
        (clob(winner=None, prices=(0.97, 0.03)), None),
        (clob(closed=False), None),
        (b'{"closed": true}', None),
        (b'{"closed": true, "tokens": [1, "x", {"winner": true}]}', None),
        (b"<html>", None),
    ],
)
def test_the_clob_names_the_winner(body: bytes, payout: tuple[float, ...] | None) -> None:
    read = clob_reading(body)
    assert read.payout == payout
    assert read.source == "clob"


def test_the_clob_is_believed_where_it_has_settled_and_gamma_elsewhere() -> None:
    gamma = gamma_reading(row())
    assert reconciled(gamma, None) == gamma
    agreeing = reconciled(gamma, clob_reading(clob()))
    assert (agreeing.source, agreeing.payout, agreeing.problem) == ("gamma", (1, 0), None)
    assert set(agreeing.raw) == {"gamma", "clob"}

    against = reconciled(gamma, clob_reading(clob(winner=1, prices=(0, 1))))
    assert (against.source, against.state, against.payout) == ("clob", "final", (0, 1))
    assert against.problem == "Gamma says 1/0, the CLOB 0/1; the CLOB is believed"
    assert (against.closed_time, against.status) == (gamma.closed_time, gamma.status)

    assert reconciled(gamma, clob_reading(clob(closed=False))).payout == (1, 0)
    unreadable = gamma_reading(row(outcomePrices='["0","0"]'))
    helped = reconciled(unreadable, clob_reading(clob(winner=1, prices=(0, 1))))
    assert (helped.state, helped.outcome, helped.problem) == ("final", 0, None)
    assert reconciled(unreadable, clob_reading(clob(closed=False))).problem == unreadable.problem


def test_what_is_kept_can_be_stored_whatever_was_sent() -> None:
    kept = gamma_reading(
        b'{"id": "7", "question": "\\u0000", "slug": "\\ud800", "closed": true, "outcomePrices": "[\\"1\\",\\"0\\"]",'
        b' "resolvedBy": "'
        + b"x" * 9_000
        + b'", "endDate": '
        + b"[" * 20_000
        + b"]" * 20_000
        + b', "description": "d"}'
    )
    assert kept.payout == (1, 0)
    assert set(kept.raw) == {"id", "closed", "outcomePrices"}


# Properties

shares = st.one_of(
    st.sampled_from(["0", "1", "0.5", "1.0", "0.0", "2", "0.9999", "-0", "-1", "1e0", "0.333", "NaN", "1E+999999"]),
    st.decimals().map(str),
)


@given(st.lists(shares, max_size=8))
def test_a_payout_is_a_win_or_an_equal_split_and_adds_up_to_one(values: list[str]) -> None:
    payout = settled_payout([Decimal(value) for value in values])
    if payout is not None:
        assert len(payout) == len(values) >= 2
        assert abs(sum(payout) - 1) < 1e-12
        assert sorted(payout)[-2:] in ([0, 1], [1 / len(values)] * 2)


@given(st.integers(2, 8), st.data())
def test_every_win_is_read_exactly(outcomes: int, data: st.DataObject) -> None:
    winner = data.draw(st.integers(0, outcomes - 1))
    vector = [Decimal(int(place == winner)) for place in range(outcomes)]
    assert settled_payout(vector) == tuple(float(value) for value in vector)


@given(st.decimals(min_value=0, max_value=1).filter(lambda share: share not in (0, 1, Decimal("0.5"))))
def test_no_residual_price_is_a_settlement(share: Decimal) -> None:
    assert settled_payout([share, 1 - share]) is None
    assert settled_payout([share, Decimal(0)]) is None
    assert settled_payout([share, share]) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["id", "closed", "closedTime", "outcomes", "outcomePrices", "clobTokenIds", "positionIds", "version", "tokens"]
)


@given(st.dictionaries(keys, json_values) | json_values, st.none() | st.text(max_size=3))
def test_whatever_is_sent_is_read_without_an_error(value: Any, token: str | None) -> None:
    for reading in (gamma_reading, clob_reading):
        read: Reading = reading(json.dumps(value).encode(), FirstOutcome(token, token))
        assert (read.payout is not None) == (read.state == "final")


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_are_open_and_not_final(body: bytes) -> None:
    assert gamma_reading(body).payout is None
    assert clob_reading(body).payout is None
