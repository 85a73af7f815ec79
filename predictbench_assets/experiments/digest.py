"""The digest of a run: one hash over all its forecasts, in a form that anyone can write down again.

`predictbench-forecasts-1` is the SHA-256, in hexadecimal, of these lines in UTF-8, each ended by a line feed:

- the algorithm's name, the run date and the window;
- a line for each completed forecast of the run, of every attempt: experiment, version, attempt, market id, probability
  of the first outcome, the instant it was made, the snapshot's hash and the configuration's hash.

Fields are parted by tabs. Forecasts are sorted by experiment, version, attempt (as a number) and market id, texts as
their UTF-8 bytes are. A probability is the shortest decimal that reads back as the same double, `0` and `1` without a
point and with an exponent below 1e-4 (`1e-05`); an instant is UTC to the microsecond, `2026-11-23T07:01:12.000000Z`; a
value that is not there is `\\N`. In texts a backslash, tab, line feed, carriage return, backspace, form feed or
vertical tab is written with a backslash: `\\\\ \\t \\n \\r \\b \\f \\v`. That is how COPY of Postgres writes them, so a
database computes the digest as fast as it reads.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Final, NamedTuple

from predictbench_assets.runs import RunKey

ALGORITHM: Final = "predictbench-forecasts-1"

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v"})
_IN_ORDER = itemgetter(0, 1, 2, 3)


@dataclass(frozen=True)
class ForecastDigest:
    """The digest of a run's forecasts as they were stored at one moment."""

    digest: str
    """64 hexadecimal digits."""
    forecasts: int
    made_at: datetime
    """Forecasts that were stored later are not in it."""
    algorithm: str = ALGORITHM


class DigestedForecast(NamedTuple):
    """The fields of one forecast that the digest covers."""

    experiment: str
    version: str
    attempt: int
    market_id: str
    probability: float
    forecast_at: datetime | None
    snapshot_hash: str | None
    config_hash: str | None

    def line(self) -> bytes:
        """Line of one forecast, line feed included."""
        fields = (
            _text(self.experiment),
            _text(self.version),
            str(self.attempt),
            _text(self.market_id),
            repr(self.probability).removesuffix(".0"),
            _instant(self.forecast_at),
            _text(self.snapshot_hash),
            _text(self.config_hash),
        )
        return ("\t".join(fields) + "\n").encode()


class ForecastHasher:
    """Hashes the lines of one run as they come, in blocks of any size."""

    def __init__(self, key: RunKey) -> None:
        self._hash = hashlib.sha256(f"{ALGORITHM}\t{key.run_date.isoformat()}\t{key.window_days}\n".encode())
        self.forecasts = 0

    def update(self, lines: bytes | memoryview) -> None:
        """Add a block of lines, whole or not."""
        self._hash.update(lines)
        self.forecasts += bytes(lines).count(b"\n")  # those within a text are written with a backslash

    def made_at(self, instant: datetime) -> ForecastDigest:
        """The digest of what was added."""
        return ForecastDigest(self._hash.hexdigest(), self.forecasts, instant)


def digest_of(key: RunKey, forecasts: Iterable[DigestedForecast], made_at: datetime) -> ForecastDigest:
    """The digest of a run's forecasts, given in any order."""
    hasher = ForecastHasher(key)
    for forecast in sorted(forecasts, key=_IN_ORDER):
        hasher.update(forecast.line())
    return hasher.made_at(made_at)


def _text(value: str | None) -> str:
    return r"\N" if value is None else value.translate(_ESCAPES)


def _instant(value: datetime | None) -> str:
    return r"\N" if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
