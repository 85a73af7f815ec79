"""Which markets are not independent of each other, over all cohorts at once."""

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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(links[0]) if links else 0
    if any(len(column) != size for column in links):
        raise ValueError("the columns that link markets must have one length")
    # A graph of markets and of values: an edge from each market to each of its values.
    markets: list[int] = []
    values: list[int] = []
    nodes = size
    for column in links:
        known: dict[Hashable, int] = {}
        for market, value in enumerate(column):
            if value is not None:
                markets.append(market)
                values.append(known.setdefault(value, nodes + len(known)))
        nodes += len(known)
    graph = coo_array((np.ones(len(markets), np.int8), (markets, values)), shape=(nodes, nodes))
    _, components = connected_components(graph, directed=False)
    _, first, inverse = np.unique(components[:size], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
