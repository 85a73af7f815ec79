"""Prices of models: the packaged table of genai-prices, and a file of one's own that comes before it.

The file is TOML, a table for each model::

    [[price]]
    model = "openai:my-model"
    base_url = "http://127.0.0.1:8000/v1"  # for a server of one's own, which no public table prices; "*" for any
    input = 0.25  # dollars for a million tokens
    cached_input = 0.025  # default: as input
    output = 2.0
    batch = 0.5  # share of these that a batch costs; default: 1
"""

import hashlib
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import PriceContext
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from predictbench_assets.experiments.model_calls.servers import elsewhere, own_addresses, same_address, server_address
from predictbench_assets.failures import PermanentError
from predictbench_assets.texts import UndecodableFile, read_text

_MILLION: Final = Decimal(1_000_000)
_MOST_BYTES: Final = 1_000_000
_TOKENS_AROUND: Final = 400
"""Tokens that a provider may add to a prompt: marks of turns, its own instructions."""

ANY_SERVER: Final = "*"
"""In place of an address: the provider's own server, and every other."""

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class PricesUnreadable(PermanentError):
    """The file of prices cannot be used; the text names it and the entry."""


class Tokens(BaseModel):
    """The tokens of a call."""

    model_config = ConfigDict(frozen=True)

    input: int
    """All that were sent, the cached ones included."""
    cached: int = 0
    output: int
    searches: int = 0
    """Searches of the provider's own tool."""


class OwnPrice(BaseModel):
    """An entry of the file: dollars for a million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    base_url: str | None = None
    input: Dollars
    cached_input: Dollars | None = None
    output: Dollars = Decimal(0)
    search: Dollars = Decimal(0)
    """Of one search."""
    batch: Annotated[Decimal, Field(ge=0, le=1)] = Decimal(1)

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return value if value is None or value == ANY_SERVER else server_address(value)

    def is_of(self, base_url: str | None) -> bool:
        """True where it is the price of a server; None, like its address written out, is the provider's own."""
        if self.base_url == ANY_SERVER:
            return True
        own = own_addresses(self.model.partition(":")[0])
        mine, asked = elsewhere(self.base_url, own), elsewhere(base_url, own)
        return mine == asked if mine is None or asked is None else same_address(mine) == same_address(asked)

    def cost(self, tokens: Tokens, *, batch: bool = False) -> Decimal:
        """Dollars of a call."""
        cached = self.input if self.cached_input is None else self.cached_input
        plain = (tokens.input - tokens.cached) * self.input + tokens.cached * cached + tokens.output * self.output
        return plain * (self.batch if batch else 1) / _MILLION + tokens.searches * self.search


class PublicPrice(BaseModel):
    """A model of the packaged table."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str

    def cost(self, tokens: Tokens, *, batch: bool = False) -> Decimal:
        """Dollars of a call, by the prices of the day, tiers by the length of the prompt included.

        Raises:
            LookupError: the table has no such model, or no price for batches of it.
        """
        usage = genai_prices.Usage(
            input_tokens=tokens.input,
            cache_read_tokens=tokens.cached,
            output_tokens=tokens.output,
            **({"web_searches": tokens.searches} if tokens.searches else {}),
        )
        context: PriceContext | None = {"processing": "batch"} if batch else None
        found = genai_prices.calc_price(usage, self.model, provider_id=self.provider, price_context=context)
        return Decimal(found.total_price)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    price: tuple[OwnPrice, ...] = ()


class Prices:
    """The prices of an installation.

    Args:
        file: entries that come before the packaged table; None for none.

    Raises:
        PricesUnreadable: the file is not there, or has a mistake.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._own, self._own_table = _read(file) if file is not None else ((), "")

    def price(self, model: str, base_url: str | None = None) -> tuple[OwnPrice | PublicPrice, str] | None:
        """The price of a model, with the table that it is from; None where no table has it.

        A server of one's own is priced by the file alone, whatever its models are named.

        Args:
            model: `provider:name`.
            base_url: address of the server, where it is not the provider's own.
        """
        for one in self._own:
            if one.model == model and one.is_of(base_url):
                return one, self._own_table
        provider, _, name = model.partition(":")
        found = PublicPrice(provider=_PROVIDERS.get(provider, provider), model=name)
        if base_url is not None and not _is_the_providers_own(found.provider, base_url):
            return None
        try:
            found.cost(Tokens(input=1, output=1))
        except LookupError:
            return None
        return found, f"genai-prices {genai_prices.__version__}"


def most_input_tokens(size: int) -> int:
    """Tokens that a text of so many bytes can have, with what a provider adds.

    Tokenizers of today fall back on bytes for what they do not know, so that no byte is more than one token; English
    has one for about four.
    """
    return size + _TOKENS_AROUND


_PROVIDERS: Final = {
    "openai-chat": "openai",
    "openai-responses": "openai",
    "google-cloud": "google",
    "google-decisions": "google",
    "xai": "x-ai",
}
"""Names that the table has for providers that the client has several for, or others."""


def _is_the_providers_own(provider: str, base_url: str) -> bool:
    """True where an address is one of the provider's, as the table knows them."""
    patterns = (one.api_pattern for one in get_snapshot().providers if one.id == provider)
    own = f"https://{urlsplit(base_url).hostname}"
    return any(re.fullmatch(rf"(?:{pattern})(?:/.*)?", own) for pattern in patterns)


def _read(file: Path) -> tuple[tuple[OwnPrice, ...], str]:
    try:
        text = read_text(file, _MOST_BYTES)
        entries = _File.model_validate(tomllib.loads(text)).price
    except UndecodableFile as error:
        raise PricesUnreadable(f"{error} (MODEL_PRICES_FILE)") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise PricesUnreadable(f"{file} has a mistake (MODEL_PRICES_FILE): {problems}") from None
    except (ValueError, RecursionError) as error:
        raise PricesUnreadable(f"{file} is no TOML (MODEL_PRICES_FILE): {error}") from None
    return entries, f"{file.name} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
