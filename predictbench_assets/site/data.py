"""Reads of the page beside the board: days, markets, forecasts and settlements.

Everything is what was known at `as_of`, in short transactions, a few hundred markets at a time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.as_of import (
    OUTCOME_PLACE,
    market_is_known,
    newest_observation,
    result_is_known,
    run_is_known,
)
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.reasons import count_texts
from predictbench_assets.runs import FREEZE_WINDOW_HOURS

CHUNK = 400
"""Markets that are read at a time."""

NEWEST_ATTEMPTS = 5
"""Attempts of an experiment whose failures and skips are counted by reason, and whose spreads are averaged."""

LONGEST_RATIONALE = 4_000
"""Characters of a rationale that are shown."""

MOST_SOURCES = 10
"""Sources of a forecast that are shown."""

_LONGEST_ADDRESS = 2_000
_UNSAFE = frozenset(' "<>\\^`{|}')
_SHOWN = 200
"""Characters of a source's title."""


@dataclass(frozen=True)
class WindowCounts:
    """Fate of everything that the exchange offered for one window, as counts."""

    window_days: int
    runs: int
    first: date
    last: date
    offered: int
    excluded: int
    excluded_by_reason: Mapping[str, int]
    rejected: int
    failed: int
    processed: int
    core: int
    good: int
    thin: int
    history: int
    """Priced by a history: of reconstructed markets."""
    unpriced: int
    withdrawn: int


@dataclass(frozen=True)
class ExperimentRecord:
    """A registered version of an experiment."""

    name: str
    version: str
    description: str
    information: str
    mandatory: bool
    control: bool
    is_active: bool


@dataclass(frozen=True)
class Overview:
    """Figures of the front page, over the run dates that it counts."""

    windows: tuple[WindowCounts, ...]
    experiments: tuple[ExperimentRecord, ...]
    next_close: datetime | None
    digests: Mapping[tuple[date, int], str]
    """The newest digest of the forecasts of a run, by run date and window."""


@dataclass(frozen=True)
class CoreMarket:
    """A market of a cohort's core sample, in a line."""

    market_id: str
    question: str
    category: str
    price: float | None
    close_time: datetime
    state: str
    outcome: float | None


@dataclass(frozen=True)
class Source:
    """Something that a forecast rests on, as its experiment named it."""

    title: str
    host: str
    """Name of its host; empty where there is no address."""
    address: str | None
    """None where it is no plain http or https address: such a one is not linked to."""
    published: str


@dataclass(frozen=True)
class Rationale:
    """Reasons of a forecast, in the words of its experiment: text of strangers."""

    text: str
    """The first characters, see `LONGEST_RATIONALE`."""
    length: int
    """Characters of the whole."""
    sources: tuple[Source, ...]
    """The first ones."""
    n_sources: int


@dataclass(frozen=True)
class StoredForecast:
    """Forecast of a market by an experiment; the one that counts where there is one."""

    experiment: str
    version: str
    control: bool
    status: str
    probability: float | None
    forecast_at: datetime | None
    timely: bool
    leaked: bool
    may_know: bool
    """True where the market has settled and was asked about as of the experiment's knowledge cutoff or earlier."""
    """True where it cites a market's price that it was not shown: it counts on no board."""
    reason: str | None
    """Why there is no forecast."""
    rationale: Rationale | None = None


@dataclass(frozen=True)
class Spread:
    """Spread of the samples that forecasts were made of: standard deviations, in probability."""

    forecasts: int
    mean: float
    largest: float


@dataclass(frozen=True)
class StoredReason:
    """Why an experiment gave no forecast of so many markets."""

    status: str
    reason: str
    markets: int


@dataclass(frozen=True)
class CoreSample:
    """The core sample of a run."""

    run_date: date
    window_days: int
    as_of: datetime | None
    """Of a reconstructed one, the instant that it shows."""
    captured_at: datetime
    markets: list[CoreMarket]


@dataclass(frozen=True)
class MarketCapture:
    """A market as one run froze it, with its forecasts."""

    run_date: date
    window_days: int
    captured_at: datetime
    as_of: datetime | None
    """Of a reconstructed one, the instant that it shows."""
    price: float | None
    bid: float | None
    ask: float | None
    spread: float | None
    price_source: str
    price_quality: str
    price_at: datetime | None
    volume: float | None
    liquidity: float | None
    core: bool
    core_weight: float | None
    reconstructed: bool
    forecasts: tuple[StoredForecast, ...]


@dataclass(frozen=True)
class Observation:
    """A line of the ledger: what was seen of a market's settlement."""

    observed_at: datetime
    source: str
    state: str
    outcome: float | None
    closed_time: datetime | None


@dataclass(frozen=True)
class MarketHistory:
    """Everything that is stored about a market, oldest capture first."""

    market_id: str
    slug: str
    event_slug: str | None
    event_title: str | None
    question: str
    category: str
    close_time: datetime
    rules: str | None
    """None where the raw snapshot has been moved to the archive."""
    outcomes: tuple[str, ...]
    captures: tuple[MarketCapture, ...] = ()
    observations: tuple[Observation, ...] = field(default=())
    """Oldest first."""

    @property
    def settled(self) -> Observation | None:
        """The newest observation, if it is final."""
        newest = self.observations[-1] if self.observations else None
        return newest if newest is not None and newest.state == "final" else None


_ALL_RUNS = f"SELECT p.* FROM predictbench.processing_runs p WHERE {run_is_known(':as_of')}"  # noqa: S608 - texts of ours
_RUNS = f"{_ALL_RUNS} AND p.run_date BETWEEN :since AND :until"
_KNOWN = market_is_known(":as_of")

_WINDOWS = text(f"""
    WITH runs AS ({_RUNS}), markets AS (
        SELECT r.window_days, count(*) FILTER (WHERE {_KNOWN} AND m.core) AS core,
            count(*) FILTER (WHERE {_KNOWN} AND m.price_quality = 'good') AS good,
            count(*) FILTER (WHERE {_KNOWN} AND m.price_quality = 'thin') AS thin,
            count(*) FILTER (WHERE {_KNOWN} AND m.price_quality = 'history') AS history,
            count(*) FILTER (WHERE {_KNOWN} AND m.price_quality = 'none') AS unpriced,
            count(*) FILTER (WHERE m.withdrawn_at <= :as_of) AS withdrawn
        FROM runs r CROSS JOIN LATERAL (
            SELECT * FROM predictbench.processed_markets stored WHERE stored.run_id = r.run_id OFFSET 0
        ) m GROUP BY r.window_days
    ), reasons AS (
        SELECT window_days, jsonb_object_agg(reason, markets) AS excluded_by_reason FROM (
            SELECT window_days, CASE WHEN whole THEN each.reason ELSE 'unreadable counts' END AS reason,
                sum(CASE WHEN whole THEN each.markets::bigint ELSE 1 END)::bigint AS markets
            FROM runs, jsonb_each_text(
                CASE WHEN jsonb_typeof(excluded_by_reason) = 'object' THEN excluded_by_reason END
            ) AS each(reason, markets), LATERAL (
                SELECT coalesce(each.markets ~ '^[0-9]{{1,15}}$', false) AS whole
            ) read GROUP BY window_days, 2
        ) AS summed GROUP BY window_days
    )
    SELECT r.window_days, count(*) AS runs, min(run_date) AS first, max(run_date) AS last,
        coalesce(sum(offered_markets), 0) AS offered, coalesce(sum(excluded_markets), 0) AS excluded,
        coalesce(sum(rejected_markets), 0) AS rejected, coalesce(sum(failed_markets), 0) AS failed,
        coalesce(sum(processed_markets), 0) AS processed,
        coalesce(max(core), 0) AS core, coalesce(max(good), 0) AS good, coalesce(max(thin), 0) AS thin,
        coalesce(max(history), 0) AS history, coalesce(max(unpriced), 0) AS unpriced,
        coalesce(max(withdrawn), 0) AS withdrawn,
        (SELECT excluded_by_reason FROM reasons WHERE reasons.window_days = r.window_days) AS excluded_by_reason
    FROM runs r LEFT JOIN markets USING (window_days) GROUP BY r.window_days ORDER BY r.window_days
""")  # noqa: S608 - texts of ours

_EXPERIMENTS = text("""
    SELECT name, version, description, information, mandatory, control, is_active
    FROM predictbench.experiments ORDER BY name, is_active DESC, version
""")

_NEXT_CLOSE = text(f"""
    WITH runs AS ({_RUNS})
    SELECT min(m.close_time) AS next_close FROM predictbench.processed_markets m JOIN runs USING (run_id)
    WHERE {_KNOWN} AND m.close_time > :as_of
""")  # noqa: S608 - texts of ours

_DIGESTS = text("""
    SELECT DISTINCT ON (d.run_id) p.run_date, p.window_days, d.digest
    FROM predictbench.forecast_digests d JOIN predictbench.processing_runs p USING (run_id)
    WHERE p.run_date BETWEEN :since AND :until AND d.made_at <= :as_of ORDER BY d.run_id, d.made_at DESC, d.digest
""")

_COHORTS = text(f"""
    WITH runs AS ({_RUNS})
    SELECT r.run_id, r.run_date, r.window_days, r.as_of, min(m.captured_at) AS captured_at
    FROM runs r JOIN predictbench.processed_markets m USING (run_id)
    WHERE m.core AND {_KNOWN}
    GROUP BY r.run_id, r.run_date, r.window_days, r.as_of ORDER BY r.run_date DESC, r.window_days
""")  # noqa: S608 - texts of ours

_CORE_OF_A_RUN = text(f"""
    SELECT m.market_id, m.question, m.category, m.price, m.close_time,
        coalesce(known.state, 'open') AS state, CASE WHEN known.state = 'final' THEN known.outcome END AS outcome
    FROM predictbench.processed_markets m
    LEFT JOIN LATERAL ({newest_observation("o.state, o.outcome", ":as_of")}) AS known ON true
    WHERE m.run_id = :run_id AND m.core AND {_KNOWN} ORDER BY m.category, m.question, m.market_id
""")  # noqa: S608 - texts of ours

_CAPTURES = text(f"""
    WITH runs AS ({_ALL_RUNS})
    SELECT m.processed_market_id, m.market_id, m.market_slug, m.question, m.category, m.close_time,
        m.raw_snapshot ->> 'description' AS rules, m.raw_snapshot IS NULL AS archived,
        e.slug AS event_slug, e.title AS event_title, r.run_date, r.window_days,
        m.captured_at, m.as_of, m.price, m.bid, m.ask, m.spread, m.price_source, m.price_quality, m.price_at, m.volume,
        m.liquidity, m.core, m.core_weight, m.reconstructed
    FROM predictbench.processed_markets m JOIN runs r USING (run_id) LEFT JOIN predictbench.events e USING (event_id)
    WHERE m.market_id = ANY(:ids) AND {_KNOWN} ORDER BY m.market_id, r.run_date, r.window_days
""")  # noqa: S608 - texts of ours

_CONTRACTS = text(f"""
    SELECT processed_market_id, name FROM predictbench.processed_contracts
    WHERE processed_market_id = ANY(:captures) ORDER BY processed_market_id, {OUTCOME_PLACE}
""")  # noqa: S608 - texts of ours

_OBSERVATIONS = text("""
    SELECT market_id, observed_at, source, state, outcome, closed_time FROM predictbench.resolution_observations
    WHERE market_id = ANY(:ids) AND observed_at <= :as_of ORDER BY market_id, observed_at, observation_id DESC
""")

# Attempts of the same version from the newest back. Rows without a forecast show that there was none. What was made on
# a snapshot that a refresh has replaced answers to another price. OFFSET 0 has results looked up market by market: the
# planner takes a market's few for many, and would read all markets there are.
_FORECASTS = text(f"""
    SELECT r.processed_market_id, e.name, e.version, e.control, e.knowledge_cutoff, r.status, r.probability,
        r.forecast_at, r.reason,
        CASE WHEN jsonb_typeof(r.payload -> 'rationale') = 'string' THEN
            left(r.payload ->> 'rationale', {LONGEST_RATIONALE}) END AS rationale,
        CASE WHEN jsonb_typeof(r.payload -> 'rationale') = 'string' THEN
            char_length(r.payload ->> 'rationale') END AS length,
        CASE WHEN jsonb_typeof(r.payload -> 'sources') = 'array' THEN
            jsonb_path_query_array(r.payload, '$.sources[0 to {MOST_SOURCES - 1}]') END AS sources,
        CASE WHEN jsonb_typeof(r.payload -> 'sources') = 'array' THEN
            jsonb_array_length(r.payload -> 'sources') ELSE 0 END AS n_sources,
        r.leaked
    FROM predictbench.processed_markets m CROSS JOIN LATERAL (
        SELECT * FROM predictbench.experiment_results made
        WHERE made.processed_market_id = m.processed_market_id OFFSET 0
    ) r JOIN predictbench.experiment_runs a USING (experiment_run_id)
    JOIN predictbench.experiments e USING (experiment_id)
    WHERE m.processed_market_id = ANY(:captures) AND e.forecasts
      AND coalesce(a.snapshot_hash = m.snapshot_hash, true)
      AND {result_is_known(":as_of")}
    ORDER BY r.processed_market_id, e.name, e.version, a.attempt DESC
""")  # noqa: S608 - texts of ours

# OFFSET 0 has the few attempts looked up one by one: the planner takes them for many, and would read all results.
_RESULTS_OF_AN_ATTEMPT = """
    SELECT * FROM predictbench.experiment_results made WHERE made.experiment_run_id = a.experiment_run_id OFFSET 0"""

# Failures of the newest attempts of each version alone: a year of them is a long read, and the code has changed since.
_REASONS = text(f"""
    WITH attempts AS (
        SELECT a.experiment_run_id, a.experiment_id,
            row_number() OVER (PARTITION BY a.experiment_id ORDER BY p.run_date DESC, a.attempt DESC) AS place
        FROM predictbench.experiment_runs a JOIN predictbench.processing_runs p USING (run_id)
        WHERE a.status <> 'not_run' AND coalesce(a.finished_at, p.started_at) <= :as_of
    )
    SELECT e.name, e.version, r.status, r.reason, count(*) AS markets
    FROM attempts a JOIN predictbench.experiments e USING (experiment_id)
    CROSS JOIN LATERAL ({_RESULTS_OF_AN_ATTEMPT}) r
    WHERE a.place <= :attempts AND r.status IN ('failed', 'skipped') AND {result_is_known(":as_of")}
    GROUP BY e.name, e.version, r.status, r.reason ORDER BY count(*) DESC, r.reason LIMIT 10000
""")  # noqa: S608 - texts of ours

_SPREADS = text(f"""
    WITH attempts AS (
        SELECT a.experiment_run_id, a.experiment_id,
            row_number() OVER (PARTITION BY a.experiment_id ORDER BY p.run_date DESC, a.attempt DESC) AS place
        FROM predictbench.experiment_runs a JOIN predictbench.processing_runs p USING (run_id)
        WHERE a.status <> 'not_run' AND coalesce(a.finished_at, p.started_at) <= :as_of
    )
    SELECT e.name, e.version, count(*) AS forecasts, avg(spread)::float8 AS mean, max(spread)::float8 AS largest
    FROM attempts a JOIN predictbench.experiments e USING (experiment_id)
    CROSS JOIN LATERAL ({_RESULTS_OF_AN_ATTEMPT}) r, LATERAL (
        SELECT CASE WHEN jsonb_typeof(r.payload -> 'spread') = 'number'
                AND jsonb_path_exists(r.payload, 'strict $.samples[1]', silent => true)
            THEN (r.payload ->> 'spread')::numeric END AS spread
    ) read
    WHERE a.place <= :attempts AND r.status = 'completed' AND spread BETWEEN 0 AND 1 AND {result_is_known(":as_of")}
    GROUP BY e.name, e.version
""")  # noqa: S608 - texts of ours

_QUESTIONS = text("""
    SELECT DISTINCT ON (market_id) market_id, question FROM predictbench.processed_markets
    WHERE market_id = ANY(:ids) ORDER BY market_id, captured_at DESC
""")


def overview(engine: Engine, as_of: datetime, since: date, until: date) -> Overview:
    """Counts over the complete runs of some dates, the registered experiments and the digests."""

    def work(connection: Connection) -> Overview:
        known = {"as_of": as_of, "since": since, "until": until}
        windows = []
        for row in connection.execute(_WINDOWS, known):
            values = row._asdict()
            values["excluded_by_reason"] = values["excluded_by_reason"] or {}
            windows.append(WindowCounts(**{name: _whole(value) for name, value in values.items()}))
        return Overview(
            windows=tuple(windows),
            experiments=tuple(ExperimentRecord(**row._asdict()) for row in connection.execute(_EXPERIMENTS)),
            next_close=connection.execute(_NEXT_CLOSE, known).scalar(),
            digests={(row.run_date, row.window_days): row.digest for row in connection.execute(_DIGESTS, known)},
        )

    return in_transaction(engine, work)


def cohorts(engine: Engine, as_of: datetime, since: date, until: date) -> Iterator[CoreSample]:
    """The core sample of each complete run of some dates, newest first."""
    known = {"as_of": as_of, "since": since, "until": until}
    runs = in_transaction(engine, lambda connection: connection.execute(_COHORTS, known).all())
    for run in runs:
        values = run._asdict()
        yield CoreSample(markets=_core_of(engine, values.pop("run_id"), as_of), **values)


def markets(engine: Engine, as_of: datetime, ids: Sequence[str]) -> Iterator[MarketHistory]:
    """Everything about the markets named, in the order of their ids."""
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), CHUNK):
        yield from _records(engine, as_of, wanted[start : start + CHUNK])


def reasons(engine: Engine, as_of: datetime) -> dict[tuple[str, str], tuple[StoredReason, ...]]:
    """Why the experiments gave no forecasts in their newest runs, by name and version; the most frequent ones first."""
    known = {"as_of": as_of, "attempts": NEWEST_ATTEMPTS}
    rows = in_transaction(engine, lambda connection: connection.execute(_REASONS, known).all())
    given: dict[tuple[str, str, str], list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        given[row.name, row.version, row.status].append((row.reason or "no reason was given", row.markets))
    found: dict[tuple[str, str], list[StoredReason]] = defaultdict(list)
    for (name, version, status), texts in sorted(given.items()):
        found[name, version] += [StoredReason(status, reason, count) for reason, count in count_texts(texts).items()]
    return {key: tuple(each) for key, each in found.items()}


def spreads(engine: Engine, as_of: datetime) -> dict[tuple[str, str], Spread]:
    """Spreads of the samples of experiments' newest runs, by name and version, of those that store one."""
    known = {"as_of": as_of, "attempts": NEWEST_ATTEMPTS}
    rows = in_transaction(engine, lambda connection: connection.execute(_SPREADS, known).all())
    return {(row.name, row.version): Spread(row.forecasts, row.mean, row.largest) for row in rows}


def questions(engine: Engine, ids: Sequence[str]) -> dict[str, str]:
    """The questions of markets, as they were captured last."""
    rows = in_transaction(engine, lambda connection: connection.execute(_QUESTIONS, {"ids": list(ids)}).all())
    return {row.market_id: row.question for row in rows}


def _whole(value: Any) -> Any:
    """Sums of Postgres are decimals."""
    return int(value) if isinstance(value, Decimal) else value


def _core_of(engine: Engine, run_id: UUID, as_of: datetime) -> list[CoreMarket]:
    known = {"as_of": as_of, "run_id": run_id}
    rows = in_transaction(engine, lambda connection: connection.execute(_CORE_OF_A_RUN, known).all())
    return [CoreMarket(**row._asdict()) for row in rows]


def _records(engine: Engine, as_of: datetime, ids: Sequence[str]) -> Iterator[MarketHistory]:
    known = {"as_of": as_of, "ids": list(ids)}

    def work(connection: Connection) -> tuple[Sequence[Any], ...]:
        captures = connection.execute(_CAPTURES, known).all()
        keys = {"captures": [row.processed_market_id for row in captures], "as_of": as_of}
        return (
            captures,
            connection.execute(_OBSERVATIONS, known).all(),
            connection.execute(_CONTRACTS, {"captures": keys["captures"]}).all(),
            connection.execute(_FORECASTS, keys).all(),
        )

    captures, observed, contracts, results = in_transaction(engine, work)
    observations = defaultdict(list)
    for row in observed:
        values = row._asdict()
        observations[values.pop("market_id")].append(Observation(**values))
    outcomes = defaultdict(list)
    for row in contracts:
        outcomes[row.processed_market_id].append(row.name)
    forecasts = defaultdict(list)
    for row in results:
        forecasts[row.processed_market_id].append(row)
    rows_of = defaultdict(list)
    for row in captures:
        rows_of[row.market_id].append(row)
    for market_id, rows in rows_of.items():
        newest = rows[-1]
        ledger = observations[market_id]
        last = ledger[-1] if ledger else None
        yield MarketHistory(
            market_id=market_id,
            slug=newest.market_slug,
            event_slug=newest.event_slug,
            event_title=newest.event_title,
            question=newest.question,
            category=newest.category,
            close_time=newest.close_time,
            rules=next((row.rules or "" for row in reversed(rows) if not row.archived), None),
            outcomes=tuple(outcomes[newest.processed_market_id]),
            captures=tuple(_capture(row, forecasts[row.processed_market_id], last) for row in rows),
            observations=tuple(ledger),
        )


def _capture(row: Any, results: Sequence[Any], last: Observation | None) -> MarketCapture:
    """A capture with its forecasts; `last` is what was seen last of the market."""
    values = {name: getattr(row, name) for name in MarketCapture.__dataclass_fields__ if name != "forecasts"}
    frozen = row.captured_at + timedelta(hours=FREEZE_WINDOW_HOURS)
    shut = (last.closed_time if last else None) or row.close_time
    asked_on = (row.as_of or row.captured_at).astimezone(UTC).date()
    settled = last is not None and last.state == "final"
    best: dict[tuple[str, str], StoredForecast] = {}
    for result in results:
        at = result.forecast_at
        made = result.status == "completed" and result.probability is not None
        timely = bool(made and at is not None and at <= frozen and at < shut and not row.reconstructed)
        found = StoredForecast(
            experiment=result.name,
            version=result.version,
            control=result.control,
            status=result.status,
            probability=result.probability,
            forecast_at=at,
            timely=timely,
            leaked=result.leaked,
            may_know=made and settled and result.knowledge_cutoff is not None and asked_on <= result.knowledge_cutoff,
            reason=result.reason,
            rationale=_rationale(result),
        )
        key = (result.name, result.version)
        # From the newest attempt back: one that counts before one that does not, a forecast before none.
        if key not in best or _worth(found) > _worth(best[key]):
            best[key] = found
    return MarketCapture(**values, forecasts=tuple(best.values()))


def _rationale(result: Any) -> Rationale | None:
    if not (result.rationale or result.sources):
        return None
    return Rationale(
        text=result.rationale or "",
        length=result.length or 0,
        sources=tuple(map(_source, result.sources or ())),
        n_sources=result.n_sources,
    )


def _source(given: object) -> Source:
    """A source out of whatever an experiment stored as one."""
    named = given if isinstance(given, dict) else {"title": given if isinstance(given, str) else ""}
    title, url, published = (
        one if isinstance(one := named.get(key), str) else "" for key in ("title", "url", "published")
    )
    host, address = _linked(url)
    return Source(" ".join(title.split())[:_SHOWN] or host or "without a title", host, address, published[:_SHOWN])


def _linked(url: str) -> tuple[str, str | None]:
    """Host and address of what may be linked to: http and https, without a user's name that looks like another host."""
    if len(url) > _LONGEST_ADDRESS or not url.isascii() or not url.isprintable() or set(url) & _UNSAFE:
        return "", None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises for what is no number
    except ValueError:
        return "", None
    plain = parts.scheme in ("http", "https") and host and "@" not in parts.netloc
    return (host, url) if plain else ("", None)


def _worth(forecast: StoredForecast) -> tuple[bool, bool]:
    return forecast.timely and not forecast.leaked, forecast.probability is not None
