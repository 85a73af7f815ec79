"""Addresses that are private in any spelling, and connections that go to what was checked."""

import asyncio
import ipaddress
import socket
from typing import Any

import httpx
import pytest

from predictbench_assets.public_addresses import (
    AddressRefused,
    CheckedTransport,
    is_public,
    literal_address,
    refusal,
)

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["93.184.215.14", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_have_to_be_allowed(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert "private network" in str(refusal("https", ipaddress.ip_address(address), allow_private=False))
    assert refusal("http", ipaddress.ip_address(address), allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called_by_https_alone(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert refusal("https", ipaddress.ip_address(address), allow_private=False) is None
    assert "only https" in str(refusal("http", ipaddress.ip_address(address), allow_private=True))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("93.184.215.14", "93.184.215.14"),
        ("localhost", None),
        ("example.org", None),
    ],
)
def test_an_address_is_read_in_any_spelling(host: str, address: str | None) -> None:
    assert str(literal_address(host)) == str(address)


class Taken(httpx.AsyncBaseTransport):
    """Notes where it is asked to send; the addresses of `away` take no connection."""

    def __init__(self, *away: str) -> None:
        self.away = away
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host in self.away:
            raise httpx.ConnectError("refused")
        return httpx.Response(200)


class Names:
    """A resolver with another answer each time; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]


def fetch(
    inner: Taken, names: Names, monkeypatch: pytest.MonkeyPatch, *urls: str, allow_private: bool = False, **how: bool
) -> None:
    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
        transport = CheckedTransport(inner, allow_private=allow_private, **how)
        async with httpx.AsyncClient(transport=transport) as client:
            for url in urls:
                await client.post(url, content=b"body")

    asyncio.run(ask())


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, names = Taken(), Names(["93.184.215.14"], ["127.0.0.1"])
    fetch(inner, names, monkeypatch, "https://x.example/a", "https://x.example/b")
    assert [str(request.url) for request in inner.requests] == ["https://93.184.215.14/a", "https://93.184.215.14/b"]
    assert {request.headers["host"] for request in inner.requests} == {"x.example"}
    assert {request.extensions["sni_hostname"] for request in inner.requests} == {"x.example"}
    assert names.asked == 1


def test_a_name_that_turns_private_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, names = Taken("93.184.215.14"), Names(["93.184.215.14"], ["10.0.0.1"])
    with pytest.raises(httpx.ConnectError):
        fetch(inner, names, monkeypatch, "https://x.example/")
    with pytest.raises(
        AddressRefused, match=r"^x\.example stands for 10\.0\.0\.1, which is an address of this machine"
    ):
        fetch(inner, names, monkeypatch, "https://x.example/")
    assert {request.url.host for request in inner.requests} == {"93.184.215.14"}


def test_the_next_public_address_is_tried_and_no_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Taken("2606:4700::1111")
    fetch(inner, Names(["10.0.0.1", "2606:4700::1111", "93.184.215.14"]), monkeypatch, "https://x.example:8443/")
    assert [request.url.host for request in inner.requests] == ["2606:4700::1111", "93.184.215.14"]
    assert {request.url.port for request in inner.requests} == {8443}


def test_a_name_of_a_private_network_goes_nowhere_else_in_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Taken()
    fetch(inner, Names(["10.0.0.1"]), monkeypatch, "http://intranet/", allow_private=True)
    assert [request.url.host for request in inner.requests] == ["10.0.0.1"]
    with pytest.raises(AddressRefused, match="which is on the public internet, where only https is used"):
        fetch(inner, Names(["93.184.215.14"]), monkeypatch, "http://intranet/", allow_private=True)


def test_pools_take_turns() -> None:
    pools = Taken(), Taken()

    async def ask() -> None:
        async with httpx.AsyncClient(transport=CheckedTransport(*pools, allow_private=True)) as client:
            for number in range(4):
                await client.post(f"http://127.0.0.1/{number}")

    asyncio.run(ask())
    assert [[request.url.path for request in pool.requests] for pool in pools] == [["/0", "/2"], ["/1", "/3"]]


def test_an_unknown_name_is_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.ConnectError, match=r"the name x\.example cannot be looked up"):
        fetch(Taken(), Names([]), monkeypatch, "https://x.example/")


def test_a_proxy_is_given_the_name_and_no_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, names = Taken(), Names(["127.0.0.1"])
    fetch(inner, names, monkeypatch, "https://x.example/", by_proxy=True)
    assert ([request.url.host for request in inner.requests], names.asked) == (["x.example"], 0)
    for url in ("https://0x7f.1/", "https://[fe80::1]/", "http://x.example/"):
        with pytest.raises(AddressRefused):
            fetch(inner, names, monkeypatch, url, by_proxy=True)
    assert len(inner.requests) == 1
