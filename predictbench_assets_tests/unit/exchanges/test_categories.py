"""What a market is about."""

from typing import Any

import pytest

from predictbench_assets.exchanges.polymarket.categories import CATEGORIES, categorize
from predictbench_assets.exchanges.polymarket.payloads import read_market
from predictbench_assets_tests.kit.builders import wire_row


@pytest.mark.parametrize(
    ("changes", "category"),
    [
        ({"feeType": "sports_fees_v3"}, "sports"),
        ({"feeType": "finance_prices_fees"}, "finance"),
        ({"feeType": "crypto_fees_v2", "tags": [{"slug": "politics"}]}, "crypto"),
        ({"feeType": "zero_fees", "tags": [{"slug": "politics"}]}, "politics"),
        ({"feeType": None, "sportsMarketType": "totals"}, "sports"),
        ({"events": [{"id": "1", "gameId": 7}], "feeType": "politics_fees"}, "sports"),
        ({"category": "US-current-affairs"}, "politics"),
        ({"events": [{"id": "1", "category": "NFTs"}]}, "crypto"),
        ({"tags": [{"label": "Trump"}, {"label": "Middle East"}]}, "geopolitics"),
        ({"events": [{"id": "1", "tags": [{"slug": "pop-culture"}]}]}, "culture"),
        ({"tags": [{"label": "Coffee"}]}, "other"),
        ({"category": "Coronavirus"}, "other"),
        ({}, "uncategorised"),
        ({"tags": [], "category": "", "feeType": ""}, "uncategorised"),
    ],
)
def test_category(changes: dict[str, Any], category: str) -> None:
    assert categorize(read_market(wire_row(**changes))[0]) == category
    assert category in CATEGORIES
