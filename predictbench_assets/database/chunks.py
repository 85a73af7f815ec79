"""Long reads in chunks, each a short transaction: no statement grows with the age of a deployment."""

from collections.abc import Iterator, Sequence

ROWS_PER_CHUNK = 200_000
"""Results of experiments in one chunk: about a second's work for the server, and some 50 MB here."""


def chunks_by_size(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours in chunks of at most `most`; what is larger alone is a chunk of its own.

    Args:
        sizes: of the items to be read, in their order.
    """
    start, taken = 0, 0
    for position, size in enumerate(sizes):
        if position > start and taken + size > most:
            yield slice(start, position)
            start, taken = position, 0
        taken += size
    if start < len(sizes):
        yield slice(start, len(sizes))
