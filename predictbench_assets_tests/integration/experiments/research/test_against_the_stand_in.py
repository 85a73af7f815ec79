"""The pages of the stand-in, which have every leak that there is among them: only clean ones are handed on."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.research.denied import denied_sites
from predictbench_assets.experiments.research.experiment import handed_on
from predictbench_assets.experiments.research.leaks import Sifted, leaked, sifted
from predictbench_assets.experiments.research.search import Exa, HttpSearch, Search, Tavily
from predictbench_assets.sandbox.models.server import StandIn

NOW = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
UNTIL = NOW + timedelta(hours=24)


def found(client: HttpSearch) -> Sifted:
    async def search() -> Sifted:
        async with client.opened(1):
            wanted = Search("Will the bill pass?", UNTIL, denied_sites().hosts, 20)
            reply = await client.send(client.content(wanted), FixedClock(NOW), 5.0)
            sources = client.sources(reply.response, reply.answered_at)
            return sifted(sources, until=UNTIL, now=NOW, denied=denied_sites())

    return asyncio.run(search())


@pytest.mark.parametrize("key", ["stand-in", "stand-in-leaky"])
@pytest.mark.parametrize("kind", [Exa, Tavily])
def test_what_is_handed_on_tells_no_price(stand_in: StandIn, kind: type[HttpSearch], key: str) -> None:
    service = found(kind(("KEY", SecretStr(key)), f"{stand_in.url}/{kind.name}"))
    handed = handed_on(service.kept, 12_000)
    assert {one["url"].split("/")[2] for one in handed} == {
        *("www.daily-courier.example", "records.example", "markets-today.example", "forum.example")
    }
    texts = "\n".join(f"{one['title']} {one['text']}" for one in handed)
    assert "There is no consensus" in texts
    assert "The next meeting is in two weeks." in texts
    assert "¢" not in texts
    assert "implied" not in texts
    assert "\u202e" not in texts
    assert not leaked(texts)
    assert {"name", "late", "undated", "repeated"} <= service.dropped.keys()
    assert ("site" in service.dropped) == ("leaky" in key)
