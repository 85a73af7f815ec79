"""HTTP clients, made in one place: the proxies and certificates that the shell's environment names, checked first.

The client library reads the same variables when a client is made, and raises whatever comes up. Here each one is looked
at by name. What is on this machine is always called directly.
"""

import asyncio
import ipaddress
import logging
import os
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import certifi
import httpx

from predictbench_assets.failures import PermanentError
from predictbench_assets.public_addresses import CheckedTransport
from predictbench_assets.texts import trimmed

_SCHEMES = ("http", "https", "all")
_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Name certificates to trust instead of the usual ones; the first that is set wins."""

_OF_STORES = "AWS_CA_BUNDLE"
_PROXIES = tuple(f"{scheme.upper()}_PROXY" for scheme in _SCHEMES)
VARIABLES = frozenset({*_BUNDLES, "SSL_CERT_DIR", "SSLKEYLOGFILE", "NO_PROXY", *_PROXIES})
"""Everything of the environment that decides how an address is reached, in upper case."""

_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")

_LONGEST_ANSWER = 1 << 20
_CONNECTIONS_OF_A_POOL = 8
_MOST_POOLS = 16

_Transport = TypeVar("_Transport")
_log = logging.getLogger(__name__)


class WebEnvironmentError(PermanentError):
    """A variable of the environment that HTTP clients read names a proxy or a certificate that cannot be used."""


def ask(
    method: str,
    url: str,
    *,
    limit_s: float,
    longest: int = _LONGEST_ANSWER,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
) -> httpx.Response:
    """One request and its answer, all of it within so many seconds: a time-out of each read would end no trickle.

    Args:
        method: GET, POST, ...
        url: with its scheme.
        limit_s: seconds from looking the host up to the last byte.
        longest: bytes of the answer that are read; what follows them is left.
        headers: headers to send; the answer is requested uncompressed.
        content: body to send.

    Raises:
        WebEnvironmentError: names the variable at fault.
        httpx.TimeoutException: it took longer.
        httpx.HTTPError, httpx.InvalidURL: there is no answer.
    """
    return asyncio.run(_answered_in_time(method, url, limit_s, longest, headers or {}, content))


async def _answered_in_time(
    method: str, url: str, limit_s: float, longest: int, headers: Mapping[str, str], content: bytes | None
) -> httpx.Response:
    sent = {"Accept-Encoding": "identity", **headers}
    received = bytearray()
    try:
        async with (
            asyncio.timeout(limit_s),
            async_client(timeout_s=limit_s, connections=1, headers=sent) as client,
            client.stream(method, url, content=content) as answer,
        ):
            parts = answer.aiter_raw()
            while len(received) < longest and (part := await anext(parts, b"")):
                received += part
    except TimeoutError:
        raise httpx.TimeoutException(f"no whole answer within {limit_s:g} s") from None
    return httpx.Response(answer.status_code, content=bytes(received[:longest]), request=answer.request)


def async_client(*, timeout_s: float, connections: int, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """A client for asynchronous use, with at most so many connections.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    trusted = trusted_certificates()
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    mounts = routes(lambda proxy: httpx.AsyncHTTPTransport(verify=trusted, proxy=proxy, limits=limits))
    return httpx.AsyncClient(
        timeout=timeout_s, verify=trusted, trust_env=False, mounts=mounts, limits=limits, headers=headers
    )


def checked_client(
    *, timeout_s: float, connections: int, headers: Mapping[str, str], allow_private: bool
) -> httpx.AsyncClient:
    """A client for one host that a stranger keeps: it reaches no private address unless that is allowed.

    Where a proxy is in between, it is the proxy that looks names up, and that has to refuse private addresses.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    trusted = trusted_certificates()
    # Many servers close what is idle for five seconds, and a request that meets the closing is lost.
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=3)

    # A pool looks at each pair of its connections for each request: many small ones cost a fraction of a large one.
    pools = min(_MOST_POOLS, 1 + (connections - 1) // _CONNECTIONS_OF_A_POOL)

    def transport(proxy: httpx.Proxy | None) -> httpx.AsyncBaseTransport:
        inner = (
            httpx.AsyncHTTPTransport(verify=trusted, trust_env=False, proxy=proxy, limits=limits) for _ in range(pools)
        )
        return CheckedTransport(*inner, allow_private=allow_private, by_proxy=proxy is not None)

    return httpx.AsyncClient(
        timeout=timeout_s,
        trust_env=False,
        transport=transport(None),
        mounts=routes(transport),
        headers=headers,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none is kept from one request to the next
        follow_redirects=False,
    )


def retry_after(response: httpx.Response, now: Callable[[], datetime]) -> float | None:
    """Seconds that a Retry-After asks for; a date in it is read by the server's own clock, where it sends it.

    Args:
        response: the answer with the header.
        now: the time, where the server does not send its own.
    """
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    until = http_date(text)
    if until is None:
        return None
    return (until - (http_date(response.headers.get("date", "")) or now())).total_seconds()


def http_date(text: str) -> datetime | None:
    """The instant that a header such as `Date` names, UTC; None where it names none."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, IndexError, OverflowError):
        return None


def check_environment() -> None:
    """Look at what a client would need, so that nothing is begun that cannot be ended.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    trusted_certificates()
    routes(lambda proxy: proxy)


def proxy_hint(url: str) -> str:
    """A remark for an address that was not reached: whether a proxy was in between, by its variable; else empty."""
    host, scheme = httpx.URL(url).host, httpx.URL(url).scheme
    proxies = _proxies()
    if host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return ""
    used = next((one for one in (scheme, "all") if one in proxies), None)
    return f" (through the proxy of {_variable(used)})" if used else ""


def check_store_environment() -> None:
    """Look at what the client of an object store reads by itself.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    if place := trimmed(os.environ.get(_OF_STORES, "")):
        _context(_OF_STORES, place)


def trusted_certificates() -> ssl.SSLContext:
    """The certificates that count.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    name = next((one for one in (*_BUNDLES, "SSL_CERT_DIR") if trimmed(os.environ.get(one, ""))), None)
    return _context(name or "certifi", trimmed(os.environ[name]) if name else certifi.where())


def _context(name: str, place: str) -> ssl.SSLContext:
    """A context that trusts the certificates of a file or a folder."""
    keys = os.environ.get("SSLKEYLOGFILE")  # Python opens it for every context
    try:
        return _read_context(place, Path(place).stat().st_mtime_ns, keys)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        if keys and not _can_append(Path(keys)):
            raise WebEnvironmentError(
                f"SSLKEYLOGFILE names {keys}, which cannot be written to: correct or unset it."
            ) from error
        raise WebEnvironmentError(
            f"{name} names {place}, which holds no certificates that can be read: correct or unset it."
        ) from error


@lru_cache(maxsize=4)
def _read_context(place: str, _changed_ns: int, _keys: str | None) -> ssl.SSLContext:
    """The context, which takes 20 ms to read, once for as long as nothing that it is made of has changed."""
    if Path(place).is_dir():
        return ssl.create_default_context(capath=place)
    return ssl.create_default_context(cafile=place)


def _can_append(file: Path) -> bool:
    try:
        with file.open("ab"):
            return True
    except OSError:
        return False


def routes(through: Callable[[httpx.Proxy], _Transport]) -> dict[str, _Transport | None]:
    """Proxies by the addresses that go through them; None is called directly.

    Args:
        through: makes what a client needs of a proxy.

    Raises:
        WebEnvironmentError: names the variable at fault.
    """
    proxies = _proxies()
    exceptions = list(_exceptions(_no_proxy())) if proxies else []
    if not proxies or "*" in exceptions:
        return {}
    mounts: dict[str, _Transport | None] = {f"all://{host}": None for host in _THIS_MACHINE}
    mounts |= dict.fromkeys(exceptions)
    for scheme, address in proxies.items():
        try:
            proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
            if not proxy.url.host or not 0 < (proxy.url.port or 80) < 65536:
                raise ValueError
            mounts[f"{scheme}://"] = through(proxy)
        except (ValueError, httpx.InvalidURL):  # neither text is shown: the address may hold a password
            raise WebEnvironmentError(
                f"{_variable(scheme)} is not the address of a proxy that can be used (http://host:port, https://..., "
                "socks5://... or socks5h://...): correct or unset it."
            ) from None
    return mounts


def _proxies() -> dict[str, str]:
    """The proxies by scheme, from the environment, or where it names none from the system's settings."""
    found = urllib.request.getproxies()
    return {scheme: trimmed(found[scheme]) for scheme in _SCHEMES if trimmed(found.get(scheme, ""))}


def _no_proxy() -> str:
    return urllib.request.getproxies().get("no", "")


def _variable(scheme: str) -> str:
    """The variable that named a proxy, in the spelling that was used."""
    spellings = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in spellings if os.environ.get(name)), "the system's setting for proxies")


def _exceptions(no_proxy: str) -> Iterator[str]:
    """The client library's patterns for what needs no proxy; an entry that cannot be read is passed over."""
    for entry in filter(None, map(trimmed, no_proxy.split(","))):
        if entry == "*":
            yield entry
        elif (address := _address(entry)) is not None:
            yield f"all://[{address}]" if address.version == 6 else f"all://{address}"
        elif not _is_network(entry):  # of which no host of ours is part by its name
            pattern = entry if "://" in entry else f"all://{entry if entry.lower() == 'localhost' else f'*{entry}'}"
            try:
                httpx.URL(pattern)
            except httpx.InvalidURL:
                _warn_of(entry)
            else:
                yield pattern


def _address(entry: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(entry.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return True


@lru_cache
def _warn_of(entry: str) -> None:
    _log.warning("NO_PROXY: %r is neither a host nor an address, and is passed over", entry)
