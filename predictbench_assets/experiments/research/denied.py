"""The sites that no research may read, and how an address of one is recognised however it is written."""

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

UrlLayer = Literal["address", "site", "name"]
"""The layer that an address is stopped by: no address that can be judged, a denied site, a market's name in it."""

LONGEST_ADDRESS: Final = 2_000
"""Characters of an address; nothing longer is judged, and so nothing longer is kept."""

LINK_REMOVED: Final = "[link removed]"
"""In place of an address that was taken out of a text."""

_WORD: Final = re.compile(r"[^\s<>()\[\]\"']+")
_FILE: Final = Path(__file__).with_name("denied.toml")
_DECODINGS: Final = 8
_PUNYCODE: Final = re.compile(r"xn--([a-z0-9-]{1,59})")
_LOOKALIKES: Final = str.maketrans("аеорсухіјѕԁһӏкмтνοαι", "aeopcyxijsdhlkmtvoai")
"""Letters of other alphabets that are drawn like Latin ones."""
_PERHAPS_UNSEEN: Final = re.compile(r"[^\x20-\x7e\n\t]+")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class DeniedSites:
    """Hosts and names of markets.

    Args:
        hosts: in lower case; each stands for all below it.
        names: in lower case, with a blank for whatever may be between two words.
    """

    def __init__(self, hosts: Iterable[str], names: Iterable[str]) -> None:
        self.hosts = tuple(sorted(hosts))
        self.names = tuple(sorted(names))
        self._host = re.compile(
            rf"(?<![a-z0-9-])(?:{'|'.join(map(re.escape, self.hosts))})(?![a-z0-9-])",
        )
        self._name = re.compile("|".join(rf"\b{_spaced(name)}" for name in self.names))
        self._name_in_address = re.compile("|".join(_spaced(name) for name in self.names))

    @property
    def sha256(self) -> str:
        """The hash of the whole list."""
        return hashlib.sha256("\n".join((*self.hosts, "", *self.names)).encode()).hexdigest()

    def layer(self, url: str) -> UrlLayer | None:
        """The layer that stops an address; None for one that may be read.

        An address is looked at decoded, in lower case, with letters of other alphabets as the Latin ones they are drawn
        like, so that neither its spelling nor another address around it (a proxy, an archive, a redirect) hides a site.
        """
        if len(url) > LONGEST_ADDRESS or not _is_web(url):
            return "address"
        plain = re.sub(r"\s", "", plain_address(url))
        if self._host.search(plain):
            return "site"
        return "name" if self._name_in_address.search(plain) else None

    def names_site(self, text: str) -> bool:
        """True for a text with the host of a denied site in it, in an address or by itself."""
        return self._host.search(plain_address(text)) is not None

    def names_market(self, plain: str, *, but: str = "") -> bool:
        """True for a text, as `plain_text` makes it, that names a market.

        Args:
            but: a text, alike, whose names do not count: the question may be about a market itself.
        """
        allowed = {found.group() for found in self._name.finditer(but)}
        return any(found.group() not in allowed for found in self._name.finditer(plain))

    def is_address_of_market(self, word: str) -> bool:
        """True for a word that is an address, with the host of a denied site or a market's name in it."""
        if "." not in word.strip(".,;:!?"):
            return False
        plain = plain_address(word)
        return self._host.search(plain) is not None or (
            "/" in plain and self._name_in_address.search(plain) is not None
        )

    def without_names(self, text: str) -> str:
        """The text without names and hosts of markets."""
        for pattern in (self._host, self._name):
            text = re.sub(pattern.pattern, " ", text, flags=re.IGNORECASE)
        return text


def without_market_links(text: str) -> str:
    """The text without addresses of sites of markets, or with a market's name in them; links to anything else stay."""
    denied = denied_sites()
    return _WORD.sub(lambda word: LINK_REMOVED if denied.is_address_of_market(word.group()) else word.group(), text)


@cache
def denied_sites() -> DeniedSites:
    """The list that comes with the benchmark."""
    listed = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return DeniedSites(listed["hosts"], listed["names"])


def plain_address(url: str) -> str:
    """An address, or a text with some in it, as it is judged: decoded, in lower case, without unseen marks."""
    before, text = "", url
    for _ in range(_DECODINGS):
        if text == before:
            break
        before, text = text, _PUNYCODE.sub(_decoded, plain_text(unquote(text)))
    text = plain_text(text).translate(_LOOKALIKES)
    return text.replace("\\", "/").replace("。", ".")


def plain_text(text: str) -> str:
    """A text as it is judged: compatible letters as plain ones, in lower case, without marks that are not seen."""
    return without_unseen(unicodedata.normalize("NFKC", text)).casefold()


def without_unseen(text: str) -> str:
    """The text without characters that a reader does not see; blanks and line feeds stay."""
    return _PERHAPS_UNSEEN.sub(lambda found: "".join(one for one in found.group() if _is_seen(one)), text)


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in _INVISIBLE


def _decoded(label: re.Match[str]) -> str:
    try:
        return label[1].encode().decode("punycode")
    except (UnicodeError, OverflowError):
        return label[0]


def _spaced(name: str) -> str:
    return r"[\W_]{0,3}".join(map(re.escape, name.split()))


def _is_web(url: str) -> bool:
    if without_unseen(url) != url or any(map(str.isspace, url)):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
