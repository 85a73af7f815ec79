"""Requests, bytes and seconds of reading from an exchange: for logs, metadata and the summary of a run."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


@dataclass
class ApiStats:
    """Figures of one reading. Seconds of waiting are added up over requests that wait side by side."""

    pages: int = 0
    requests: int = 0
    """Requests sent, each attempt counted."""
    retries: dict[str, int] = field(default_factory=Counter)
    """Attempts that had to be repeated, by cause: `http_429`, `http_5xx`, `timeout`, `connection`, `truncated`, ..."""
    throttle_seconds: float = 0.0
    """Seconds waited for our own rate limit."""
    backoff_seconds: float = 0.0
    """Seconds waited between attempts, Retry-After included."""
    bytes: int = 0
    """Length of the response bodies, uncompressed."""
    duplicates: int = 0
    """Rows received again with an id already seen."""
    changed_duplicates: int = 0
    """Duplicates whose bytes had changed; the later one is kept."""
    cut_rows: int = 0
    """Rows asked for in the margin and cut, since they end outside of the window."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each phase: `walk`, `recheck`, `quotes`, `price_history`."""

    def add(self, other: "ApiStats") -> None:
        """Add another's figures to these."""
        for each in fields(self):
            mine, more = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, dict):
                for key, value in more.items():
                    mine[key] = mine.get(key, 0) + value
            else:
                setattr(self, each.name, mine + more)

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain JSON, rounded to milliseconds."""
        return asdict(self.rounded())

    def rounded(self) -> "ApiStats":
        """The figures with times in milliseconds, causes in order."""
        return replace(
            self,
            retries=dict(sorted(self.retries.items())),
            throttle_seconds=round(self.throttle_seconds, 3),
            backoff_seconds=round(self.backoff_seconds, 3),
            seconds={phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
