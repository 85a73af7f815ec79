"""Faults between an exchange and its reader, drawn from a seed and injected on purpose.

The text form names rates: `http500=0.05,http429=0.02,reset=0.01,truncate=0.01,repeat=0.02,html403=0,latency_ms=100`.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Final

from predictbench_assets.failures import PermanentError

KINDS: Final = ("http500", "http429", "reset", "truncate", "repeat", "html403")


class UnknownFault(PermanentError):
    """A fault that does not exist, or a rate that is none."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of requests that go wrong, at most one way each, and the delay of all."""

    http500: float = 0.0
    """500 with Gamma's JSON."""
    http429: float = 0.0
    """429, every second one with Retry-After."""
    reset: float = 0.0
    """The connection is reset instead of a reply."""
    truncate: float = 0.0
    """Half of the body that Content-Length announces, then the connection closes."""
    repeat: float = 0.0
    """A page of the keyset listing begins with rows of the page before; nothing is lost by it."""
    html403: float = 0.0
    """A page of HTML with 403, as from a content delivery network in front."""
    latency_ms: float = 0.0
    retry_after: float = 1.0
    """Seconds in Retry-After, where it is sent."""

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read `name=value,...`; the empty text is no faults.

        Raises:
            UnknownFault: a name or a value that means nothing; the text lists the names.
        """
        known = {item.name for item in fields(cls)}
        values: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name.strip() not in known:
                raise UnknownFault(
                    f"unknown fault {name.strip()!r} in --faults: choose from {', '.join(sorted(known))}"
                )
            try:
                values[name.strip()] = float(value)
            except ValueError as error:
                raise UnknownFault(f"--faults {part!r} is not name=number, such as http500=0.05") from error
        return cls(**values)

    def __post_init__(self) -> None:
        rates = [getattr(self, kind) for kind in KINDS]
        if any(not 0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
            raise UnknownFault(f"--faults: {', '.join(KINDS)} are shares of requests in [0, 1], together at most 1")
        for name in ("latency_ms", "retry_after"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise UnknownFault(f"--faults: {name} is a time and cannot be {value}")

    def __str__(self) -> str:
        usual = asdict(Faults())
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items() if value != usual[name])


class FaultSource:
    """Decides request by request what goes wrong, the same way for the same seed and order of requests."""

    def __init__(self, faults: Faults, seed: int = 0) -> None:
        self.faults = faults
        self.injected: Counter[str] = Counter()
        self._rng = Random(seed)  # noqa: S311 - a simulation

    def draw(self) -> str | None:
        """The kind of fault of the next request; None for most. Counted by the handler that carries it out."""
        drawn = self._rng.random()
        for kind in KINDS:
            drawn -= getattr(self.faults, kind)
            if drawn < 0:
                return kind
        return None
