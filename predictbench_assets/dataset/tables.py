"""All tables of exports and releases: their columns with types and meanings, and the queries that they come from.

The writers take columns and types from here, and the data dictionary is printed from here, so the two cannot differ.

A table is read run by run, oldest first, or once for all runs. Its query has the parameters `run_id` or `runs`. Those
of releases have two more: `frozen_at`, the moment at which the cohort was released first (nothing stored later is in
any release), and `as_of`, that of the release itself; and those of forecasts a third, `experiments`: the names to take,
or null for all, as in a release. Rows of a release are in an order that is the same on every server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from predictbench_assets.database.as_of import (
    IS_SETTLED,
    NEWEST_FIRST,
    OUTCOME_PLACE,
    market_has_results,
    newest_observation,
    result_is_known,
)

Kind = Literal["text", "category", "double", "integer", "boolean", "time", "date", "texts", "doubles"]

MEANINGS: Mapping[Kind, str] = {
    "text": "text, UTF-8",
    "category": "text of few values; a dictionary in Parquet",
    "double": "double precision",
    "integer": "64-bit integer",
    "boolean": "true or false",
    "time": "instant in UTC; microseconds in Parquet, ISO 8601 in JSON lines",
    "date": "day of the calendar; ISO 8601 in JSON lines",
    "texts": "list of text",
    "doubles": "list of double precision; an element may be null",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        source: column of the table's query; default: its name.
        required: never null.
        released: False for what only exports have.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    source: str = ""
    required: bool = False
    released: bool = True


@dataclass(frozen=True)
class Table:
    """A table of an export or of a release.

    Args:
        source: the FROM clause of its query, and what follows.
        by_run: read run by run; else once, for all of them.
        frozen: a cohort's rows are the same in every release that has it.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    source: str
    order: str
    distinct: str = ""
    by_run: bool = True
    frozen: bool = False

    @property
    def query(self) -> str:
        """Query of its rows."""
        columns = ", ".join(f"{column.source or column.name} AS {column.name}" for column in self.columns)
        return f"SELECT {self.distinct} {columns} FROM {self.source} ORDER BY {self.order}"  # noqa: S608 - names of ours


_RUN = (
    Column("run_date", "date", "day of the run, UTC", source="p.run_date", required=True),
    Column("window_days", "integer", "from the run date to the close", "days", source="p.window_days", required=True),
)
_MARKET = Column("market_id", "text", "Polymarket's id of the market", source="m.market_id", required=True)
_EXPERIMENT = (
    Column("experiment", "category", "name of the experiment", source="n.name", required=True),
    Column("version", "category", "its version", source="n.version", required=True),
)
_ATTEMPT = Column(
    "attempt", "integer", "which attempt of the experiment in this run", source="a.attempt", required=True
)

RUNS = Table(
    "runs",
    "A row for each run date and window, those included that failed or were missed.",
    (
        Column("run_id", "text", "id of the run", source="p.run_id::text", required=True),
        *_RUN,
        Column("target_date", "date", "day on which the run's markets close, UTC", required=True),
        Column("status", "category", "completed, partial, failed, interrupted, running or missed", required=True),
        Column("attempt", "integer", "the newest attempt of the run", required=True),
        Column("started_at", "time", "start of the newest attempt", required=True),
        Column("finished_at", "time", "its end"),
        Column("offered_markets", "integer", "markets that the exchange offered", "markets"),
        Column("excluded_markets", "integer", "of these, left out by a filter", "markets"),
        Column("rejected_markets", "integer", "of these, malformed", "markets"),
        Column("failed_markets", "integer", "of these, without a result of a mandatory experiment", "markets"),
        Column("processed_markets", "integer", "of these, stored", "markets", source="p.processed_markets"),
        Column("stage", "category", "where a run that is not completed stopped"),
        Column("reason", "text", "and why"),
        Column("exchange", "category", "host that markets were read from", required=True),
        Column("snapshot_hash", "text", "SHA-256 of the frozen snapshot"),
        Column("git_sha", "text", "commit of the code that ran"),
    ),
    "predictbench.processing_runs p WHERE p.run_id = :run_id",
    "p.run_id",
)

MARKETS = Table(
    "markets",
    "A row for each market that a run stored. A market of several runs has a row for each.",
    (
        *_RUN,
        _MARKET,
        Column("market_slug", "text", "its name in Polymarket's addresses", required=True),
        Column("question", "text", "what is asked", required=True),
        Column("condition_id", "text", "its id on the chain"),
        Column("event_id", "text", "Polymarket's id of the event it belongs to", source="m.event_id"),
        Column("event_title", "text", "the event's title", source="e.title"),
        Column("category", "category", "our category", required=True),
        Column("cluster", "text", "markets that settle together have one", required=True),
        Column("series_slug", "text", "the series of events it belongs to"),
        Column("game_id", "text", "the game it is about"),
        Column(
            "neg_risk",
            "boolean",
            "whether one of the event's markets at most can be yes",
            source="m.neg_risk",
            required=True,
        ),
        Column("group_item_title", "text", "which of its event's markets it is, in Polymarket's words"),
        Column("group_item_threshold", "double", "the key Polymarket sorts them by; often missing or repeated"),
        Column("close_time", "time", "when it closes", required=True),
        Column("captured_at", "time", "when it was frozen, or of a reconstructed one when it was read", required=True),
        # In a release, whose rows are the same for ever, the manifest says it of each cohort.
        Column(
            "as_of",
            "time",
            "of a reconstructed market, the moment that is shown and that forecasts are about; else null",
            source="m.as_of",
            released=False,
        ),
        Column("price", "double", "the market's own forecast of its first outcome at capture", "probability"),
        Column("bid", "double", "best bid on the first outcome", "probability"),
        Column("ask", "double", "best ask on the first outcome", "probability"),
        Column("spread", "double", "ask less bid", "probability"),
        Column("price_source", "category", "clob, gamma, history or none", required=True),
        Column("price_at", "time", "when the price was read"),
        Column(
            "price_quality",
            "category",
            "good (both sides, spread at most 0.10), thin, history (reconstructed: no sides are known) or none",
            required=True,
        ),
        Column("volume", "double", "traded before capture", "USDC"),
        Column("liquidity", "double", "in the book at capture", "USDC"),
        Column("core", "boolean", "whether it is in the frozen core sample", required=True),
        Column("core_weight", "double", "inverse of the probability with which the sample picked it"),
        # Outcomes have a table of their own in a release, and so have resolutions, which change when a market settles.
        Column("outcomes", "texts", "names of its outcomes, the first one first", source="c.names", released=False),
        Column("outcome_ids", "texts", "tokens of its outcomes, in the same order", source="c.ids", released=False),
        Column(
            "outcome_prices",
            "doubles",
            "their prices in the listing, in the same order",
            "probability",
            source="c.prices",
            released=False,
        ),
        Column("withdrawn_at", "time", "when a later complete run of the same day no longer had it"),
        Column("reconstructed", "boolean", "put together afterwards rather than captured on the day", required=True),
        Column(
            "resolution",
            "category",
            "newest state observed: open, proposed, disputed, final or gave_up",
            source="o.state",
            released=False,
        ),
        Column(
            "outcome",
            "double",
            "what the first outcome paid; a half is a settlement too",
            "probability",
            source="o.outcome",
            released=False,
        ),
        Column(
            "resolution_observed_at", "time", "when that state was observed", source="o.observed_at", released=False
        ),
        Column("snapshot_hash", "text", "SHA-256 of the frozen snapshot it is from", source="m.snapshot_hash"),
    ),
    f"""predictbench.processed_markets m
    JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN predictbench.events e USING (event_id)
    LEFT JOIN LATERAL (
        SELECT array_agg(name ORDER BY place) AS names, array_agg(contract_id ORDER BY place) AS ids,
            array_agg(price ORDER BY place) AS prices
        FROM (SELECT name, contract_id, price, {OUTCOME_PLACE} AS place
              FROM predictbench.processed_contracts WHERE processed_market_id = m.processed_market_id) outcome
    ) c ON true
    LEFT JOIN LATERAL ({newest_observation("o.state, o.outcome, o.observed_at")}) o ON true
    WHERE m.run_id = :run_id""",  # noqa: S608 - names of ours
    "m.market_id",
)

LEAKED: Final = "leaked"
"""Status, in files, of a completed forecast that cites a market's price."""

USAGE: Final = tuple(
    # A cohort that was released has no such columns, and its rows are the same in every release.
    replace(column, released=False)
    for column in (
        Column("requests", "integer", "to a model or a service"),
        Column("input_tokens", "integer", "that were sent, the cached ones included", "tokens"),
        Column("output_tokens", "integer", "that came back, those of reasoning included", "tokens"),
        Column("cached_tokens", "integer", "of the input, those that the provider had in its cache", "tokens"),
        Column("cost", "double", "of the requests", "currency"),
        Column("currency", "category", "of the cost, as in ISO 4217"),
        Column("seconds", "double", "from the first request to the last answer", "seconds"),
        Column("model", "category", "as the provider named it in its answer"),
    )
)
"""Columns of what a forecast took, as far as its experiment knows."""

_RESULTS: Final = """predictbench.experiment_results r
    JOIN predictbench.experiment_runs a USING (experiment_run_id)
    JOIN predictbench.experiments n USING (experiment_id)
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p ON p.run_id = a.run_id"""

FORECASTS = Table(
    "forecasts",
    "A row for each market and experiment: what the newest attempt said that got to the market.",
    (
        *_RUN,
        _MARKET,
        *_EXPERIMENT,
        # Of the experiment, which has a table of its own in a release.
        Column(
            "control",
            "boolean",
            "whether it knows nothing on purpose",
            source="n.control",
            required=True,
            released=False,
        ),
        # In a release, whose rows are the same for ever, the manifest has the cutoff of each experiment.
        Column(
            "may_know",
            "boolean",
            "whether it was asked as of its experiment's knowledge cutoff or earlier: it may know the answer",
            source="""coalesce((coalesce(m.as_of, m.captured_at) AT TIME ZONE 'UTC')::date <= n.knowledge_cutoff,
                false)""",
            required=True,
            released=False,
        ),
        _ATTEMPT,
        Column(
            "status",
            "category",
            "completed, skipped, failed, not_run; leaked: a forecast that cites a price it was not shown",
            source=f"CASE WHEN r.leaked THEN '{LEAKED}' ELSE r.status END",
            required=True,
        ),
        Column("probability", "double", "of the market's first outcome", "probability"),
        Column("probabilities", "doubles", "one for each outcome, the first one first", "probability"),
        Column("score", "double", "of forecasts before usage was kept: what the experiment itself made of it"),
        Column("forecast_at", "time", "when it was made"),
        Column("stored_at", "time", "when it was stored; null in rows of before that was kept"),
        # Free text of programs, and addresses that may be private.
        Column("reason", "text", "why there is no forecast", source="r.reason", released=False),
        Column(
            "exception_type", "category", "the error, where one was raised", source="r.exception_type", released=False
        ),
        Column("artifact_uri", "text", "where the experiment left more", released=False),
        Column("snapshot_hash", "text", "SHA-256 of the snapshot it was made on", source="r.snapshot_hash"),
        Column("config_hash", "text", "of the configuration it was made with", source="r.config_hash"),
        *USAGE,
    ),
    f"{_RESULTS} WHERE a.run_id = :run_id AND n.forecasts",
    # As the view latest_experiment_results has it; asked of the view, every run ever stored would be sorted.
    "m.market_id, n.name, (r.status = 'not_run'), a.attempt DESC",
    "DISTINCT ON (m.market_id, n.name)",
)

SCORES = Table(
    "scores",
    "A row for each forecast of a settled market, of every attempt: how good it was, by the newest resolution.",
    (
        *_RUN,
        _MARKET,
        *_EXPERIMENT,
        _ATTEMPT,
        Column("outcome", "double", "what the first outcome paid", "probability", source="s.outcome", required=True),
        Column("brier", "double", "squared difference of forecast and outcome", "squared probability", required=True),
        Column("log_loss", "double", "negative logarithm of the forecast of what came true", "nats", required=True),
        Column("clipped", "boolean", "whether the log loss took a forecast less sure than it was", required=True),
        Column("edge", "double", "Brier score of the market's price less that of the forecast", "squared probability"),
        Column("disagreement", "double", "squared difference of forecast and price", "squared probability"),
        Column("scoring_version", "category", "of the rules", required=True),
        Column("observed_at", "time", "when that resolution was observed", source="o.observed_at", required=True),
        Column("scored_at", "time", "when it was scored", required=True, released=False),
    ),
    """predictbench.experiment_scores s
    JOIN predictbench.experiment_results r USING (experiment_result_id)
    JOIN predictbench.resolution_observations o USING (observation_id)
    JOIN predictbench.experiment_runs a USING (experiment_run_id)
    JOIN predictbench.experiments n USING (experiment_id)
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p ON p.run_id = a.run_id
    WHERE a.run_id = :run_id""",
    "m.market_id, n.name, n.version, a.attempt",
)

DIGESTS = Table(
    "digests",
    "A row for each hash over all forecasts of a run that was made when the run ended: see `predictbench verify`.",
    (
        *_RUN,
        Column("digest", "text", "SHA-256 of the run's forecasts, in hexadecimal", source="d.digest", required=True),
        Column("algorithm", "category", "how it is made", required=True),
        Column("attempt", "integer", "the attempt of the run that made it", source="d.attempt", required=True),
        Column("forecasts", "integer", "how many it is over", "forecasts", source="d.forecasts", required=True),
        Column("made_at", "time", "when; forecasts stored later are not in it", required=True),
    ),
    """predictbench.forecast_digests d
    JOIN predictbench.processing_runs p USING (run_id)
    WHERE d.run_id = :run_id""",
    "d.made_at, d.attempt, d.digest",
)

FAILURES = Table(
    "failures",
    "A row for each thing that did not complete, of every attempt of a run.",
    (
        *_RUN,
        Column("attempt", "integer", "which attempt of the run", source="f.attempt", required=True),
        Column("market_id", "text", "Polymarket's id of the market; null for a failure of the run itself"),
        Column("stage", "category", "where it happened", source="f.stage", required=True),
        Column("experiment", "category", "the experiment, where it was one's"),
        Column("field", "category", "the field of the payload at fault"),
        Column("reason", "text", "what happened", source="f.reason", required=True),
        Column("exception_type", "category", "the error, where one was raised"),
        Column("retriable", "boolean", "whether trying again could have helped", required=True),
        Column("logged_at", "time", "when", required=True),
    ),
    """predictbench.processing_failures f
    JOIN predictbench.processing_runs p USING (run_id)
    WHERE f.run_id = :run_id""",
    "f.attempt, f.logged_at, f.failure_id",
)

_CALL_STATUS: Final = (
    "answered, refused, truncated, invalid, failed (not answered) or unknown (nobody knows, it may have cost)"
)

MODEL_CALLS = Table(
    "model_calls",
    "A row for each request to a paid model: its intent before it went out, its outcome after it.",
    (
        *_RUN,
        Column("experiment", "category", "name of the experiment that asked", source="c.experiment", required=True),
        Column("version", "category", "its version", source="c.version", required=True),
        Column("unit", "category", "asked about: market, event or cohort", required=True),
        Column("unit_id", "text", "id of the market or the event", required=True),
        Column("sample", "integer", "which of several answers to the same question", required=True),
        Column("attempt", "integer", "which attempt at it", source="c.attempt", required=True),
        Column("provider", "category", "who was asked", required=True),
        Column("model_asked", "category", "the model that was named", required=True),
        Column("model_returned", "category", "the model as the provider named it in its answer"),
        Column("status", "category", _CALL_STATUS, source="c.status", required=True),
        Column("reason", "text", "why there is no forecast", source="c.reason"),
        Column("finish_reason", "category", "why the answer ended, in the provider's word"),
        Column("response_id", "text", "the provider's id of the answer"),
        Column("input_tokens", "integer", "that were sent, the cached ones included", "tokens"),
        Column("cached_tokens", "integer", "of the input, those that the provider had in its cache", "tokens"),
        Column("output_tokens", "integer", "that came back, those of reasoning included", "tokens"),
        Column("reasoning_tokens", "integer", "of the output, those of reasoning", "tokens"),
        Column("reserved_tokens", "integer", "the most that it could take", "tokens"),
        Column("reserved_cost", "double", "the most that it could cost; what one of unknown outcome counts at", "USD"),
        Column("cost", "double", "what it did cost; null where no price is known", "USD"),
        Column("price_table", "category", "prices that the cost is by, with their version"),
        Column("asked_at", "time", "when it went out", required=True),
        Column("answered_at", "time", "when the answer came"),
        Column("prompt_hash", "text", "of what was sent", required=True),
        Column("config_hash", "text", "of the experiment's configuration", source="c.config_hash", required=True),
        Column("snapshot_hash", "text", "of the snapshot it was about", source="c.snapshot_hash", required=True),
        Column("transcript_uri", "text", "file with the whole request and answer"),
        Column("transcript_line", "integer", "and the line in it, from 0 on"),
        Column("batch_id", "text", "the provider's id of the batch it was part of"),
    ),
    """predictbench.model_calls c
    JOIN predictbench.processing_runs p ON p.run_date = c.run_date AND p.window_days = c.window_days
    WHERE p.run_id = :run_id""",
    "c.experiment, c.version, c.asked_at, c.call_id",
)

EXPORTED_TABLES: Final = (RUNS, MARKETS, FORECASTS, SCORES, DIGESTS, FAILURES, MODEL_CALLS)
"""Paid calls are in exports only: one of unknown outcome is settled later, and what is released stays as it is."""


def _released(table: Table) -> tuple[Column, ...]:
    return tuple(column for column in table.columns if column.released)


_WITHDRAWN: Final = "CASE WHEN m.withdrawn_at <= :frozen_at THEN m.withdrawn_at END"

RELEASED_MARKETS: Final = Table(
    "markets",
    "A row for each market of each cohort. A market of several cohorts has a row for each.",
    tuple(
        replace(column, source=_WITHDRAWN) if column.name == "withdrawn_at" else column for column in _released(MARKETS)
    ),
    f"""predictbench.processed_markets m
    JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN predictbench.events e USING (event_id)
    WHERE m.run_id = :run_id AND {market_has_results(":frozen_at")}""",
    'm.market_id COLLATE "C"',
    frozen=True,
)

RELEASED_CONTRACTS: Final = Table(
    "contracts",
    "A row for each outcome of each market of each cohort.",
    (
        *_RUN,
        _MARKET,
        Column("position", "integer", "0 is the first outcome", source=OUTCOME_PLACE, required=True),
        Column("contract_id", "text", "Polymarket's token of the outcome", required=True),
        Column("name", "text", "the outcome's name", source="c.name", required=True),
        Column("price", "double", "its price in the listing", "probability", source="c.price"),
    ),
    f"""predictbench.processed_contracts c
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p USING (run_id)
    WHERE m.run_id = :run_id AND {market_has_results(":frozen_at")}""",
    f'm.market_id COLLATE "C", {OUTCOME_PLACE}, c.contract_id COLLATE "C"',
    frozen=True,
)

_FROZEN: Final = f"""WHERE a.run_id = :run_id AND {result_is_known(":frozen_at")}
        AND (CAST(:experiments AS text[]) IS NULL OR n.name = ANY(CAST(:experiments AS text[])))"""
_ORDER: Final = 'n.name COLLATE "C", n.version COLLATE "C", a.attempt, m.market_id COLLATE "C"'
"""The order in which a digest has them."""

RELEASED_FORECASTS: Final = Table(
    "forecasts",
    "A row for each market and each attempt of each experiment, those included that gave no forecast.",
    _released(FORECASTS),
    f"{_RESULTS} {_FROZEN} AND n.forecasts",
    _ORDER,
    frozen=True,
)

RELEASED_DIGESTS: Final = Table(
    "digests",
    DIGESTS.meaning,
    DIGESTS.columns,
    f"{DIGESTS.source} AND d.made_at <= :frozen_at",
    'd.made_at, d.attempt, d.digest COLLATE "C"',
    frozen=True,
)

RELEASED_EXPERIMENTS: Final = Table(
    "experiments",
    "A row for each version of each experiment.",
    (
        Column("experiment", "category", "its name", source="n.name", required=True),
        Column("version", "category", "its version", source="n.version", required=True),
        Column("description", "text", "what it does", source="n.description", required=True),
        Column("information", "category", "what it may know: blind, market, search_blind or search", required=True),
        Column("control", "boolean", "whether it knows nothing on purpose", source="n.control", required=True),
    ),
    """predictbench.experiments n
    WHERE n.forecasts AND EXISTS (SELECT FROM predictbench.experiment_runs a
        WHERE a.experiment_id = n.experiment_id AND a.run_id = ANY(:runs))""",
    'n.name COLLATE "C", n.version COLLATE "C"',
    by_run=False,
)

RELEASED_RESOLUTIONS: Final = Table(
    "resolutions",
    "A row for each market of which anything was observed: the newest observation.",
    (
        Column("market_id", "text", "Polymarket's id of the market", source="o.market_id", required=True),
        Column("state", "category", "open, proposed, disputed, final or gave_up", source="o.state", required=True),
        Column("outcome", "double", "what the first outcome paid; a half is a settlement too", "probability"),
        Column("payout", "doubles", "what each outcome paid, the first one first", "probability"),
        Column("closed_time", "time", "when trading ended, as the source says"),
        Column("observed_at", "time", "when it was observed", required=True),
        Column("source", "category", "where", source="o.source", required=True),
    ),
    """predictbench.resolution_observations o
    WHERE o.observed_at <= :as_of AND o.market_id IN (
        SELECT m.market_id FROM predictbench.processed_markets m WHERE m.run_id = ANY(:runs))""",
    f'o.market_id COLLATE "C", {NEWEST_FIRST}',
    'DISTINCT ON (o.market_id COLLATE "C")',
    by_run=False,
)

RELEASED_SCORES: Final = Table(
    "scores",
    "A row for each forecast of a settled market: how good it was, by the resolution in this release.",
    _released(SCORES),
    "",  # computed from the rows of `SCORED_FORECASTS`
    "",
)

# A forecast made on a snapshot that was replaced since has no price to be compared with.
SCORED_FORECASTS: Final = f"""
    SELECT p.run_date, p.window_days, m.market_id, n.name, n.version, a.attempt, o.observed_at, r.probability,
        o.outcome, CASE WHEN coalesce(r.snapshot_hash = m.snapshot_hash, true) THEN m.price END AS price
    FROM {_RESULTS}
    JOIN LATERAL ({newest_observation("o.state, o.outcome, o.observed_at", ":as_of")}) o ON {IS_SETTLED}
    {_FROZEN} AND r.status = 'completed' AND r.probability IS NOT NULL AND NOT r.leaked
    ORDER BY {_ORDER}"""  # noqa: S608 - names of ours

RELEASED_TABLES: Final = (
    *(RELEASED_MARKETS, RELEASED_CONTRACTS, RELEASED_FORECASTS, RELEASED_DIGESTS),
    *(RELEASED_EXPERIMENTS, RELEASED_RESOLUTIONS, RELEASED_SCORES),
)

_INTRODUCTION = (
    "Prices and probabilities are always those of a market's first outcome, between 0 and 1. A market is the same in "
    "all files by `run_date`, `window_days` and `market_id`."
)


def dictionary() -> dict[str, object]:
    """Describe the tables of an export, for programs."""
    return {table.name: {"meaning": table.meaning, "columns": described_columns(table)} for table in EXPORTED_TABLES}


def described_columns(table: Table) -> list[dict[str, object]]:
    """Describe the columns of a table, for programs."""
    return [
        {
            "name": column.name,
            "type": column.kind,
            "unit": column.unit or None,
            "nullable": not column.required,
            "meaning": column.meaning,
        }
        for column in table.columns
    ]


def dictionary_markdown(tables: Sequence[Table] = EXPORTED_TABLES) -> str:
    """Describe tables, for people."""
    lines = ["# Data dictionary", "", _INTRODUCTION, ""]
    for table in tables:
        lines += [f"## {table.name}", "", table.meaning, "", "| column | type | unit | null | meaning |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for one in table.columns:
            null = "no" if one.required else "yes"
            lines.append(f"| `{one.name}` | {one.kind} | {one.unit} | {null} | {one.meaning} |")
        lines.append("")
    lines += ["## Types", "", *(f"- `{kind}`: {meaning}" for kind, meaning in MEANINGS.items()), ""]
    return "\n".join(lines)
