"""The exchange: reachable, and its rows and quotes as the client reads them; and whether its clock agrees with ours."""

import asyncio
from collections.abc import Iterator

from predictbench_assets import web
from predictbench_assets.clock import SKEW_NOTED, SKEW_REFUSED, Clock
from predictbench_assets.diagnosis.checks import Finding, clock_finding, failed
from predictbench_assets.exchange_names import exchange_label
from predictbench_assets.exchanges.polymarket.contract import ExchangeUnreachable, examine
from predictbench_assets.settings import Settings

_TIMEOUT_S = 6.0
_ATTEMPTS = 2
_CLOCK = "clock of the exchange"


def exchange_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """A page of the listing and a few quotes, in two requests."""
    try:
        examination = asyncio.run(
            examine(
                settings.polymarket_base_url,
                settings.polymarket_clob_url,
                clock=clock,
                opens=settings.clock.now(),
                api_key=settings.polymarket_api_key,
                rejected_share_limit=settings.rejected_share_limit,
                timeout_s=min(settings.polymarket_timeout_seconds, _TIMEOUT_S),
                max_attempts=_ATTEMPTS,
                brief=True,
            )
        )
    except ExchangeUnreachable as error:
        yield failed("exchange", error, "check the network (Polymarket may be blocked here), POLYMARKET_BASE_URL")
        yield Finding("skip", _CLOCK, "the exchange was not reached")
        return
    except web.WebEnvironmentError as error:
        yield failed("exchange", error)
        yield Finding("skip", _CLOCK, "the exchange was not asked")
        return
    deviations = [finding for finding in examination.deviations if finding.name != "clock"]
    for one in deviations:
        found = f"{one.name}: expected {one.expected}; seen: {one.seen}"
        yield Finding("fail", "exchange", found, "`predictbench contract` tells more")
    if not deviations:
        by_name = {finding.name: finding.seen for finding in examination.findings}
        seen = "; ".join(by_name[name] for name in ("rows that are read", "quotes") if name in by_name)
        yield Finding("ok", "exchange", f"{exchange_label(settings.exchange)}: {seen}")
    yield clock_finding(_CLOCK, examination.skew, warn=SKEW_NOTED, fail=SKEW_REFUSED)
