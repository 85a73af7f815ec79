"""The simulated days: what the schedule of a deployment does on each, with the day's fault, and what it left behind."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from predictbench_assets.sandbox.hosting import in_thread
from predictbench_assets.sandbox.world import Market
from soak.commands import Done, run
from soak.faults import Armed, Fault, Place, drawn
from soak.services import Database, Exchange, Store, Webhook

FIRST_DAY: Final = date(2026, 3, 2)
"""The same in every soak, a Monday: with the seed it decides everything."""
WINDOWS: Final = (1, 7)
_SLOTS: Final = ("07:00", "07:37", "09:17", "13:17", "17:17", "22:17")
"""The schedule of the daily run, UTC; the sweep is at 08:00."""
_SWEEP: Final = "08:00"
_CLONE = Path(__file__).resolve().parents[1]

_MODEL: Final = """
[asked]
kind = "language_model"
model = "openai:stand-in"
description = "A stand-in for a language model: each of its calls is counted on both sides."
prices = "hidden"

[asked.limits]
usd_per_day = 5.0
"""
_PRICES: Final = """
[[price]]
model = "openai:stand-in"
base_url = "*"
input = 0.25
cached_input = 0.025
output = 2.0
"""
_MIN_VOLUME: Final = 50.0
"""USDC: leaves some markets of each day out."""
_ROOM: Final = "predictbench_assets.experiments"
_EXPERIMENTS: Final = (
    f"{_ROOM}.builtin.baseline:BaselineSnapshotExperiment",
    f"{_ROOM}.builtin.pricing:DeviggedEventExperiment",
    f"{_ROOM}.builtin.controls:UniformExperiment",
    f"{_ROOM}.quantitative.recalibrated_market:RecalibratedMarketExperiment",
)
"""One of each sort: the mandatory one, one of whole events, a control, one that learns from what has settled."""
_FOR_EVER: Final = re.compile(r"archive/|[^/]+/(artifacts|submissions|market_data)/")
"""Objects that are kept for ever, see "What is kept" in `docs/operations.md`."""
_RETENTION: Final = {"RAW_RETENTION_DAYS": "7", "STAGING_RETENTION_DAYS": "14", "DAGSTER_RETENTION_DAYS": "14"}


@dataclass
class Soak:
    """One soak in its folder: its services, its ledger, and the days so far."""

    folder: Path
    seed: int
    markets: int
    faults: bool
    place: Place
    address: str
    """Of the exchange."""
    ledger: IO[str]
    """JSON lines for the audit: what was offered, what was done, and what was measured."""
    _last_release: Path | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def home(self) -> Path:
        """The home of the product."""
        return self.folder / "home"

    @property
    def temporary(self) -> Path:
        """The temporary folder of the commands."""
        return self.folder / "tmp"

    def environment(self, now: datetime) -> dict[str, str]:
        """All variables of a command at a simulated time."""
        database = self.place.database
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        return kept | {
            "PYTHONPATH": str(_CLONE),
            "ENVIRONMENT": "staging",
            "SUPABASE_DB_URL": database.url("predictbench"),
            "DAGSTER_POSTGRES_URL": database.url("dagster"),
            "DB_TIMEOUT_SECONDS": "10",
            "PREDICTBENCH_HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "POLYMARKET_BASE_URL": self.address,
            "POLYMARKET_CLOB_URL": f"{self.address}/clob",
            "POLYMARKET_PAGE_SIZE": "20",
            "POLYMARKET_REQUESTS_PER_SECOND": "1000",
            "POLYMARKET_TIMEOUT_SECONDS": "3",
            "POLYMARKET_MAX_ATTEMPTS": "4",
            "HORIZONS": ",".join(map(str, WINDOWS)),
            "MIN_VOLUME": f"{_MIN_VOLUME:g}",
            "CORE_SAMPLE_SIZE": "20",
            "PROCESSING_EXPERIMENTS": ",".join(_EXPERIMENTS),
            "EXPERIMENTS_FILE": str(self.folder / "experiments.toml"),
            "MODEL_PRICES_FILE": str(self.folder / "prices.toml"),
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": f"{self.address}/_models/v1",
            "NOTIFY_WEBHOOK_URL": f"{self.place.webhook.address}/hook",
            "DEAD_MAN_URL": f"{self.place.webhook.address}/alive",
            "NOTIFY_TIMEOUT_SECONDS": "1",
            "STAGING_TIMEOUT_SECONDS": "8",
            "LOG_FORMAT": "json",
            "GIT_SHA": "0" * 40,
            "PREDICTBENCH_NOW": now.isoformat(),
            **self.place.store.variables,
            **_RETENTION,
        }

    def note(self, kind: str, **facts: Any) -> None:
        """Write a line into the ledger."""
        with self._writing:
            self.ledger.write(json.dumps({"kind": kind, **facts}, default=str) + "\n")
            self.ledger.flush()

    def offered(self, day: date, now: datetime) -> None:
        """Enter what the exchange offers at this moment to a run of that day, whose clock says `now`."""
        for window in WINDOWS:
            first = datetime.combine(day + timedelta(days=window), datetime.min.time(), UTC)
            markets = self.place.exchange.offered(first, first + timedelta(days=1))
            self.note("offered", run_date=day, window=window, at=now, markets=markets)

    def command(self, name: str, *arguments: str, now: datetime, armed: Armed | None = None) -> Done:
        """Run one command, with the fault where it is the one that is struck."""
        if armed is not None and (armed.fault.target != name or armed.fault.boundary == "clock"):
            armed = None
        if armed is not None:
            armed.before()
        if name.startswith("daily"):
            self.offered(now.date(), now)
        try:
            done = run(
                arguments,
                self.environment(now),
                self.folder,
                self.folder / "logs" / f"{name.replace(' ', '_')}.log",
                on_event=armed.on_event if armed else None,
                on_start=armed.started if armed else None,
            )
        finally:
            if armed is not None:
                armed.after()
        self.note(
            "command",
            name=name,
            now=now,
            code=done.code,
            seconds=round(done.seconds, 2),
            cpu=round(done.cpu_seconds, 2),
            peak_mb=round(done.peak_mb, 1),
            files=done.files,
            hung=done.hung,
            struck=armed is not None and armed.struck,
            tail=done.tail if done.code else "",
        )
        return done

    def day(self, number: int, fault: Fault | None) -> None:
        """Live one day."""
        day, begun = FIRST_DAY + timedelta(days=number), time.monotonic()
        armed = Armed(fault, self.place, f"{day}/{fault.target[-1]}") if fault else None
        before = len(self._models())
        healed = self._runs_and_sweep(day, armed)
        now = _at(day, "10:43")
        self.place.exchange.move(now)
        if day.weekday() == 0:
            self._twice("report", "report", "--output", str(self.folder / "page"), now=now)
        if day.weekday() == 6:
            self._twice("prune", "prune", now=now)
            self._twice("leaderboard", "leaderboard", now=now)
        if (day + timedelta(days=1)).day == 1:
            self._release(day, now)
        self._age(day)
        self._measure(day, calls=len(self._models()) - before, seconds=round(time.monotonic() - begun, 1))
        if fault is not None:
            assert armed is not None
            outcome = "; ".join([healed, *armed.notes])
            self.note(
                "fault",
                day=day,
                boundary=fault.boundary,
                fault=fault.kind,
                what=str(fault),
                struck=armed.struck,
                outcome=outcome,
            )
        print(
            f"{number + 1:3}  {day}  {time.monotonic() - begun:5.1f} s  {fault or 'no fault'}: "
            f"{'; '.join([healed, *(armed.notes if armed else [])])}",
            flush=True,
        )

    def _runs_and_sweep(self, day: date, armed: Armed | None) -> str:
        """The slots of the day until nothing is due, and the sweep in between; returns when all was stored."""
        left: list[int] = list(WINDOWS)
        said, swept = "", False
        for number, slot in enumerate(_SLOTS):
            now = _at(day, slot)
            if now >= _at(day, _SWEEP) and not swept:
                said += self._sweep(day, armed)
                swept = True
            if number and not left:
                continue
            self.place.exchange.move(now)
            if armed is not None and armed.fault.boundary == "clock" and number == 0:
                armed.before()
                now += armed.stepped
                said += f"{slot} by a clock at {now:%H:%M}, "
            due = self._due(now)
            if due is None:
                said += f"{slot} due failed, "
                continue
            if due:
                tries = self._windows(day, due, now, armed)
                failed = [window for window, tried in tries.items() if tried == 0]
                again = [window for window, tried in tries.items() if tried > 1]
                if failed or again:
                    said += "".join(f"{slot} window {w} failed, " for w in failed)
                    said += "".join(f"{slot} window {w} at try {tries[w]}, " for w in again)
                left = failed
            elif number:
                left = []
        if not swept:
            said += self._sweep(day, armed)
        return said + (f"not stored: {left}" if left else "stored")

    def _due(self, now: datetime) -> list[int] | None:
        """The windows that are due; None where the command failed twice."""
        done = self._twice("due", "due", "--scheduled", now=now)
        if done.code != 0:
            return None
        found = json.loads(next(line for line in reversed(done.output.splitlines()) if line.startswith('{"run_date"')))
        return list(found["windows"])

    def _windows(self, day: date, due: list[int], now: datetime, armed: Armed | None) -> dict[int, int]:
        """Run windows side by side, each a second time when it fails; the number of the try, 0 where both failed."""

        def cell(window: int) -> int:
            arguments = ("daily", "--window-days", str(window), "--on-existing", "skip")
            name = f"daily {window}"
            for number in (1, 2):
                done = self.command(name, *arguments, now=now, armed=armed if number == 1 else None)
                if done.code == 0:
                    if armed is not None and armed.fault.boundary == "webhook":
                        self._notify("success", day, window, now, armed)
                    return number
            self._notify("failure", day, window, now, armed)
            if "--refresh" in done.output and now >= _at(day, "09:17"):
                # What the error says, as the person would do who was told by the webhook.
                refreshed = self.command(name, *arguments[:3], "--refresh", now=now)
                if armed is not None:
                    armed.notes.append(f"window {window} captured again with --refresh: exit code {refreshed.code}")
                return 3 if refreshed.code == 0 else 0
            return 0

        def again(name: str) -> str:
            arguments = ("daily", "--window-days", name.split()[1], "--on-existing", "skip")
            return f"exit code {self.command(f'{name} again', *arguments, now=now + timedelta(minutes=1)).code}"

        self.place.again = again
        self.place.moved = lambda: self.offered(day, now)
        with ThreadPoolExecutor(len(due)) as cells:
            return dict(zip(due, cells.map(cell, due), strict=True))

    def _notify(self, outcome: str, day: date, window: int, now: datetime, armed: Armed | None) -> None:
        summary = self.home / "artifacts" / f"summary_{day}_w{window}.json"
        arguments = ["notify", "--outcome", outcome, "--run-date", str(day), "--window-days", str(window)]
        done = self.command("notify", *arguments, "--summary", str(summary), now=now, armed=armed)
        if armed is not None and armed.fault.boundary == "webhook":
            armed.notes.append(f"notify of window {window} ended with {done.code} after {done.seconds:.0f} s")

    def _sweep(self, day: date, armed: Armed | None) -> str:
        now = _at(day, _SWEEP)
        self.place.exchange.move(now)
        said = ""
        for name in ("resolve", "score"):
            first = self.command(name, name, now=now, armed=armed)
            if first.code != 0:
                second = self.command(name, name, now=now)
                said += f"{name} {'at the second try' if second.code == 0 else 'failed twice'}, "
        return said

    def _twice(self, name: str, *arguments: str, now: datetime) -> Done:
        done = self.command(name, *arguments, now=now)
        return done if done.code == 0 else self.command(name, *arguments, now=now)

    def _release(self, day: date, now: datetime) -> None:
        output = self.folder / "releases" / f"{day:%Y-%m}"
        arguments = ["release", "--output", str(output), "--until", str(day - timedelta(days=1))]
        if self._last_release is not None:
            arguments += ["--previous", str(self._last_release)]
        done = self._twice("release", *arguments, now=now)
        if done.code == 0:
            self._last_release = output
            self._twice("verify release", "verify", "--release", str(output), now=now)

    def _models(self) -> dict[str, int]:
        """Answers that the model has worked out, by prompt."""
        return dict(self.place.exchange.models.counts.billed)

    def end(self, days: int) -> None:
        """Have the product verify its own digests, and enter what the audit compares with."""
        last = _at(FIRST_DAY + timedelta(days=days - 1), "23:30")
        self.place.exchange.move(last)
        self._twice("verify", "verify", "--all", now=last)
        view = self.place.exchange.app.view
        stored = self.place.database.rows("SELECT DISTINCT market_id FROM predictbench.processed_markets")
        found = {name: view.find(market_id=name) for (name,) in stored}
        settled = {name: one.settlement for name, one in found.items() if isinstance(one, Market)}
        self.note("settled", markets={name: (one.closed, one.payout[0]) for name, one in settled.items()})
        counts = self.place.exchange.models.counts.as_dict()
        self.note(
            "model", **{name: counts[name] for name in ("requests", "billed", "distinct_prompts", "billed_again")}
        )
        self.note("end", now=last, seed=self.seed, days=days, windows=WINDOWS, first=FIRST_DAY, min_volume=_MIN_VOLUME)

    def _age(self, day: date) -> None:
        """Have the day pass for what is dated by the machine's own clock: Dagster's runs, run folders, left-overs."""
        stamp = f"{day:%Y%m%d}T"
        today = f"{datetime.now(UTC):%Y%m%d}T", f"{datetime.now(UTC) - timedelta(days=1):%Y%m%d}T"
        for folder in (self.home / "artifacts" / "runs").glob("*"):
            for real in today:
                if f"_{real}" in folder.name:
                    folder.rename(folder.with_name(folder.name.replace(f"_{real}", f"_{stamp}")))
        then = _at(day, "07:00").timestamp()
        for left in self.temporary.iterdir():
            if left.stat().st_mtime > then + 86_400:
                os.utime(left, (then, then))
        self.place.database.execute(
            f"UPDATE runs SET create_timestamp = '{day} 07:00' WHERE create_timestamp > '{day + timedelta(days=1)}'",
            dbname="dagster",
        )

    def _measure(self, day: date, **facts: Any) -> None:
        """Enter what the instance has come to at the end of a day."""
        database = self.place.database
        files = [path for path in self.home.rglob("*") if path.is_file()]
        objects = self.place.store.objects()
        tables = {
            name: {"live": live, "dead": dead, "bytes": size}
            for name, live, dead, size in database.rows(
                "SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid)"
                " FROM pg_stat_user_tables WHERE schemaname = 'predictbench'"
            )
        }
        runs, events = database.rows(
            "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM event_logs)", "dagster"
        )[0]
        sessions, looks = 1, 0
        while sessions and looks < 20:  # one that was closed a moment ago may still be ending
            (sessions,) = database.rows(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )[0]
            looks += 1
            time.sleep(0.1 * bool(sessions))
        self.note(
            "day",
            day=day,
            sessions=sessions,
            connections=database.relay.connections,
            temporary=sorted(path.name for path in self.temporary.iterdir()),
            home_files=len(files),
            home_bytes=sum(path.stat().st_size for path in files),
            objects=len(objects),
            objects_bytes=sum(objects.values()),
            working_objects=sum(not _FOR_EVER.match(key) for key in objects),
            dagster_runs=runs,
            dagster_events=events,
            tables=tables,
            **facts,
        )


def _at(day: date, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}:00+00:00")


@contextmanager
def begun(folder: Path, seed: int, markets: int, *, faults: bool) -> Iterator[Soak]:
    """An instance in an empty folder, migrated; all that it stands on ends with the block."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "experiments.toml").write_text(_MODEL)
    (folder / "prices.toml").write_text(_PRICES)
    exchange = Exchange(seed, markets, _at(FIRST_DAY, "06:00"))
    database = Database(folder / "pg")
    store, webhook = Store(), Webhook()
    place = Place(exchange, database, store, webhook)
    with in_thread(exchange, "127.0.0.1", 0) as port, (folder / "ledger.jsonl").open("w") as ledger:
        soak = Soak(folder, seed, markets, faults, place, f"http://127.0.0.1:{port}", ledger)
        try:
            done = soak.command("db upgrade", "db", "upgrade", now=_at(FIRST_DAY, "06:00"))
            if done.code != 0:
                raise RuntimeError(done.output[-2000:])
            yield soak
        finally:
            store.close()
            webhook.close()
            database.stop()


def live(soak: Soak, days: int) -> int:
    """Live so many days, and enter what the audit compares with; returns how many it came to.

    A signal to end is heeded at the end of a day, so that a long soak can be cut short and audited.
    """
    faults, stopped = drawn(soak.seed), threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    lived = 0
    try:
        while lived < days and not stopped.is_set():
            soak.day(lived, next(faults) if soak.faults else None)
            lived += 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    soak.end(lived)
    return lived
