"""Clusters of markets that depend on each other, over all cohorts at once."""

from collections.abc import Hashable, Sequence

import numpy as np

from predictbench_assets.scoring.forecasts import Ints


def cluster_numbers(*links: Sequence[Hashable | None]) -> Ints:
    """Number the clusters: markets that share a value in any of the columns belong together, and so on from those.

    Clusters are numbered from 0 in the order of their first market.

    Args:
        links: columns of one length, a value for each market or None for none. Equal values of two columns do not
            link.

    Raises:
        ValueError: the columns differ in length.
    """
    return linked(*(value_numbers(column, {}) for column in links))


def value_numbers(values: Sequence[Hashable | None], known: dict[Hashable, int]) -> Ints:
    """A number for each different value, from 0 in the order of their first; -1 for None.

    Args:
        known: numbers that were given before; new ones are added.
    """
    numbers = (-1 if one is None else known.setdefault(one, len(known)) for one in values)
    return np.fromiter(numbers, np.int64, len(values))


def linked(*links: Ints) -> Ints:
    """`cluster_numbers` of columns that are numbers already, as `value_numbers` gives them.

    Raises:
        ValueError: the columns differ in length.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(links[0]) if links else 0
    if any(len(column) != size for column in links):
        raise ValueError("the columns that link markets must have one length")
    # A graph of markets and of values: an edge from each market to each of its values.
    markets = [np.flatnonzero(column >= 0) for column in links]
    values: list[Ints] = []
    nodes = size
    for column, some in zip(links, markets, strict=True):
        values.append(column[some] + nodes)
        nodes += int(column.max(initial=-1)) + 1
    rows, columns = (np.concatenate(parts) if parts else np.empty(0, np.int64) for parts in (markets, values))
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(nodes, nodes))
    _, components = connected_components(graph, directed=False)
    _, first, inverse = np.unique(components[:size], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
