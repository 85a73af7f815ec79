"""Scores and boards through a pooler in transaction mode, with the writer's rights, among other clients; the reader
rebuilds them."""

from datetime import date, timedelta

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.privileges import READER, WRITER
from predictbench_assets.scoring.store.boards import (
    encoded_leaderboard,
    rebuild_leaderboard,
    store_leaderboard,
    stored_leaderboard,
)
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.deployment import Deployment
from predictbench_assets_tests.kit.ledger import Forecaster, Ledger, at
from predictbench_assets_tests.kit.pooler import Pgbouncer, others_taking_turns

PRICES = {f"m{3 * number}": 0.3 for number in range(40)}
SEEN = at(date(2026, 2, 11))
NOW = SEEN + timedelta(days=1)


def test_scores_and_boards(deployment: Deployment, pooler: Pgbouncer, database: str) -> None:
    writer, reader = (make_engine(pooler.url(role, database)) for role in (WRITER, READER))
    ledger = Ledger(writer)
    with others_taking_turns(pooler.url(WRITER, database)):
        ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, 0.2)))
        ledger.observe(dict.fromkeys(PRICES, 0.0), SEEN)
        assert score_settled(writer, NOW).scored == 80
        ledger.observe({"m0": 1.0, "m3": None}, NOW)
        report = score_settled(writer, NOW)
        assert (report.scored, report.rescored, report.removed) == (0, 2, 2)
        assert score_problems(writer).reference_edges == 0
        board = rebuild_leaderboard(writer, NOW)
        store_leaderboard(writer, board, NOW)
        assert encoded_leaderboard(rebuild_leaderboard(reader, NOW)) == encoded_leaderboard(board)
        assert stored_leaderboard(reader, NOW) == board
    for engine in (writer, reader):
        engine.dispose()
