"""The subject of a market, in a dozen words that stay the same while Polymarket's own change."""

import re

from predictbench_assets.exchanges.polymarket.links import game_id
from predictbench_assets.exchanges.polymarket.payloads import GammaMarket

UNCATEGORISED = "uncategorised"
OTHER = "other"

# The order decides where a market's tags name several subjects: the narrower one first.
_SUBJECTS = {
    "mentions": "mentions; mention markets",
    "sports": "sports; sport; games; esports; soccer; football; nfl; nba; mlb; nhl; tennis; ufc; basketball; baseball; "
    "hockey; cricket; golf; f1; formula 1; boxing; epl; olympics; chess",
    "crypto": "crypto; cryptocurrency; bitcoin; ethereum; solana; crypto prices; nfts; defi; airdrops",
    "weather": "weather; climate; temperature; hurricanes; climate & science; natural disasters",
    "geopolitics": "geopolitics; foreign policy; middle east; ukraine; israel; iran; war",
    "economics": "economics; economy; fed; fed rates; fomc; inflation; jobs report; gdp; macro indicators",
    "finance": "finance; business; stocks; earnings; ipo; ipos; commodities; equities; forex",
    "tech": "tech; technology; ai; science; space; big tech; openai",
    "politics": "politics; elections; us-current-affairs; us election; us politics; trump; congress",
    "culture": "culture; pop-culture; pop culture; movies; music; entertainment; celebrities; awards; art",
}
CATEGORIES = (*_SUBJECTS, OTHER, UNCATEGORISED)
"""Every category there is: `other` was given subjects that none of these cover, `uncategorised` none at all."""

_CATEGORY_OF = {word: category for category, words in _SUBJECTS.items() for word in words.split("; ")}
_FIRST_WORD = re.compile(r"[a-z]*")


def categorize(row: GammaMarket) -> str:
    """The category of a market, one of `CATEGORIES`.

    A sports market has a game or a market type; then comes the fee type, which is set per category; then the category
    of the market or its event; then the tags of both. Older markets have none of these.
    """
    if row.sports_market_type or game_id(row):
        return "sports"
    charged_as = _FIRST_WORD.match(row.fee_type or "")
    if charged_as and charged_as.group() in _SUBJECTS:
        return charged_as.group()
    events = row.events or []
    named = [name.strip().lower() for name in (row.category, *(event.category for event in events)) if name]
    for name in named:
        if name in _CATEGORY_OF:
            return _CATEGORY_OF[name]
    tags = [*(row.tags or []), *(tag for event in events for tag in event.tags or [])]
    labels = {label.strip().lower() for tag in tags for label in (tag.slug, tag.label) if label}
    subjects = {_CATEGORY_OF[label] for label in labels if label in _CATEGORY_OF}
    first = next((category for category in _SUBJECTS if category in subjects), None)
    return first or (OTHER if named or labels else UNCATEGORISED)
