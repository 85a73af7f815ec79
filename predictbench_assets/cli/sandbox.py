"""`predictbench sandbox`: a simulated exchange that speaks the real API, and a model that stands in for real ones."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from predictbench_assets.sandbox.afterwards import Afterwards
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.faults import Faults
from predictbench_assets.sandbox.models.server import Settings, StandIn
from predictbench_assets.sandbox.models.server import run as run_models
from predictbench_assets.sandbox.poison import REJECTABLE
from predictbench_assets.sandbox.server import HISTORIES, Histories, run
from predictbench_assets.sandbox.world import MOST_MARKETS, World
from predictbench_assets.texts import UndecodableFile


@click.group()
def sandbox() -> None:
    """A simulated exchange and a stand-in model, for trying things out with nobody's server."""


@sandbox.command(
    short_help="Serve a world, or recorded rows.",
    epilog="""\
\b
Examples:
  predictbench sandbox serve
  predictbench sandbox serve --markets 5000 \\
    --faults http500=0.05,http429=0.02,latency_ms=100
  predictbench sandbox serve --replay rows.json --now 2026-02-02T07:00:00Z
  predictbench sandbox serve --changes 0.1 --histories rough
\b
Then, in another terminal:
  POLYMARKET_BASE_URL=http://127.0.0.1:8765 \\
    POLYMARKET_CLOB_URL=http://127.0.0.1:8765/clob predictbench daily
\b
Its time stands still; these move it, and settle a market (`null` opens it
again, "vanish": true takes it away):
  curl -d '{"advance_hours": 24}' http://127.0.0.1:8765/_sandbox/time
  curl -d '{"market_id": "219600012", "payout": [0, 1]}' \\
    http://127.0.0.1:8765/_sandbox/settle
""",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, help="0 takes a free one.")
@click.option(
    "--markets",
    type=click.IntRange(0, MOST_MARKETS),
    default=600,
    metavar="N",
    help=f"Markets that close on each day, {MOST_MARKETS:,} at most.",
)
@click.option("--seed", type=int, default=7, help="The same seed is the same world.")
@click.option(
    "--faults", default="", metavar="RATES", help="Such as http500=0.05,http429=0.02,reset=0.01,truncate=0.01."
)
@click.option(
    "--poison", type=click.FloatRange(0, 1), default=0.0, metavar="SHARE", help="Share of rows that are broken."
)
@click.option(
    "--changes",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Share of markets that are edited, put off or withdrawn in the second half of their life.",
)
@click.option(
    "--histories",
    type=click.Choice(HISTORIES),
    default="whole",
    show_default=True,
    help="Price histories: rough has gaps, empty books and payouts; half knows half of the tokens, half-batched the "
    "others only when asked for one; gone is 404.",
)
@click.option(
    "--now", metavar="INSTANT", help="The exchange's time, such as 2026-02-02T07:00:00Z.  [default: the real one]"
)
@click.option("--uniform", is_flag=True, help="End times spread over the day, instead of most at one or two instants.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Serve the rows of this JSON file instead of a made-up world.",
)
def serve(
    host: str,
    port: int,
    faults: str,
    histories: Histories,
    now: str | None,
    seed: int,
    replay: Path | None,
    **world: Any,
) -> None:
    """Serve a seeded world, or recorded rows, with the real API's shapes, limits and quirks."""
    instant = _instant(now) if now else None
    if replay and world["changes"]:
        raise click.UsageError("--changes is of a made-up world: leave it out beside --replay")
    served = _replayed(replay) if replay else _world(seed, **world)
    ways: dict[str, Any] = {"faults": Faults.parse(faults), "histories": histories, "seed": seed}
    try:
        run(served, host=host, port=port, now=instant, announce=_announce, **ways)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


@sandbox.command(
    short_help="Serve a model that stands in for real ones.",
    epilog="""\
\b
The name of a model says what it does: stand-in answers well;
stand-in-slow-2 after two seconds; stand-in-429-once is limited at
first; stand-in-refusal, -truncated, -prose, -62, -reset, -hang and
more go wrong. All names:
  curl http://127.0.0.1:8766/v1/models
\b
What reached it, and how to begin again:
  curl http://127.0.0.1:8766/stand-in/counts
  curl -X POST http://127.0.0.1:8766/stand-in/reset
""",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8766, help="0 takes a free one.")
@click.option("--seconds", type=click.FloatRange(0, 600), default=0.0, metavar="S", help="Time that an answer takes.")
@click.option(
    "--polls", type=click.IntRange(min=0), default=1, metavar="N", help="Looks at a batch after which it has ended."
)
def models(host: str, port: int, seconds: float, polls: int) -> None:
    """Serve answers of language models, decision models and search services, with no key and at no cost.

    It speaks the wires of OpenAI, Anthropic, Google and System One, of Exa (below /exa) and Tavily (below /tavily).
    The answers are made up: they fit the schema that was sent, and are the same for the same prompt.
    """
    try:
        run_models(Settings(seconds=seconds, polls=polls), host=host, port=port, announce=_announce_models)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


def _announce_models(running: StandIn) -> None:
    click.echo(f"stand-in ready: {running.base_url}\n")
    click.echo("# In experiments.toml:")
    for name, kind, model in (
        ("stand_in", "language_model", "openai:stand-in"),
        ("stand_in_decides", "decision_model", "openai-decisions:stand-in"),
    ):
        click.echo(f'[{name}]\nkind = "{kind}"\nmodel = "{model}"\nbase_url = "{running.base_url}"\n')


def _announce(text: str) -> None:
    click.echo(text, nl=False)


def _world(seed: int, *, markets: int, poison: float, changes: float, uniform: bool) -> Any:
    poisons = tuple(REJECTABLE) if poison else ()
    spread: dict[str, Any] = {"concentration": 0.0} if uniform else {}
    try:
        world = World(seed, markets, poison=poison, poisons=poisons, **spread)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return Afterwards(world, changes) if changes else world


def _replayed(file: Path) -> Any:
    try:
        return ReplayWorld.from_file(file)
    except UndecodableFile as error:
        raise click.ClickException(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"--replay {file}: not a JSON array of markets ({error})") from error


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--now {text}: expected an instant such as 2026-02-02T07:00:00Z") from error
    if instant.tzinfo is None:
        raise click.UsageError(f"--now {text}: has no time zone; add Z for UTC")
    return instant
