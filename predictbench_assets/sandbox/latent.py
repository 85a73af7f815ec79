"""Chance, reproducible and read at any instant: the hidden processes that prices follow and that settle markets.

A market's price at t is the probability of its first outcome given what is known at t, so it is a martingale by
construction, and the market settles by the value that the same process has reached in the end. Nothing is simulated
step by step: a Brownian path is refined towards the one instant asked for, so that the price of any market at any time
costs a dozen hashes, in any order, in any process. Instants are seconds since the epoch, UTC.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

_DEPTH = 12
STEPS = 1 << _DEPTH
"""Information arrives in this many steps over a market's life: at first after hours, in the end every few minutes."""

_MASK = (1 << 64) - 1
_normal = NormalDist()
cdf = _normal.cdf
quantile = _normal.inv_cdf


def mixed(*parts: int) -> int:
    """A 64-bit hash of some integers (splitmix64 over each): the same in every process, unlike `hash`."""
    state = 0
    for part in parts:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(*parts: int) -> float:
    """A number in (0, 1) that depends on the integers only."""
    return (mixed(*parts) + 0.5) / (_MASK + 1)


@lru_cache(maxsize=1 << 18)  # the markets of an event read the same points, and Gamma and the books read them again
def brownian(key: int, step: int) -> float:
    """The Brownian path named by `key`, W(0) = 0 and W(1) ~ N(0, 1), at `step` of `STEPS`.

    Halves the interval around the step until it is hit, drawing each midpoint from its law given the two ends.
    """
    low, high, at_low, at_high, node = 0, STEPS, 0.0, quantile(uniform(key, 1)), 1
    if step == STEPS:
        return at_high
    while low < step:
        middle = (low + high) // 2
        width = (high - low) / STEPS
        at_middle = (at_low + at_high) / 2 + math.sqrt(width) / 2 * quantile(uniform(key, node + STEPS))
        if step < middle:
            high, at_high, node = middle, at_middle, 2 * node
        else:
            low, at_low, node = middle, at_middle, 2 * node + 1
    return at_low


class Latent(Protocol):
    """The hidden truth behind one market."""

    def probability(self, at: int) -> float:
        """P(first outcome | everything known at that instant); 0 or 1 once decided."""
        ...

    @property
    def outcome(self) -> bool:
        """True where the first outcome comes true in the end."""
        ...

    @property
    def decided(self) -> int:
        """The instant from which the probability is 0 or 1."""
        ...


@dataclass(frozen=True, slots=True)
class Band:
    """True when a Brownian path ends in (low, high].

    Bands that share a path are one event: adjacent ones are a group with exactly one winner, half-open ones a ladder.
    """

    path: int
    low: float
    high: float
    begins: int
    decided: int

    @property
    def outcome(self) -> bool:
        """True where the path ends in the band."""
        return self.low < brownian(self.path, STEPS) <= self.high

    def probability(self, at: int) -> float:
        """Probability of the band given the path up to that instant."""
        if at >= self.decided:
            return float(self.outcome)
        elapsed = max(0, at - self.begins) / (self.decided - self.begins)
        step = int(STEPS * elapsed * elapsed)  # most is learnt towards the end
        now, deviation = brownian(self.path, step), math.sqrt(1 - step / STEPS)
        above = 1.0 if self.high == math.inf else cdf((self.high - now) / deviation)
        below = 0.0 if self.low == -math.inf else cdf((self.low - now) / deviation)
        return max(0.0, above - below)


@dataclass(frozen=True, slots=True)
class Deadline:
    """True when something happens by `end`; until then it is equally likely at any moment.

    Deadlines that share `happens` are a ladder in time: the shorter implies the longer.
    """

    happens: int
    rate: float
    """Per second."""
    begins: int
    end: int

    @property
    def outcome(self) -> bool:
        """True where it happens in time."""
        return self.happens <= self.end

    @property
    def decided(self) -> int:
        """Time at which it happens, or the deadline."""
        return min(self.happens, self.end)

    def probability(self, at: int) -> float:
        """Probability that it happens by the deadline, given that it has or has not happened yet."""
        if at >= self.decided:
            return float(self.outcome)
        return -math.expm1(-self.rate * (self.end - max(at, self.begins)))


def waiting_time(key: int, rate: float) -> int:
    """Seconds until something of that rate happens: exponential, at least one."""
    return 1 + int(-math.log(uniform(key)) / rate)
