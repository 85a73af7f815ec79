"""A language model whose reasons cite a market is kept, and flagged for the boards."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets_tests.kit.paid import Paid


@pytest.mark.parametrize(("model", "flagged"), [("stand-in-cites", True), ("stand-in", None)])
def test_reasons_that_cite_a_market_are_flagged(
    tmp_path: Path, engine: Engine, stand_in: StandIn, model: str, flagged: bool | None
) -> None:
    paid = Paid(tmp_path, engine, stand_in.base_url)
    [outcome] = paid.run(paid.model(model=f"openai:{model}"), 1)
    assert outcome.status == "completed"
    assert outcome.payload is not None
    assert outcome.payload.get("leaked") is flagged
    assert outcome.payload["rationale"]
