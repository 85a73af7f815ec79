"""Boards as text."""

from predictbench_assets.reporting.boards import as_markdown
from predictbench_assets_tests.kit.handmade_boards import board, row


def test_reconstructed_markets_have_a_table_of_their_own_with_a_word_on_what_they_are() -> None:
    rows = [row(board="backfill", mean_edge=0.1), row(board="backfill", mean_edge=0.2, reconstructed=True)]
    late, apart = as_markdown(board(*rows), rows).split("**backfill board, 7 days ahead, reconstructed markets**")
    assert "+0.1000" in late
    assert "+0.2000" not in late
    assert "+0.2000" in apart
    assert "put together afterwards" in apart
    assert "reconstructed" not in as_markdown(board(*rows[:1]), rows[:1])
