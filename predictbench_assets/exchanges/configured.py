"""The exchange that the settings name: the one place of a run where an exchange is chosen."""

import random

from predictbench_assets.exchanges.exchange import Exchange
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.exchanges.polymarket.kept_listings import KeptListings
from predictbench_assets.settings import Settings


def configured_exchange(settings: Settings) -> Exchange:
    """The exchange of the settings; one instance serves one event loop at a time."""
    client = PolymarketClient(
        settings.polymarket_base_url,
        settings.polymarket_clob_url,
        clock=settings.clock,
        api_key=settings.polymarket_api_key,
        page_size=settings.polymarket_page_size,
        requests_per_second=settings.polymarket_requests_per_second,
        concurrency=settings.polymarket_concurrency,
        shared_by=settings.predictbench_shared_by,
        timeout_s=settings.polymarket_timeout_seconds,
        max_attempts=settings.polymarket_max_attempts,
        answer_limit=settings.polymarket_max_answer_mb * 1_000_000,
        listing_limit=settings.polymarket_max_listing_mb * 1_000_000,
        rng=random.Random(),  # noqa: S311 - which slice is walked twice is no secret
    )
    return Polymarket(
        client,
        host=settings.exchange,
        clock=settings.clock,
        price_history=settings.polymarket_price_history,
        kept=KeptListings(settings.home / "listings", settings.polymarket_base_url),
    )
