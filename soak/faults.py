"""One fault a day: drawn from the seed, made at a point of a command, and ended again. Nobody mends data after it.

A fault strikes while one command runs: at its start, at the start of one of its steps, or at one of its requests to the
database. It lasts for some seconds, or until that command has ended.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, Final

import psycopg

from predictbench_assets.sandbox.faults import Faults
from soak.commands import Running
from soak.services import Database, Exchange, Store, Webhook

Undo = Callable[[], None]

STEPS: Final = ("target_window", "raw_markets", "normalized_markets", "experiment_results", "persisted_run")
_FILLED: Final = ("processed_markets", "experiment_results", "model_calls")
_TABLES: Final = ("processed_markets", "experiment_results", "model_calls", "processing_attempts")


@dataclass
class Place:
    """All that can go wrong, and what a fault needs to know of the day."""

    exchange: Exchange
    database: Database
    store: Store
    webhook: Webhook
    moved: Callable[[], None] = lambda: None
    """Called when the exchange's time was moved while a command runs."""
    again: Callable[[str], str] = lambda _: ""
    """Runs a command of the day once more beside one that is paused; returns how it ended."""


@dataclass(frozen=True)
class Fault:
    """A fault of one day."""

    boundary: str
    kind: str
    target: str
    """The command that it strikes: `daily 1`, `daily 7`, `resolve`, `score`, `due`, `notify`."""
    point: str
    """`start`, a step, or `request`."""
    number: int
    """Which start of a step of that name (the experiments have several), or which request to the database."""
    values: Mapping[str, Any]
    """The kind's own: seconds, shares, a seed."""

    def __str__(self) -> str:
        """The fault in a line."""
        said = ", ".join(f"{name}={value}" for name, value in self.values.items() if name != "seed")
        return f"{self.boundary}: {self.kind}{f' ({said})' if said else ''} in {self.target} at {self.point}" + (
            f" #{self.number}" if self.number > 1 else ""
        )


# The kinds, by boundary. Each draws its values.
KINDS: Final[Mapping[str, Mapping[str, Callable[[Random], dict[str, Any]]]]] = {
    "exchange": {
        "errors": lambda _: {},
        "down": lambda _: {},
        "refused": lambda _: {},
        "slow": lambda random: {"ms": random.choice((200, 500))},
        "silent": lambda _: {},
        "empty listing": lambda _: {},
        "wrong fields": lambda random: {"rows": random.randint(1, 4)},
        "stuck cursor": lambda random: {"pages": random.choice((1, 50))},
        "torn page": lambda random: {"pages": random.choice((1, 50))},
        "nonsense": lambda random: {"pages": random.choice((1, 50))},
        "changed between pages": lambda random: {"minutes": random.randint(1, 25)},
        "settlement taken back": lambda random: {"markets": random.randint(1, 3)},
    },
    "database": {
        "away": lambda random: {"seconds": random.choice((1, 4, 12))},
        "slow": lambda random: {"ms": random.choice((10, 30))},
        "silent": lambda random: {"seconds": random.choice((4, 25))},
        "full": lambda random: {"table": random.choice(_FILLED), "after": random.choice((0, 20))},
        "read only": lambda _: {},
        "restarted": lambda _: {},
        "crashed": lambda _: {},
        "sessions cut": lambda _: {},
        "statement time-outs": lambda random: {"ms": random.choice((2, 20))},
        "locked": lambda random: {"table": random.choice(_TABLES), "seconds": random.choice((2, 20))},
    },
    "staging": {
        "away": lambda random: {"seconds": random.choice((1, 5, 15))},
        "full": lambda _: {},
        "lost object": lambda random: {
            "what": random.choice(("normalized_markets", "raw_markets", "experiment_results", "snapshots", "journals"))
        },
    },
    "process": {
        "killed": lambda random: {"delay": round(random.uniform(0, 0.6), 2)},
        "child killed": lambda random: {"delay": round(random.uniform(0, 0.6), 2)},
        "terminated": lambda random: {"delay": round(random.uniform(0, 0.6), 2)},
        "paused": lambda random: {"seconds": random.choice((2, 8))},
        "paused and overtaken": lambda _: {},
    },
    "clock": {
        "stepped back": lambda random: {"minutes": random.choice((5, 50, 480))},
        "stepped forth": lambda random: {"minutes": random.choice((5, 50, 1050))},
    },
    "webhook": {"hanging": lambda _: {}},
}
_OF_RUNS: Final = frozenset(
    (
        *("empty listing", "wrong fields", "stuck cursor", "torn page", "nonsense", "changed between pages"),
        *("lost object", "paused and overtaken", "stepped back", "stepped forth"),
    )
)
"""Kinds that make no sense for the commands of the sweep."""
_TABLE_OF: Final = {"resolve": "resolution_observations", "score": "experiment_scores"}


def drawn(seed: int) -> Iterator[Fault]:
    """The faults of the days to come: every kind once in an order that is drawn, then all of them in another order."""
    random = Random(seed)
    kinds = [(boundary, kind) for boundary in KINDS for kind in KINDS[boundary]]
    while True:
        yield from (_fault(random, *one) for one in random.sample(kinds, len(kinds)))


def _fault(random: Random, boundary: str, kind: str) -> Fault:
    values = KINDS[boundary][kind](random) | {"seed": random.randrange(2**32)}
    target = random.choices(("daily 7", "daily 1", "resolve", "score"), (9, 5, 3, 3))[0]
    point, number = random.choice(STEPS), 1
    if (kind in _OF_RUNS or boundary == "staging") and not target.startswith("daily"):
        target = "daily 7"
    if boundary == "exchange" and target == "score":
        target = "resolve"
    if kind == "settlement taken back":
        target = "resolve"
    if boundary == "webhook":
        target = "notify"
    if kind == "full" and boundary == "database" and target in _TABLE_OF:
        values["table"], values["after"] = _TABLE_OF[target], 0
    if boundary in ("exchange", "clock", "webhook"):
        point = "start"
    elif not target.startswith("daily"):
        point, number = "request", random.randint(2, 15)
    elif kind == "lost object":
        point = random.choice(("experiment_results", "persisted_run"))
    if point == "experiment_results":
        number = random.randint(1, 5)
    return Fault(boundary, kind, target, point, number, values)


@dataclass
class Armed:
    """A fault that waits for its point, strikes once, and is undone."""

    fault: Fault
    place: Place
    window_folder: str
    """The run date and window in the names of staged files, such as `2026-03-02/7`."""
    notes: list[str] = field(default_factory=list)
    struck: bool = False
    stepped: timedelta = timedelta(0)
    """By which the command's clock is off."""
    _seen: dict[str, int] = field(default_factory=dict)
    _undo: Undo | None = None
    _changing: threading.Lock = field(default_factory=threading.Lock)
    _striking: threading.Thread | None = None
    _made: threading.Event = field(default_factory=threading.Event)

    def before(self) -> None:
        """The command is about to start."""
        if self.fault.point == "start":
            self._strike(None)

    def started(self, running: Running) -> None:
        """The command has started."""
        if self.fault.point == "request":
            self.place.database.relay.on_request = lambda: self._on_request(running)

    def on_event(self, running: Running, event: str, stage: str) -> None:
        """A step of the command has started."""
        if event != "STEP_START" or self.struck:
            return
        name = stage.partition("/")[0]
        self._seen[name] = self._seen.get(name, 0) + 1
        if name == self.fault.point and self._seen[name] == self.fault.number:
            self._strike(running)

    def after(self) -> None:
        """The command has ended."""
        self.place.database.relay.on_request = None
        if self._striking is not None:
            self._striking.join(120)
        with self._changing:
            undo, self._undo = self._undo, None
        if undo is not None:
            undo()
        if not self.struck:
            self.notes.append("its point was not reached")

    def _on_request(self, running: Running) -> None:
        with self._changing:
            self._seen["request"] = self._seen.get("request", 0) + 1
            if self._seen["request"] == self.fault.number:
                self._striking = threading.Thread(target=self._strike, args=(running,), daemon=True)
                self._striking.start()
        if self._striking is not None:
            self._made.wait(60)

    def _strike(self, running: Running | None) -> None:
        if self.struck:
            return
        self.struck = True
        strike = _STRIKES[self.fault.boundary, self.fault.kind]
        try:
            undo = strike(self, running, Random(self.fault.values["seed"]))
        except Exception as error:  # the day goes on, and the report says that it had no fault
            self.notes.append(f"could not be made: {type(error).__name__}: {error}")
            return
        finally:
            self._made.set()
        lasts = self.fault.values.get("seconds")
        if undo is None:
            return
        if lasts is None or running is None:
            with self._changing:
                self._undo = undo
            return
        time.sleep(lasts)
        undo()


def _exchange(faults: str) -> Callable[[Armed, Running | None, Random], Undo]:
    def strike(armed: Armed, _: Running | None, __: Random) -> Undo:
        armed.place.exchange.app.source.faults = Faults.parse(faults)
        return armed.place.exchange.honest

    return strike


def _slow(armed: Armed, _: Running | None, __: Random) -> Undo:
    armed.place.exchange.app.source.faults = Faults(latency_ms=armed.fault.values["ms"])
    return armed.place.exchange.honest


def _lie(
    make: Callable[[Any, Random, Armed], bytes], pages: int = 10**6
) -> Callable[[Armed, Running | None, Random], Undo]:
    def strike(armed: Armed, _: Running | None, random: Random) -> Undo:
        exchange = armed.place.exchange
        exchange.lie = lambda body, _number: make(json.loads(body), random, armed)
        exchange.lies = armed.fault.values.get("pages", pages)
        return exchange.honest

    return strike


def _wrong_fields(page: Any, _: Random, armed: Armed) -> bytes:
    """Some rows say what cannot be: always the same rows and the same of each, as a broken exchange would."""
    wrong: list[dict[str, Any]] = [
        {"outcomePrices": '["1.7", "-0.7"]'},
        {"question": None},
        {"outcomes": 7},
        {"slug": "x" * 10_000},
        {"outcomePrices": "nothing"},
    ]
    for row in page["markets"]:
        if int(row["id"]) % 10 < armed.fault.values["rows"]:
            row |= wrong[int(row["id"]) // 10 % len(wrong)]
    return json.dumps(page).encode()


def _stuck(page: Any, _: Random, __: Armed) -> bytes:
    return json.dumps(page | {"next_cursor": "c3R1Y2s="}).encode()


def _moving(armed: Armed, _: Running | None, __: Random) -> Undo:
    """Time goes on between two pages: markets are created, close, and trade."""
    exchange = armed.place.exchange

    def on_page(number: int) -> None:
        if number in (2, 4):
            exchange.move(exchange.app.now + timedelta(minutes=armed.fault.values["minutes"] / 2))
            armed.place.moved()

    exchange.pages, exchange.on_page = 0, on_page
    return exchange.honest


def _taken_back(armed: Armed, _: Running | None, random: Random) -> Undo:
    """Some markets are paid out the other way round from now on; a later sweep reads it."""
    settled = armed.place.database.rows(
        "SELECT market_id, outcome FROM (SELECT DISTINCT ON (market_id) * FROM predictbench.resolution_observations"
        " ORDER BY market_id, observed_at DESC) o WHERE state = 'final' AND outcome IN (0, 1) AND market_id IN ("
        "SELECT market_id FROM predictbench.processed_markets) ORDER BY observed_at DESC, market_id LIMIT 30"
    )
    chosen = random.sample(settled, min(len(settled), armed.fault.values["markets"]))
    for market_id, outcome in chosen:
        armed.place.exchange.app.settle(market_id, (1 - outcome, outcome))
    armed.notes.append(f"{len(chosen)} settlements turned round")
    return lambda: None


def _away(armed: Armed, _: Running | None, __: Random) -> Undo:
    armed.place.database.relay.close()
    return armed.place.database.relay.open


def _slow_database(armed: Armed, _: Running | None, __: Random) -> Undo:
    relay = armed.place.database.relay
    relay.delay = armed.fault.values["ms"] / 1000

    def undo() -> None:
        relay.delay = 0.0

    return undo


def _frozen(armed: Armed, _: Running | None, __: Random) -> Undo:
    armed.place.database.relay.freeze()
    return armed.place.database.relay.thaw


def _full(armed: Armed, _: Running | None, __: Random) -> Undo:
    """The words and the code of a Postgres whose disk is full, from one row on."""
    table, after = armed.fault.values["table"], armed.fault.values["after"]
    database = armed.place.database
    database.execute(
        "CREATE SCHEMA IF NOT EXISTS soak",
        "CREATE SEQUENCE IF NOT EXISTS soak.rows",
        "ALTER SEQUENCE soak.rows RESTART",
        f"""CREATE OR REPLACE FUNCTION soak.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('soak.rows') > {after} THEN
                RAISE EXCEPTION 'could not extend file "base/5/16999": No space left on device' USING ERRCODE = '53100';
            END IF; RETURN NEW; END $$""",
    )
    try:
        database.execute(
            "SET lock_timeout = '3s'",
            f"CREATE OR REPLACE TRIGGER soak_full BEFORE INSERT ON predictbench.{table}"
            " FOR EACH ROW EXECUTE FUNCTION soak.full()",
        )
    except psycopg.errors.LockNotAvailable:
        armed.notes.append("the table was busy")

    def undo() -> None:
        database.execute(f"DROP TRIGGER IF EXISTS soak_full ON predictbench.{table}")

    return undo


def _read_only(armed: Armed, _: Running | None, __: Random) -> Undo:
    """A database whose disk is full, as a provider leaves it: it reads, and new sessions may not write."""
    database = armed.place.database
    database.execute("ALTER DATABASE predictbench SET default_transaction_read_only = on")
    database.cut()
    return lambda: database.execute("ALTER DATABASE predictbench RESET default_transaction_read_only")


def _at_once(what: Callable[[Database], None]) -> Callable[[Armed, Running | None, Random], None]:
    def strike(armed: Armed, _: Running | None, __: Random) -> None:
        what(armed.place.database)

    return strike


def _timeouts(armed: Armed, _: Running | None, __: Random) -> Undo:
    database, ms = armed.place.database, armed.fault.values["ms"]
    database.execute(f"ALTER DATABASE predictbench SET statement_timeout = '{ms}ms'")
    database.cut()
    return lambda: database.execute("ALTER DATABASE predictbench RESET statement_timeout")


def _locked(armed: Armed, _: Running | None, __: Random) -> Undo:
    """Somebody's session holds a table."""
    held = psycopg.connect(armed.place.database.dsn)
    with suppress(psycopg.Error):
        held.execute("SET lock_timeout = '5s'")
        held.execute(f"LOCK TABLE predictbench.{armed.fault.values['table']} IN ACCESS EXCLUSIVE MODE".encode())
    return held.close


def _store_away(armed: Armed, _: Running | None, __: Random) -> Undo:
    armed.place.store.close()
    return armed.place.store.open


def _store_full(armed: Armed, _: Running | None, __: Random) -> Undo:
    store = armed.place.store
    store.full = True

    def undo() -> None:
        store.full = False

    return undo


def _lost(armed: Armed, _: Running | None, random: Random) -> None:
    day, window = armed.window_folder.split("/")
    of_run = (f"/{day}/{window}.", f"/{day}_w{window}/")
    keys = sorted(
        key
        for key in armed.place.store.objects()
        if f"/{armed.fault.values['what']}/" in key and any(part in key for part in of_run)
    )
    if not keys:
        armed.notes.append("there was none")
        return
    lost = random.choice(keys)
    armed.place.store.lose(lost)
    armed.notes.append(f"lost {lost}")


def _killing(number: int, *, child_only: bool = False) -> Callable[[Armed, Running | None, Random], None]:
    def strike(armed: Armed, running: Running | None, _: Random) -> None:
        assert running is not None
        time.sleep(armed.fault.values["delay"])
        running.signal(number, child_only=child_only)

    return strike


def _paused(_: Armed, running: Running | None, __: Random) -> Undo:
    assert running is not None
    running.signal(signal.SIGSTOP)
    return lambda: running.signal(signal.SIGCONT)


def _overtaken(armed: Armed, running: Running | None, _: Random) -> None:
    """Another process of the same run goes from its beginning to its end while this one stands still."""
    assert running is not None
    running.signal(signal.SIGSTOP)
    try:
        armed.notes.append(f"the one that overtook it: {armed.place.again(armed.fault.target)}")
    finally:
        running.signal(signal.SIGCONT)


def _clock(sign: int) -> Callable[[Armed, Running | None, Random], None]:
    def strike(armed: Armed, _: Running | None, __: Random) -> None:
        armed.stepped = sign * timedelta(minutes=armed.fault.values["minutes"])

    return strike


def _hanging(armed: Armed, _: Running | None, __: Random) -> Undo:
    armed.place.webhook.hanging.set()
    return armed.place.webhook.hanging.clear


_STRIKES: Final[Mapping[tuple[str, str], Callable[[Armed, Running | None, Random], Undo | None]]] = {
    ("exchange", "errors"): _exchange("http500=0.2,http429=0.15,reset=0.08,truncate=0.08,repeat=0.2,retry_after=0.2"),
    ("exchange", "down"): _exchange("http500=1"),
    ("exchange", "refused"): _exchange("html403=1"),
    ("exchange", "slow"): _slow,
    ("exchange", "silent"): _exchange("latency_ms=5000"),
    ("exchange", "empty listing"): _lie(lambda _page, _random, _armed: b'{"markets":[]}'),
    ("exchange", "wrong fields"): _lie(_wrong_fields),
    ("exchange", "stuck cursor"): _lie(_stuck),
    ("exchange", "torn page"): _lie(lambda page, _random, _armed: json.dumps(page).encode()[:-40]),
    ("exchange", "nonsense"): _lie(lambda _page, _random, _armed: b'{"markets":[1,null,"x",{"id":{}}]}'),
    ("exchange", "changed between pages"): _moving,
    ("exchange", "settlement taken back"): _taken_back,
    ("database", "away"): _away,
    ("database", "slow"): _slow_database,
    ("database", "silent"): _frozen,
    ("database", "full"): _full,
    ("database", "read only"): _read_only,
    ("database", "restarted"): _at_once(Database.restart),
    ("database", "crashed"): _at_once(Database.crash),
    ("database", "sessions cut"): _at_once(Database.cut),
    ("database", "statement time-outs"): _timeouts,
    ("database", "locked"): _locked,
    ("staging", "away"): _store_away,
    ("staging", "full"): _store_full,
    ("staging", "lost object"): _lost,
    ("process", "killed"): _killing(signal.SIGKILL),
    ("process", "child killed"): _killing(signal.SIGKILL, child_only=True),
    ("process", "terminated"): _killing(signal.SIGTERM),
    ("process", "paused"): _paused,
    ("process", "paused and overtaken"): _overtaken,
    ("clock", "stepped back"): _clock(-1),
    ("clock", "stepped forth"): _clock(1),
    ("webhook", "hanging"): _hanging,
}
