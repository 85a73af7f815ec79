"""Sites of markets are recognised however their address is written, and others are let through."""

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.research.denied import LONGEST_ADDRESS, denied_sites

DENIED = denied_sites()
LETTERS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """An address on a denied site, or below one, in any spelling."""
    host = draw(st.sampled_from(DENIED.hosts))
    below = ".".join(draw(st.lists(LETTERS | st.just("xn--bcher-kva"), max_size=3)))
    host = f"{below}.{host}" if below else host
    host = "".join(draw(st.sampled_from((one, one.upper()))) for one in host)
    # The same letters as a browser takes them for: full width, percent-encoded, another full stop.
    wide = st.sampled_from(("", "wide", "encoded", "stops"))
    match draw(wide):
        case "wide":
            host = "".join(chr(ord(one) + 0xFEE0) if one.isalnum() else one for one in host)
        case "encoded":
            host = "".join(f"%{ord(one):02x}" if draw(st.booleans()) else one for one in host)
        case "stops":
            host = host.replace(".", "。")
    user = draw(st.sampled_from(("", "user@", "user:secret@", "news.example@", "news.example:443@")))
    tail = draw(st.sampled_from(("", ".", ":443", ":8080", ".:8443")))
    path = draw(st.sampled_from(("", "/", "/event/some-thing?tid=1#top", "\\@news.example/")))
    return f"{draw(st.sampled_from(('http', 'https', 'HTTPS')))}://{user}{host}{tail}{path}"


@given(spellings())
def test_a_denied_site_is_denied_in_any_spelling(url: str) -> None:
    assert DENIED.layer(url) == "site"


@given(spellings().filter(lambda url: "\\" not in url), st.integers(0, 3))
def test_an_address_around_it_hides_nothing(url: str, times: int) -> None:
    for _ in range(times):
        url = quote(url, safe="")
    around = f"https://archive.example/web/2026/{url}"
    assert len(around) > LONGEST_ADDRESS or DENIED.layer(around) in ("site", "name")


@pytest.mark.parametrize(
    ("url", "layer"),
    [
        ("https://polymarket.copilot.markets/event/x", "site"),
        ("https://polymarket.mirror.example/event/x", "name"),
        ("https://news.example/polymarket-bettors-move", "name"),
        ("https://news.example/why-KALSHI-won", "name"),
        ("https://news.example/paddy_power-specials", "name"),
        ("https://notpolymarket.com/", "name"),
        ("https://xn--polmarket-d1h.com/", None),  # another word altogether
        ("https://xn--olymarket-k3h.com/", "site"),  # the first letter is Cyrillic
        ("https://r.reader.example/https://manifold.markets/someone/will-it", "site"),
        ("javascript:alert(1)", "address"),
        ("https:///nothing", "address"),
        ("https://[::1", "address"),
        ("ftp://news.example/file", "address"),
        ("https://news.example/a b", "address"),
        ("https://news.example/" + "x" * LONGEST_ADDRESS, "address"),
        ("https://www.reuters.com/markets/us/fed-holds-rates-2026-11-20/", None),
        ("https://airlines.com/news", None),
        ("https://www.discovers.com/lines/com", None),
        ("https://e-lines.com/", None),
        ("https://math.example/manifold/limitless", None),
        ("https://weather.example/60%25-chance-of-rain", None),
    ],
)
def test_addresses(url: str, layer: str | None) -> None:
    assert DENIED.layer(url) == layer


@given(st.lists(LETTERS, min_size=2, max_size=4), st.text(string.ascii_letters + "/-_.%?=&", max_size=30))
def test_other_addresses_are_let_through(labels: list[str], path: str) -> None:
    url = f"https://{'.'.join(labels)}.example/{path}"
    plain = url.lower()
    if not any(host.partition(".")[0] in plain for host in DENIED.hosts) and "bet" not in plain:
        assert DENIED.layer(url) is None


def test_the_list_is_a_part_of_the_configuration_by_its_hash() -> None:
    assert len(DENIED.sha256) == 64
    assert {"polymarket.com", "predict.fun", "copilot.markets"} <= set(DENIED.hosts)
