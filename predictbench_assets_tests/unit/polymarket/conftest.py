"""A market row to start from."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

# A machine that runs other things too can pause for longer than the default deadline of an example.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def row() -> Callable[..., bytes]:
    """A well-formed row with some keys replaced, by their names on the wire; None leaves the key out."""

    def build(**changes: Any) -> bytes:
        number = int(changes.get("id") or 100) if str(changes.get("id", "100")).isdecimal() else 100
        whole = {
            "id": "100",
            "question": "Will it rain?",
            "slug": "will-it-rain",
            "conditionId": "0xabc",
            "endDate": "2026-11-30T12:00:00Z",
            "outcomes": '["Yes", "No"]',
            "outcomePrices": '["0.6", "0.4"]',
            "clobTokenIds": json.dumps([str(number * 10), str(number * 10 + 1)]),
            "bestBid": 0.58,
            "bestAsk": 0.62,
            "volumeNum": 10,
            "liquidityNum": 5.5,
        } | changes
        return json.dumps({key: value for key, value in whole.items() if value is not None}).encode()

    return build
