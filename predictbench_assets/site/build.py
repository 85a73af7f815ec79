"""Writes the page: a front page that stands alone, and pages for experiments, days and markets beside it.

No page asks for anything outside of its folder, and its security policy would not let it.
"""

import base64
import hashlib
import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import Engine

from predictbench_assets import __version__
from predictbench_assets.exchange_names import is_simulated, polymarket_address
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.stored_runs import run_states, stored_exchange
from predictbench_assets.printable import visible
from predictbench_assets.reporting import boards
from predictbench_assets.reporting.coverage import coverage_of
from predictbench_assets.runs import FREEZE_WINDOW_HOURS
from predictbench_assets.scoring import rules
from predictbench_assets.scoring.boards import BoardName, BoardRow, Leaderboard
from predictbench_assets.scoring.costs import RunCost
from predictbench_assets.scoring.forecasts import Entrant, Forecasts
from predictbench_assets.scoring.store.boards import content_hash, encoded_leaderboard, leaderboard_of
from predictbench_assets.scoring.store.costs import load_costs
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets.site import views
from predictbench_assets.site.data import (
    LONGEST_RATIONALE,
    MOST_SOURCES,
    NEWEST_ATTEMPTS,
    MarketCapture,
    Overview,
    StoredForecast,
    cohorts,
    markets,
    overview,
    questions,
    reasons,
    spreads,
)
from predictbench_assets.site.names import cohort_name, page_name

MARKER: Final = "report.json"
"""Name of the file that marks a folder as a page of ours, which the next one may replace."""

_BEFORE_PERCENT = re.compile(r"(?<=[0-9]) %")
_EMPTY_LINES: Final = re.compile(r"\n\s*\n\s*")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIRECTIONS: Final = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
"""Marks that turn a line round; a title has no element of its own to keep them in."""
RECONSTRUCTED: Final = ", reconstructed markets"
_TEMPLATES = Path(__file__).with_name("templates")
_FEW = 10
"""Best and worst markets on the page of an experiment."""


class FolderNotOurs(PermanentError):
    """The page was to go where something else is."""


class PageUnwritable(PermanentError):
    """The place where the page is to go does not take it; one that was there stays."""


@dataclass(frozen=True)
class ReportSummary:
    """Counts of a written page."""

    folder: Path
    files: int
    bytes: int
    seconds: float
    markets: int
    experiments: int
    as_of: datetime
    leaderboard_hash: str

    @property
    def index(self) -> Path:
        """The front page."""
        return self.folder / "index.html"


@dataclass(frozen=True)
class MarketScore:
    """A market that an entrant forecast, and what came of it."""

    market_id: str
    page: str | None
    question: str
    run_date: date
    price: float
    probability: float
    outcome: float
    edge: float


def write_report(
    engine: Engine,
    folder: Path,
    *,
    now: datetime,
    as_of: datetime | None = None,
    leaderboard: Leaderboard | None = None,
    since: date | None = None,
    until: date | None = None,
    markets_since: date | None = None,
) -> ReportSummary:
    """Write the whole page into `folder`, replacing the one that is there in one step.

    Everything on it but the coverage calendar is of the run dates that its boards count.

    Args:
        now: instant of the page, UTC.
        as_of: instant of what is known; default `now`.
        leaderboard: the boards as of that moment, where they have been built already.
        since, until: the first and the last run date that count; default all. Boards that are given have their own.
        markets_since: only markets of this run date and later have pages of their own; default all that count.

    Raises:
        FolderNotOurs: `folder` has files, and they are no page of ours.
        PageUnwritable: there is no writing to it.
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses; the page that was there stays.
    """
    started = time.monotonic()
    as_of = as_of or now
    folder = folder.expanduser().resolve()
    _refuse_to_replace(folder)
    if leaderboard is not None:
        since, until = leaderboard.since, leaderboard.until
    forecasts = load_forecasts(engine, as_of, since=since, until=until)
    costs = load_costs(engine, as_of, since=since, until=until)
    if leaderboard is None:
        leaderboard = leaderboard_of(engine, forecasts, costs, since, until)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        written = _Site(engine, partial, leaderboard, forecasts, costs, now).write(markets_since)
        sizes = [path.stat().st_size for path in partial.rglob("*") if path.is_file()]
        summary = ReportSummary(
            folder=folder,
            files=len(sizes),
            bytes=sum(sizes),
            seconds=time.monotonic() - started,
            markets=written.markets,
            experiments=written.experiments,
            as_of=as_of,
            leaderboard_hash=content_hash(leaderboard),
        )
        _swap(partial, folder)
    except OSError as error:
        raise PageUnwritable(f"{folder} cannot be written ({error}): see to the space and the rights there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _refuse_to_replace(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FolderNotOurs(f"{folder} is a file: name a folder with --output")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise FolderNotOurs(
            f"{folder} has files and no {MARKER}, so it is no page of ours to replace: "
            "name another folder with --output"
        )


def _swap(partial: Path, folder: Path) -> None:
    """Put the new page where the old one is; a reader finds one of them but for an instant."""
    old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class _Written:
    markets: int
    experiments: int


class _Site:
    """One page being written."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        leaderboard: Leaderboard,
        forecasts: Forecasts,
        costs: Sequence[RunCost],
        now: datetime,
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._leaderboard = leaderboard
        self._forecasts = forecasts
        self._costs: defaultdict[tuple[str, str], list[RunCost]] = defaultdict(list)
        for one in costs:
            self._costs[one.experiment, one.version].append(one)
        self._as_of = leaderboard.as_of
        self._now = now
        self._simulated = is_simulated(stored_exchange(engine))
        self._panels = views.Panels(leaderboard)
        self._style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
        self._script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
        self._environment = _environment()
        self._environment.globals |= {
            "style": Markup(self._style),  # noqa: S704 - files of ours
            "script": Markup(self._script),  # noqa: S704
            "script_hash": base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode(),
            "as_of": self._as_of,
            "now": now,
            "program_version": __version__,
            "scoring_version": leaderboard.scoring_version,
            "leaderboard_hash": content_hash(leaderboard),
            "simulated": self._simulated,
            "period": boards.period(leaderboard),
        }
        self._since, self._until = leaderboard.since or date.min, leaderboard.until or date.max

    def write(self, markets_since: date | None) -> _Written:
        """All pages."""
        self._folder.mkdir()
        seen = overview(self._engine, self._as_of, self._since, self._until)
        pages, days = self._write_cohorts(max(markets_since or date.min, self._since), seen)
        self._write_markets(pages, days)
        experiments = self._write_experiments(seen, set(pages))
        self._write_index(seen, set(days))
        self._put("assets/report.css", self._style)
        self._put("assets/report.js", self._script)
        self._put("leaderboard.json", encoded_leaderboard(self._leaderboard).decode())
        made = {
            "what": "A page of Predictbench; the next one replaces this folder.",
            "made_at": self._now.isoformat(),
            "simulated": self._simulated,
            "as_of": self._as_of.isoformat(),
            "scoring_version": self._leaderboard.scoring_version,
            "leaderboard_sha256": content_hash(self._leaderboard),
            "markets": len(pages),
            "experiments": experiments,
        }
        self._put(MARKER, json.dumps(made, indent=2) + "\n")
        return _Written(markets=len(pages), experiments=experiments)

    def _write_index(self, seen: Overview, days: set[tuple[date, int]]) -> None:
        shown = views.windows(self._leaderboard, self._panels)
        calendar = coverage_of(run_states(self._engine, self._as_of))
        self._render(
            "index.html",
            "index.html.j2",
            root="",
            headline=views.headline(self._leaderboard, seen),
            windows=shown,
            overview=seen,
            cohorts=sorted(self._leaderboard.cohorts, key=lambda one: (one.run_date, -one.window_days), reverse=True),
            calendar=None if calendar is None else views.calendar_view(calendar),
            coherence=self._leaderboard.coherence,
            cohort_pages=days,
            experiment_pages=set(_entrants(self._leaderboard, self._forecasts)),
            settlement=_settlement(self._leaderboard, self._forecasts),
            flags_used=_flags_used(self._leaderboard.rows),
        )

    def _write_cohorts(self, since: date, seen: Overview) -> tuple[dict[str, str], dict[tuple[date, int], list[str]]]:
        """Pages of days, with links to their markets; the page of each market, and the markets of each day."""
        pages: dict[str, str] = {}
        days: dict[tuple[date, int], list[str]] = {}
        for sample in cohorts(self._engine, self._as_of, since, self._until):
            run_date, window, core = sample.run_date, sample.window_days, sample.markets
            for market in core:
                pages.setdefault(market.market_id, page_name(market.market_id))
            days[run_date, window] = [market.market_id for market in core]
            self._render(
                f"cohorts/{cohort_name(run_date, window)}.html",
                "cohort.html.j2",
                root="../",
                run_date=run_date,
                window=window,
                sample=sample,
                markets=core,
                pages=pages,
                digest=seen.digests.get((run_date, window)),
            )
        return pages, days

    def _write_markets(self, pages: Mapping[str, str], days: Mapping[tuple[date, int], Sequence[str]]) -> None:
        for record in markets(self._engine, self._as_of, list(pages)):
            settled = record.settled
            self._render(
                f"markets/{pages[record.market_id]}.html",
                "market.html.j2",
                root="../",
                market=record,
                settled=settled,
                first_outcome=record.outcomes[0] if record.outcomes else "the first outcome",
                address=None if self._simulated else polymarket_address(record.event_slug or record.slug),
                captures=[
                    _scored(capture, settled.outcome if settled else None) for capture in reversed(record.captures)
                ],
                may_know=any(said.may_know for one in record.captures for said in one.forecasts),
                reasoned=any(said.rationale for one in record.captures for said in one.forecasts),
                linked_days={
                    key for key in days if any(key == (one.run_date, one.window_days) for one in record.captures)
                },
            )

    def _write_experiments(self, seen: Overview, with_pages: set[str]) -> int:
        registered = {(one.name, one.version): one for one in seen.experiments}
        entrants = _entrants(self._leaderboard, self._forecasts)
        why = reasons(self._engine, self._as_of)
        spread = spreads(self._engine, self._as_of)
        best_and_worst = {key: self._best_and_worst(key, with_pages) for key in entrants}
        for key, entrant in entrants.items():
            rows = [row for row in self._leaderboard.rows if (row.experiment, row.version) == key]
            whole = sorted(
                (row for row in rows if row.is_whole),
                key=lambda row: (views.BOARDS.index((row.board, row.reconstructed)), row.window_days),
            )
            best, worst = best_and_worst[key]
            made = self._made(key)
            self._render(
                f"experiments/{page_name(*key)}.html",
                "experiment.html.j2",
                root="../",
                entrant=entrant,
                record=registered.get(key),
                versions=sorted(version for name, version in entrants if name == key[0] and version != key[1]),
                rows=[row for row in whole if row.coverage or not made.none_in_time],
                made=made,
                reasons=why.get(key, ()),
                use=views.use(self._costs.get(key, ()), spread.get(key)),
                cuts=[row for row in rows if not row.is_whole and row.board == made.board and row.n_markets],
                charts=[self._charts(row) for row in whole if row.board == made.board and row.n_markets],
                best=best,
                worst=worst,
            )
        return len(entrants)

    def _made(self, key: tuple[str, str]) -> "_Made":
        place = _place(self._forecasts.entrants, key)
        if place is None:  # on a board that was given, and in no forecast that is known now
            return _Made(in_time=1, late=0, reconstructed=0)
        forecasts = self._forecasts
        in_time, late = (~np.isnan(each[place]) for each in (forecasts.probability, forecasts.late))
        afterwards = late & forecasts.cohorts.reconstructed
        return _Made(int(in_time.sum()), int((late & ~afterwards).sum()), int(afterwards.sum()))

    def _charts(self, row: BoardRow) -> tuple[str, list[tuple[str, views.Panel]]]:
        """The heading and the small charts of an entrant on one board and window."""
        panels = [
            ("Calibration", self._panels.reliability(row)),
            ("Edge over time", self._panels.over_time(row)),
            ("Edge by price", self._panels.by_price(row)),
            ("Edge by category", self._panels.by_category(row)),
        ]
        heading = f"{views.days_ahead(row.window_days)}, {row.board} board{RECONSTRUCTED * row.reconstructed}"
        return heading, [(title, panel) for title, panel in panels if panel is not None]

    def _best_and_worst(
        self, key: tuple[str, str], with_pages: set[str]
    ) -> tuple[list[MarketScore], list[MarketScore]]:
        """The markets on which an entrant was most above the market's price, and most below."""
        data, place = self._forecasts.cohorts, _place(self._forecasts.entrants, key)
        if place is None:
            return [], []
        forecast = self._forecasts.probability[place]
        with np.errstate(invalid="ignore"):
            edge = rules.edge(forecast, data.price, data.outcome)
            counted = np.flatnonzero(~np.isnan(edge) & data.good & ((data.outcome == 0) | (data.outcome == 1)))
        ordered = counted[np.argsort(-edge[counted], kind="stable")]
        best = [int(one) for one in ordered[:_FEW] if edge[one] > 0]
        worst = [int(one) for one in ordered[::-1][:_FEW] if edge[one] < 0]
        told = questions(self._engine, [str(data.market_id[one]) for one in (*best, *worst)])

        def line(at: int) -> MarketScore:
            market_id = str(data.market_id[at])
            return MarketScore(
                market_id=market_id,
                page=page_name(market_id) if market_id in with_pages else None,
                question=told.get(market_id, market_id),
                run_date=data.run_date[at].astype(object),
                price=float(data.price[at]),
                probability=float(forecast[at]),
                outcome=float(data.outcome[at]),
                edge=float(edge[at]),
            )

        return [line(one) for one in best], [line(one) for one in worst]

    def _render(self, path: str, template: str, **values: Any) -> None:
        page = self._environment.get_template(template).render(**values).replace("\r\n", "\n").replace("\r", "\n")
        self._put(path, _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _BEFORE_PERCENT.sub("\N{NO-BREAK SPACE}%", page)))

    def _put(self, path: str, text: str) -> None:
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Scores:
    brier: float
    log_loss: float
    edge: float | None


@dataclass(frozen=True)
class _Scored:
    """A capture, and each forecast with its scores where the market has settled at 0 or 1."""

    capture: MarketCapture
    forecasts: tuple[tuple[StoredForecast, _Scores | None], ...]


def _scored(capture: MarketCapture, outcome: float | None) -> _Scored:
    ordered = sorted(capture.forecasts, key=lambda one: (one.control, one.experiment, one.version))
    if outcome not in (0.0, 1.0):
        return _Scored(capture, tuple((one, None) for one in ordered))
    made = [one.probability is not None for one in ordered]
    forecast = np.array([one.probability for one in ordered], np.float64)
    settled, price = np.full(len(ordered), outcome), np.full(len(ordered), capture.price, np.float64)
    columns = (rules.brier(forecast, settled), rules.log_loss(forecast, settled), rules.edge(forecast, price, settled))
    scores = [
        _Scores(brier, loss, None if capture.price is None else edge) if known else None
        for known, brier, loss, edge in zip(made, *(column.tolist() for column in columns), strict=True)
    ]
    return _Scored(capture, tuple(zip(ordered, scores, strict=True)))


@dataclass(frozen=True)
class _Made:
    """Number of forecasts that an entrant made."""

    in_time: int
    late: int
    """Too late to count."""
    reconstructed: int
    """Of reconstructed markets."""

    @property
    def none_in_time(self) -> bool:
        """True where the boards that count have none of its forecasts."""
        return not self.in_time

    @property
    def board(self) -> BoardName:
        """The board that shows the most of it."""
        return "backfill" if self.none_in_time and self.late + self.reconstructed else "core"


@dataclass(frozen=True)
class _Settlement:
    """Markets that are in no mean, counted over cohorts."""

    n_markets: int
    n_final: int
    n_splits: int
    n_without_good_price: int
    n_late: int
    """Forecasts that were made too late."""
    n_reconstructed: int
    """Markets of reconstructed snapshots."""


def _settlement(leaderboard: Leaderboard, forecasts: Forecasts) -> _Settlement:
    reconstructed = forecasts.cohorts.reconstructed
    return _Settlement(
        n_markets=sum(one.n_markets for one in leaderboard.cohorts),
        n_final=sum(one.n_final for one in leaderboard.cohorts),
        n_splits=sum(one.n_splits for one in leaderboard.cohorts),
        n_without_good_price=int((~forecasts.cohorts.good & ~reconstructed).sum()),
        n_late=int((~np.isnan(forecasts.late) & ~reconstructed).sum()),
        n_reconstructed=int(reconstructed.sum()),
    )


def _flags_used(rows: Iterable[BoardRow]) -> list[tuple[str, str]]:
    used = {flag for row in rows if row.is_whole for flag in row.flags}
    return [text for flag, text in views.FLAG_TEXTS.items() if flag in used]


def _entrants(leaderboard: Leaderboard, forecasts: Forecasts) -> dict[tuple[str, str], Entrant]:
    """Everybody on any board or in the forecasts, by name and version."""
    found = {(one.experiment, one.version): one for one in forecasts.entrants}
    for row in leaderboard.rows:
        found.setdefault(
            (row.experiment, row.version),
            Entrant(row.experiment, row.version, row.information, row.control, row.reference),
        )
    return dict(sorted(found.items()))


def _place(entrants: Sequence[Entrant], key: tuple[str, str]) -> int | None:
    return next((place for place, one in enumerate(entrants) if (one.experiment, one.version) == key), None)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "edge": _edge,
        "number": _number,
        "percent": _percent,
        "count": lambda value: f"{value:,}",
        "instant": views.instant,
        "short": _short,
        "words": _words,
        "undirected": lambda text: text.translate(_DIRECTIONS),
    }
    environment.globals |= {
        "FLAG_TEXTS": views.FLAG_TEXTS,
        "RECONSTRUCTED": RECONSTRUCTED,
        "RECONSTRUCTED_TEXT": boards.RECONSTRUCTED,
        "page_name": page_name,
        "cohort_name": cohort_name,
        "days_ahead": views.days_ahead,
        "FREEZE_WINDOW_HOURS": FREEZE_WINDOW_HOURS,
        "NEWEST_ATTEMPTS": NEWEST_ATTEMPTS,
        "LONGEST_RATIONALE": LONGEST_RATIONALE,
        "MOST_SOURCES": MOST_SOURCES,
    }
    return environment


_NONE = "\N{EN DASH}"


def _edge(value: float | None) -> str:
    """Signed, in squared probability; nothing is nothing, whatever its sign."""
    if value == 0:
        return "0"
    return _NONE if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float | None, digits: int = 0) -> str:
    return _NONE if value is None else f"{100 * value:.{digits}f} %".replace("-", "\N{MINUS SIGN}")


def _words(text: str) -> str:
    """Text of strangers whose every character can be seen, with no more than one empty line between two others."""
    return visible(_EMPTY_LINES.sub("\n\n", text.replace("\r\n", "\n").replace("\r", "\n").strip()))


def _short(text: str, length: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
