"""Addresses of the public internet, told from those of this machine and of the networks that it stands in.

A name is looked up once, what it stands for is checked, and the connection goes to what was checked: a second look-up
could give another address.
"""

import asyncio
import ipaddress
import itertools
import socket
import time
from collections.abc import Sequence
from typing import Final

import httpx

from predictbench_assets.failures import PermanentError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOKED_UP_S: Final = 60.0
"""Seconds for which a look-up holds."""

_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 behind a translator, RFC 6052."""

_LOCAL: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # of protocols, RFC 6890; metadata at one provider of clouds
        "168.63.129.16/32",  # the inner services of another, at an address that looks public
        "64:ff9b:1::/48",  # a translator of the network's own, RFC 8215
    )
)


class AddressRefused(PermanentError):
    """A host stands for no address that may be called; the text names neither a path nor a user."""


def is_public(address: Address) -> bool:
    """True for an address that belongs to the public internet, also where an IPv6 address wraps one of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
            return is_public(inner)
        if address in _TRANSLATED:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address.is_site_local:
            return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _LOCAL)


def literal_address(host: str) -> Address | None:
    """The address that a host is without a look-up, in any spelling that a system reads; None for a name.

    The old forms of IPv4 are among them: a decimal (2130706433), hexadecimal or octal number, or fewer than four parts.
    """
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def refusal(scheme: str, address: Address, *, allow_private: bool) -> str | None:
    """The reason why an address is not called; None where it may be.

    On the public internet https is needed. Other addresses have to be allowed, and are then called in plain http too.
    """
    if is_public(address):
        return None if scheme == "https" else "is on the public internet, where only https is used"
    return None if allow_private else "is an address of this machine or of a private network"


class CheckedTransport(httpx.AsyncBaseTransport):
    """A transport that connects to addresses which were checked, and to no others. Meant for one host.

    Args:
        inner: send, in turn; they are given addresses in place of names, and prove the certificate for the name.
        allow_private: whether addresses of this machine and of private networks may be called.
        by_proxy: whether `inner` send through a proxy. That looks names up itself, so only hosts that are addresses
            can be checked here.
    """

    def __init__(self, *inner: httpx.AsyncBaseTransport, allow_private: bool, by_proxy: bool = False) -> None:
        self._inner = inner
        self._in_turn = itertools.cycle(inner)
        self._allow_private = allow_private
        self._by_proxy = by_proxy
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the first allowed address that takes a connection.

        Raises:
            AddressRefused: the host has no address that is allowed.
            httpx.TransportError: there is no answer.
        """
        url, host = request.url, request.url.raw_host.decode("ascii")
        if self._by_proxy:
            if (literal := literal_address(host)) is not None:
                self._allowed(url, [literal])
            elif url.scheme != "https" and not self._allow_private:
                raise AddressRefused(f"{host} would be called without https")
            return await next(self._in_turn).handle_async_request(request)
        failure: httpx.TransportError | None = None
        for address in self._allowed(url, await self._addresses(url)):
            sent = httpx.Request(
                request.method,
                url.copy_with(host=str(address)),
                headers=request.headers,  # with the name as Host
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host.removeprefix("[").removesuffix("]")},
            )
            try:
                return await next(self._in_turn).handle_async_request(sent)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        self._known.clear()
        raise failure or httpx.ConnectError(f"{host} has no address")

    async def aclose(self) -> None:
        """Close the transports within."""
        for inner in self._inner:
            await inner.aclose()

    def _allowed(self, url: httpx.URL, addresses: Sequence[Address]) -> list[Address]:
        reasons = {one: refusal(url.scheme, one, allow_private=self._allow_private) for one in addresses}
        allowed = [one for one, reason in reasons.items() if reason is None]
        if reasons and not allowed:
            address, reason = next(iter(reasons.items()))
            shown = url.host if literal_address(url.host) == address else f"{url.host} stands for {address}, which"
            raise AddressRefused(f"{shown} {reason}")
        return allowed

    async def _addresses(self, url: httpx.URL) -> list[Address]:
        """The addresses of a host, in the system's order of preference."""
        place = url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        until, known = self._known.get(place, (0.0, []))
        if time.monotonic() < until:
            return known
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                place[0].removeprefix("[").removesuffix("]"), place[1], type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            raise httpx.ConnectError(f"the name {url.host} cannot be looked up") from None
        addresses = [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
        self._known[place] = time.monotonic() + _LOOKED_UP_S, addresses
        return addresses
