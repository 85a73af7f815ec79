"""Keys by which Polymarket's rows depend on each other: game, event, neg-risk group, series."""

from datetime import datetime

from predictbench_assets.exchanges.polymarket.payloads import GammaEvent, GammaMarket
from predictbench_assets.markets.clusters import label_rank


def cluster_keys(row: GammaMarket, market_id: str, end: datetime) -> list[str]:
    """Keys that a market shares with those it depends on, as `kind:value`, the one to name its cluster by first.

    The kinds are game, event (and the event whose extension it is), neg-risk group, and series x end date (UTC). The
    last is left out for games: two matches of one league on one day are independent, unlike two thresholds for one
    price. A market with none of these is alone, under its own id.
    """
    game = game_id(row)
    keys = {f"game:{game}"} if game else set()
    if group := neg_risk_group(row):
        keys.add(f"neg_risk:{group}")
    for event in row.events or []:
        keys.update(f"event:{id_}" for id_ in (event.id, event.parent_event_id) if id_)
        series = series_slug(event)
        if series and not game and not row.sports_market_type:
            keys.add(f"series:{series}|{end.date().isoformat()}")
    return sorted(keys, key=label_rank) or [f"market:{market_id}"]


def game_id(row: GammaMarket) -> str | None:
    """The game that a sports market is about, as the market or its event names it."""
    return row.game_id or next((event.game_id for event in row.events or [] if event.game_id), None)


def neg_risk_group(row: GammaMarket) -> str | None:
    """The group of markets of which exactly one resolves to yes."""
    group = row.neg_risk_market_id or next(
        (event.neg_risk_market_id for event in row.events or [] if event.neg_risk_market_id), None
    )
    return group or None


def series_slug(event: GammaEvent | None) -> str | None:
    """The recurring series that an event is an instalment of."""
    if event is None:
        return None
    return event.series_slug or next((series.slug for series in event.series or [] if series.slug), None)
