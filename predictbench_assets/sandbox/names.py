"""The words of the sandbox's world: fictional people, places, clubs and companies, and questions about them."""

import re
import unicodedata
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Tag:
    """A topic by which markets are filtered."""

    number: int
    label: str
    slug: str


@dataclass(frozen=True, slots=True)
class Category:
    """Subject of a market, with the fee type by which Polymarket gives it away."""

    name: str
    fee_type: str | None
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """Events that recur."""

    number: int
    slug: str
    title: str
    recurrence: str


def _category(name: str, fee_type: str | None, *tags: tuple[int, str]) -> Category:
    return Category(
        name, fee_type, tuple(Tag(number, label, label.lower().replace(" ", "-")) for number, label in tags)
    )


POLITICS = _category("politics", "politics_fees", (2, "Politics"), (144, "Elections"))
GEOPOLITICS = _category("geopolitics", None, (100265, "Geopolitics"), (101970, "World"))
ECONOMICS = _category("economics", "economics_fees", (100328, "Economy"))
FINANCE = _category("finance", "finance_fees", (120, "Finance"))
TECH = _category("tech", "tech_fees", (1401, "Tech"))
CULTURE = _category("culture", "culture_fees", (596, "Culture"))
WEATHER = _category("weather", "weather_fees", (84, "Weather"))
MENTIONS = _category("mentions", "mentions_fees", (100343, "Mentions"))
SOCCER = _category("sports", "sports_fees_v3", (1, "Sports"), (100350, "Soccer"))
BASKETBALL = _category("sports", "sports_fees_v3", (1, "Sports"), (28, "Basketball"))
TENNIS = _category("sports", "sports_fees_v3", (1, "Sports"), (864, "Tennis"))
ESPORTS = _category("sports", "sports_fees_v3", (1, "Sports"), (64, "Esports"))
BITCOIN = _category("crypto", "crypto_fees_v2", (21, "Crypto"), (235, "Bitcoin"))
ETHEREUM = _category("crypto", "crypto_fees_v2", (21, "Crypto"), (39, "Ethereum"))
SOLANA = _category("crypto", "crypto_fees_v2", (21, "Crypto"), (818, "Solana"))

DECIDED_BY_NEWS = (POLITICS, GEOPOLITICS, ECONOMICS, FINANCE, TECH, CULTURE, MENTIONS)


@dataclass(frozen=True, slots=True)
class Coin:
    """Something whose price goes up or down."""

    name: str
    symbol: str
    category: Category


COINS = (Coin("Bitcoin", "btc", BITCOIN), Coin("Ethereum", "eth", ETHEREUM), Coin("Solana", "sol", SOLANA))

_PEOPLE = (
    "Ada Lindqvist", "Bram Okonjo", "Chiara Vale", "Dmitri Aster", "Esi Thornbury", "Farid Calloway", "Greta Moss",
    "Hugo Penhallow", "Iris Takeda", "Jonas Ferreira", "Kaia Brandt", "Leopold Quist", "Mira Sandoval", "Nils Øverby",
    "Oona Fairweather", "Pavel Zíka", "Quentin Abara", "Rosa Łukasik", "Søren Dahl", "Tamsin Ó Briain", "Umar Velez",
    "Vesna Ković", "Wren Halloran", "Ximena Ruiz-Peña", "Yusuf Aldane", "Zoë Marchetti", "東山 結衣",
)  # fmt: skip
_PLACES = (
    "Port Maren", "Östervik", "New Caldera", "São Vale", "Lake Harrow", "Tarn Valley", "Kestrel Bay", "Aldermoor",
    "Vostria", "Belmora", "Nueva Arda", "Qasr Alun", "Fjordheim", "Mirabel", "Highmere", "Łodwin",
)  # fmt: skip
_COMPANIES = (
    "Northwind Labs", "Halcyon Motors", "Quanta Foods", "Bluefin Air", "Orbital Dynamics", "Verdant Energy",
    "Pixelforge", "Lumen Health", "Café Numérique", "Ironbark Mining", "Skylark Media", "Tessera AI",
)  # fmt: skip
_CLUBS = (
    "Maren Rovers", "Östervik IF", "Caldera United", "SC São Vale", "Harrow Town", "Tarn Athletic", "Kestrel City",
    "Aldermoor FC", "Vostria Dynamo", "Belmora Stars", "Arda Club", "Alun Falcons", "Fjordheim BK", "Mirabel Saints",
)  # fmt: skip
_TITLES = ("mayor of", "governor of", "prime minister of", "speaker of the assembly of", "chancellor of")
_PRIZES = (
    "the Golden Lantern",
    "Album of the Season",
    "the Meridian Open",
    "the Grand Tour",
    "Best Picture at Fjordheim",
)
_NUMBERS = ("flights", "strikes", "posts", "deals", "launches", "new stores", "recalls", "earthquakes near")
_DEEDS = (
    ("announce a merger", FINANCE), ("release a new model", TECH), ("cut its forecast", FINANCE),
    ("settle the lawsuit", CULTURE), ("name a new chief executive", TECH), ("raise prices", ECONOMICS),
    ("open a new plant", ECONOMICS), ("be mentioned in the keynote", MENTIONS), ("file for an IPO", FINANCE),
)  # fmt: skip
_ACTS = (
    ("sign the treaty", GEOPOLITICS), ("call an election", POLITICS), ("ban imports", ECONOMICS),
    ("pass the budget", POLITICS), ("close the border", GEOPOLITICS), ("host the summit", GEOPOLITICS),
    ("change its flag", CULTURE), ("see snow", WEATHER),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """An event with several markets: its title, the markets' labels, and the sentence that asks about one of them."""

    title: str
    labels: tuple[str, ...]
    sentence: str
    category: Category
    open_ended: bool = False

    def question(self, label: str) -> str:
        """The question of the market with that label."""
        return self.sentence.format(label)


@dataclass(frozen=True, slots=True)
class Game:
    """A match of two sides."""

    title: str
    home: str
    away: str
    base_line: float
    category: Category


def group(rng: Random, when: str) -> Family:
    """Alternatives of which exactly one comes true."""
    kind = rng.randrange(4)
    size = rng.randrange(3, 11)
    if kind == 0:
        office = f"{rng.choice(_TITLES)} {rng.choice(_PLACES)}"
        labels = (*rng.sample(_PEOPLE, size - 1), "Other")
        return Family(f"Who will be the next {office}?", labels, "Will {} be the next " + f"{office}?", POLITICS, True)
    if kind == 1:
        prize = rng.choice(_PRIZES)
        return Family(f"Who will win {prize}?", tuple(rng.sample(_PEOPLE, size)), "Will {} win " + f"{prize}?", CULTURE)
    if kind == 2:
        low = rng.randrange(-5, 30)
        degrees = tuple(f"{low + step}°C" for step in range(1, size - 1))
        labels = (f"{low}°C or below", *degrees, f"{low + size - 1}°C or higher")
        place = f"{rng.choice(_PLACES)} on {when}"
        return Family(
            f"Highest temperature in {place}?",
            labels,
            "Will the highest temperature in " + f"{place} be {{}}?",
            WEATHER,
        )
    width, what, where = rng.choice((5, 10, 20)), rng.choice(_NUMBERS), rng.choice((*_PLACES, *_COMPANIES))
    between = tuple(f"{width * step}-{width * (step + 1) - 1}" for step in range(1, size - 1))
    labels = (f"<{width}", *between, f"{width * (size - 1)}+")
    return Family(
        f"How many {what} {where} by {when}?", labels, "Will there be {} " + f"{what} {where} by {when}?", ECONOMICS
    )


def thresholds(rng: Random, when: str) -> Family:
    """Levels of one quantity, rising: each implies the ones before."""
    count = rng.randrange(3, 8)
    if rng.random() < 0.6:
        coin = rng.choice(COINS)
        base, step = {"btc": (60_000, 4_000), "eth": (2_000, 200), "sol": (80, 10)}[coin.symbol]
        labels = tuple(f"${base + step * place:,}" for place in range(count))
        return Family(
            f"{coin.name} above ___ on {when}?", labels, f"Will {coin.name} be above {{}} on {when}?", coin.category
        )
    company, base = rng.choice(_COMPANIES), rng.randrange(20, 400)
    labels = tuple(f"${base + 5 * place}" for place in range(count))
    return Family(
        f"{company} closes above ___ on {when}?", labels, f"Will {company} close above {{}} on {when}?", FINANCE
    )


def deadline(rng: Random) -> tuple[str, str]:
    """Title of a ladder of deadlines, and its question without the date."""
    if rng.random() < 0.5:
        who, (what, _) = rng.choice(_COMPANIES), rng.choice(_DEEDS)
    else:
        who, (what, _) = rng.choice(_PLACES), rng.choice(_ACTS)
    return f"Will {who} {what} by ___?", f"Will {who} {what}"


def single(rng: Random, when: str) -> tuple[str, Category]:
    """A question on its own."""
    if rng.random() < 0.5:
        who, (what, category) = rng.choice(_COMPANIES), rng.choice(_DEEDS)
    else:
        who, (what, category) = rng.choice(_PLACES), rng.choice(_ACTS)
    return f"Will {who} {what} by {when}?", category


def game(rng: Random) -> Game:
    """A match."""
    category = rng.choice((SOCCER, SOCCER, SOCCER, BASKETBALL, TENNIS, ESPORTS))
    home, away = rng.sample(_PEOPLE if category is TENNIS else _CLUBS, 2)
    line = {"Soccer": 0.5, "Basketball": 205.5, "Tennis": 18.5, "Esports": 1.5}[category.tags[-1].label]
    return Game(f"{home} vs. {away}", home, away, line, category)


def series(category: Category, rng: Random) -> Series | None:
    """The series that an event belongs to, where it belongs to one."""
    if category.name == "sports":
        tag = category.tags[-1]
        return Series(10_000 + tag.number % 1_000, f"{tag.slug}-league", f"{tag.label} League", "daily")
    if category.name == "weather" and rng.random() < 0.8:
        return Series(10_900, "daily-temperature", "Daily Temperature", "daily")
    return None


def short_series(coin: Coin, minutes: int) -> Series:
    """The series of a coin's up-or-down markets of that length."""
    recurrence = "hourly" if minutes == 60 else f"{minutes}m"
    return Series(
        11_000 + COINS.index(coin) * 100 + minutes,
        f"{coin.symbol}-up-or-down-{recurrence}",
        f"{coin.symbol.upper()} Up or Down {recurrence}",
        recurrence,
    )


_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")


def slug(title: str, number: int) -> str:
    """A title as it stands in an address, ending in the number by which it is found."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return f"{_NOT_IN_SLUG.sub('-', plain).strip('-')}-{number}"
