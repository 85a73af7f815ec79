"""The name of the exchange that data come from, and whether that is a simulated one.

Stored with every run and snapshot, so that a later reader of the data can decide it too.
"""

from typing import Final
from urllib.parse import quote, urlsplit

SANDBOX: Final = "localhost"
"""The name of a sandbox on this machine, whatever its port, which changes when it is started again."""


def exchange_name(base_url: str) -> str:
    """The host of an address, without a user; the sandbox's name for this machine's own."""
    address = urlsplit(base_url)
    if address.hostname in ("localhost", "127.0.0.1", "::1"):
        return SANDBOX
    return address.netloc.rpartition("@")[2].lower()


def is_simulated(exchange: str | None) -> bool:
    """True where data from this exchange are made up."""
    return exchange == SANDBOX


def exchange_label(exchange: str) -> str:
    """The name as people should read it: a simulated exchange is called one."""
    return f"{exchange} (simulated)" if is_simulated(exchange) else exchange


def polymarket_address(slug: str) -> str:
    """Address of an event or a market on Polymarket's own site."""
    return f"https://polymarket.com/event/{quote(slug, safe='')}"
