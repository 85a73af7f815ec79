"""Settlements of markets: an exchange's answer about one, and the newest observation before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

State = Literal["open", "proposed", "disputed", "final"]


@dataclass(frozen=True)
class LastObservation:
    """The newest observation of a market."""

    observed_at: datetime
    source: str
    state: str
    payout: tuple[float, ...] | None
    """Empty where something is stored that is none."""
    closed_time: datetime | None
    status: str | None

    @property
    def content(self) -> tuple[object, ...]:
        """The fields by which two observations are the same."""
        return self.state, self.payout, self.closed_time, self.status


@dataclass(frozen=True)
class PendingMarket:
    """A stored market whose settlement is to be looked up."""

    market_id: str
    condition_id: str | None
    first_token: str | None
    """The id, on the order book, of the outcome that forecasts are about."""
    first_name: str | None
    close_time: datetime
    open_at: datetime | None
    """The first instant when it was open for certain: of a capture, or that a reconstructed snapshot shows. None where
    that is not known of a reconstructed one."""
    known: LastObservation | None


@dataclass(frozen=True)
class Reading:
    """One answer of an exchange about the settlement of a market."""

    source: str
    """The part of the exchange that answered."""
    market_id: str | None
    """None where the source does not name it, or it cannot be read."""
    state: State
    payout: tuple[float, ...] | None
    """Worth of a share of each outcome, the first outcome first, adding up to 1; None unless final."""
    closed: bool
    closed_time: datetime | None
    status: str | None
    """The source's own word for its state."""
    disputed: bool
    """True if its oracle's answer was ever disputed."""
    problem: str | None
    """The reason for which a closed market is not final, or another thing to look into."""
    raw: Mapping[str, Any]
    """The keys of the answer that show how the market settled, as they were sent."""

    @property
    def outcome(self) -> float | None:
        """The settled value of the first outcome: 1, 0, or a half (of several outcomes, an equal share)."""
        return None if self.payout is None else self.payout[0]

    @property
    def split(self) -> bool:
        """True where all outcomes share alike: the question was voided, or settled as a draw."""
        return self.payout is not None and max(self.payout) < 1

    @property
    def doubtful(self) -> bool:
        """True where a second source should be asked before it is believed."""
        return (self.closed and self.payout is None) or self.split or (self.closed and self.disputed)


@dataclass(frozen=True)
class Absence:
    """The reason for which an exchange shows no settlement of a market, not even an open one."""

    problem: str
    certain: bool
    """True where the exchange answered that there is no such market, rather than something that cannot be used."""
