"""Addresses of servers that paid calls go to: what one looks like, and which is the provider's own."""

import re
from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator

from predictbench_assets.settings import Settings

_OWN: Final = {
    "OPENAI": ("https://api.openai.com/v1",),
    "ANTHROPIC": ("https://api.anthropic.com",),
    "GOOGLE": ("https://generativelanguage.googleapis.com",),
}
"""Where the clients ask without an address; not those of a region, which are asked as they are given."""


def server_address(text: str) -> str:
    """The address of a server, checked.

    Raises:
        ValueError: it is none, or has a user or a password in it; the text does not quote it.
    """
    try:
        url = urlsplit(text)
        found = url.hostname and url.port != 0 and re.fullmatch(r"https?://[^\s?#]+", text) and text.isprintable()
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):  # of its port, or its host
        found = None
    if not found:
        raise ValueError("expected an address such as https://models.example/v1, its port, if any, from 1 to 65535")
    if url.username is not None:
        raise ValueError("it holds a user or a password: put the secret into a variable, see api_key")
    return text


ServerAddress = Annotated[str, AfterValidator(server_address)]


def address_variable(name: str, settings: Settings) -> str | None:
    """The address in a variable, such as `OPENAI_BASE_URL`; None where it is unset.

    Raises:
        ValueError: it is no address; names the variable.
        SettingsError: as `Settings.provider_variable`.
    """
    given = settings.provider_variable(name)
    try:
        return None if given is None else server_address(given.get_secret_value())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def elsewhere(address: str | None, own: Sequence[str]) -> str | None:
    """The address, or None where it is one of the provider's own, which is as if none was given."""
    return None if address is None or same_address(address) in map(same_address, own) else address


def same_address(address: str) -> str:
    """One spelling for all of an address: host in small letters, no usual port, no slash at the end."""
    return str(httpx.URL(address)).rstrip("/")


def own_addresses(provider: str) -> Sequence[str]:
    """The addresses that a provider's client asks without one, as far as they are known."""
    return _OWN.get(prefix(provider), ())


def prefix(provider: str) -> str:
    """What a provider's variables begin with."""
    name = provider.removesuffix("-chat").removesuffix("-responses").removesuffix("-decisions")
    return name.upper().replace("-", "_")
