"""The most that the paid calls of an experiment may take."""

from decimal import Decimal

import msgspec


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """The most that paid calls may take; None for no limit. A day is one of UTC, by the time of the request."""

    usd_per_day: Decimal | None = None
    tokens_per_day: int | None = None
    calls_per_day: int | None = None
    requests_per_minute: int | None = None
    """Requests to the provider, of all experiments and processes together."""
    usd_per_day_of_all: Decimal | None = None
    """Dollars of all experiments together."""
