"""Costs beside the board: by hand, in their currencies, and only where they are known."""

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console

from predictbench_assets.reporting.boards import as_csv, as_json, as_markdown, as_table
from predictbench_assets.reporting.output import money
from predictbench_assets.scoring.boards import EntrantCost
from predictbench_assets.scoring.costs import usd_per_point
from predictbench_assets_tests.kit.handmade_boards import board, row


def cost(experiment: str, **given: Any) -> EntrantCost:
    """Two days of 300 forecasts each."""
    numbers: dict[str, Any] = {
        "days": 2,
        "forecasts": 600,
        "requests": 640,
        "unknown": 0,
        "usd": 3.0,
        "usd_unknown": 0.0,
    }
    rest: dict[str, Any] = {"window_days": 7, "version": "1.0.0", "usd_unknown": 0.0, "others": {}, "unpriced": 0}
    return EntrantCost(experiment=experiment, **numbers | rest | given)


ROWS = [row("dear", mean_edge=0.002), row("losing", mean_edge=-0.002), row("foreign", mean_edge=0.001), row("free")]
COSTS = (cost("dear"), cost("losing"), cost("foreign", usd=None, others={"EUR": 1.2}), cost("free", window_days=30))


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "$0"),
        (1204.5, "$1,204.50"),
        (1, "$1.00"),
        (0.999, "$1.00"),
        (0.0053, "$0.0053"),
        (0.00012, "$0.00012"),
        (0.05, "$0.050"),
        (1e-12, "$0.00000000"),
        (-0.5, "$-0.50"),
    ],
)
def test_an_amount_has_cents_or_two_digits(amount: float, said: str) -> None:
    assert money(amount) == said


def test_other_currencies_have_their_names() -> None:
    assert money(0.2, "EUR") == "0.20 EUR"


def test_a_point_costs_what_a_forecast_does_over_its_edge_and_nothing_won_has_no_price() -> None:
    # $3.00 of 600 forecasts are $0.005 each, over an edge of 0.002.
    assert usd_per_point(ROWS[0], COSTS[0]) == 2.5
    assert usd_per_point(ROWS[1], COSTS[1]) is None
    assert usd_per_point(row("dear", mean_edge=0.0), COSTS[0]) is None
    assert usd_per_point(row("dear", mean_edge=None), COSTS[0]) is None
    assert usd_per_point(ROWS[2], COSTS[2]) is None
    assert usd_per_point(ROWS[3], None) is None


def test_json_and_csv_have_the_costs_of_each_row_and_null_where_there_are_none() -> None:
    found = json.loads(as_json(board(*ROWS, costs=COSTS), ROWS))
    numbers = ("usd_per_forecast", "usd_per_day", "usd_per_point", "other_costs")
    assert [[one[name] for name in numbers] for one in found] == [
        [0.005, 1.5, 2.5, {}],
        [0.005, 1.5, None, {}],
        [None, None, None, {"EUR": 1.2}],
        [None, None, None, {}],
    ]
    read = list(csv.DictReader(io.StringIO(as_csv(board(*ROWS, costs=COSTS), ROWS))))
    assert [[one[name] for name in numbers] for one in read] == [
        ["0.005", "1.5", "2.5", ""],
        ["0.005", "1.5", "", ""],
        ["", "", "", "EUR 1.2"],
        ["", "", "", ""],
    ]


def test_tables_have_columns_of_costs_only_where_one_is_known() -> None:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(as_table(board(*ROWS, costs=COSTS), ROWS))
    assert isinstance(console.file, io.StringIO)
    said = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "rank experiment markets events cover edge, 95 % interval Brier a forecast a day a point won remarks" in said
    assert any(line.endswith("0.1800 $0.0050 $1.50 $2.50") for line in said if "dear" in line), said
    assert any(line.endswith("0.1800 $0.0050 $1.50 -") for line in said if "losing" in line), said
    assert any(line.endswith("0.1800 0.0020 EUR 0.60 EUR -") for line in said if "foreign" in line), said
    assert any(line.endswith("0.1800") for line in said if "free" in line), said
    assert any("a point won: the cost of 1.00 of Brier score" in line for line in said)
    free = as_markdown(board(*ROWS), ROWS)
    assert "point" not in free
    assert "| $0.0050 | $1.50 | $2.50 |" in as_markdown(board(*ROWS, costs=COSTS), ROWS).replace("&#36;", "$")
