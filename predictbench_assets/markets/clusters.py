"""Clusters of markets that depend on each other: the unit of independence in all statistics."""

from collections.abc import Sequence

_KEY_ORDER = ("game", "event", "neg_risk", "series", "market")


def label_rank(key: str) -> tuple[int, int, str]:
    """Games name a cluster before events, before neg-risk groups, before series; within a kind the oldest id does.

    What joins a cluster later has a higher id, so the label is the same in the cohorts of other days.
    """
    kind, _, value = key.partition(":")
    return _KEY_ORDER.index(kind), len(value) if value.isdecimal() else 0, value


class Clusters:
    """Union-find over cluster keys: keys seen on one market are of one cluster, which is named by its first key."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, keys: Sequence[str]) -> None:
        """Put the keys of one market into one cluster."""
        first = self._root(keys[0])
        for key in keys[1:]:
            root = self._root(key)
            # The better label stays the root, so a root is always its cluster's label.
            first, other = sorted((first, root), key=label_rank)
            self._parent[other] = first

    def labels(self) -> dict[str, str]:
        """Label of its cluster for each key seen."""
        return {key: self._root(key) for key in self._parent}

    def _root(self, key: str) -> str:
        root = key
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while key != root:
            self._parent[key], key = root, self._parent[key]
        return root
