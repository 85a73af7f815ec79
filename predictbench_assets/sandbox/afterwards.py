"""A world in which things happen to markets after they were listed, as they do to real ones.

Some are edited, get another end, or are withdrawn from the listing, each at an instant of its own; before it everything
is as it was. So a day that is looked at later shows what became of it, and not what it was.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Literal

import msgspec

from predictbench_assets.sandbox.exchange import WorldExchange
from predictbench_assets.sandbox.latent import uniform
from predictbench_assets.sandbox.listing import Listed
from predictbench_assets.sandbox.world import DAY, Market, World

Change = Literal["edited", "moved", "archived"]
CHANGES: Final[tuple[Change, ...]] = ("edited", "moved", "archived")

MOVED_BY: Final = 2 * DAY
"""Seconds by which an end is put off."""
EDITED: Final = " (clarified)"
"""What an edited question ends in."""

_TURN, _INSTANT = 71, 72


class Afterwards(WorldExchange):
    """A world with later changes.

    Args:
        world: as it would be without them.
        share: of markets that are changed, one in three in each way.
    """

    def __init__(self, world: World, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is one of markets, in [0, 1], got {share}")
        super().__init__(world)
        self._share = share

    def change(self, market: Market) -> tuple[Change, int] | None:
        """What happens to a market, and the instant, in the second half of its life; None for most."""
        drawn = uniform(market.number, _TURN)
        if drawn >= self._share:
            return None
        kind = CHANGES[int(drawn / self._share * len(CHANGES))]
        life = market.ends - market.created
        return kind, market.created + int(life * (0.5 + 0.5 * uniform(market.number, _INSTANT)))

    def listed(self, at: int, ends_from: int | None, ends_to: int | None) -> Iterator[Market]:
        """Markets created by then, with the ends that they have by then, and without those that were withdrawn."""
        earliest = None if ends_from is None else ends_from - MOVED_BY
        for market in super().listed(at, earliest, ends_to):
            now = self._as_of(market, at)
            if (
                now is not None
                and (ends_from is None or now.ends >= ends_from)
                and (ends_to is None or now.ends <= ends_to)
            ):
                yield now

    def row(self, market: Listed, at: int, event: bytes | None, *, include_tag: bool) -> bytes:
        """The row at that instant, edited if it was by then."""
        body = super().row(market, at, event, include_tag=include_tag)
        change = self.change(market) if isinstance(market, Market) else None
        if change is None or change[0] != "edited" or at < change[1]:
            return body
        row = msgspec.json.decode(body)
        row["question"] = f"{row.get('question', '')}{EDITED}"
        row["description"] = f"{row.get('description', '')}\n\nClarification: see the record of the exchange."
        return msgspec.json.encode(row)

    def _as_of(self, market: Market, at: int) -> Market | None:
        change = self.change(market)
        if change is None or at < change[1] or change[0] == "edited":
            return market
        return None if change[0] == "archived" else replace(market, ends=market.ends + MOVED_BY)
