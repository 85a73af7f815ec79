"""Which markets depend on each other: the cluster is the unit of independence in all statistics."""

from datetime import datetime

from predictbench_assets.exchanges.polymarket.payloads import GammaEvent, GammaMarket

_KEY_ORDER = ("game", "event", "neg_risk", "series", "market")


def cluster_keys(row: GammaMarket, market_id: str, end: datetime) -> list[str]:
    """What makes a market depend on others, as `kind:value`, the one to name its cluster by first.

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
    return sorted(keys, key=_label_rank) or [f"market:{market_id}"]


def _label_rank(key: str) -> tuple[int, int, str]:
    """Games name a cluster before events, before neg-risk groups, before series; within a kind the oldest id does.

    What joins a cluster later has a higher id, so the label is the same in the cohorts of other days.
    """
    kind, _, value = key.partition(":")
    return _KEY_ORDER.index(kind), len(value) if value.isdecimal() else 0, value


class Clusters:
    """Union-find over cluster keys: keys seen on one market are of one cluster, which is named by its first key."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, keys: list[str]) -> None:
        first = self._root(keys[0])
        for key in keys[1:]:
            root = self._root(key)
            # The better label stays the root, so a root is always its cluster's label.
            first, other = sorted((first, root), key=_label_rank)
            self._parent[other] = first

    def labels(self) -> dict[str, str]:
        """Each key seen, with the label of its cluster."""
        return {key: self._root(key) for key in self._parent}

    def _root(self, key: str) -> str:
        root = key
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while key != root:
            self._parent[key], key = root, self._parent[key]
        return root


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
