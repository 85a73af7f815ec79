"""The tables, as SQLAlchemy Core sees them. What they mean is in the comments of the columns' neighbours here.

Probabilities and prices are always those of the market's first outcome, double precision in [0, 1]; the checks also
refuse NaN, which Postgres counts as greater than every number. Times are `timestamptz` in UTC. Ids follow from what
they name, so a rerun finds its own rows without reading them first: they are its uuid5, and those of a run's many rows
begin as the run's id does (`id_in_run`).
"""

from typing import get_args
from uuid import UUID, uuid5

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from predictbench_assets.markets.market import PriceQuality, PriceSource
from predictbench_assets.runs import RUN_NAMESPACE, CallStatus, ExperimentStatus, ResultStatus, RunStatus

SCHEMA = "predictbench"
VERSION_TABLE = "predictbench_alembic_version"
"""Alembic's own, in our schema. Dagster has one in the same database, with Alembic's usual name."""

LONGEST = {
    "market_id": 255,
    "event_id": 255,
    "condition_id": 255,
    "contract_id": 255,
    "neg_risk_market_id": 255,
    "game_id": 255,
    "series_slug": 500,
    "slug": 500,
    "market_slug": 500,
    "cluster": 500,
    "category": 255,
    "title": 2_000,
    "question": 2_000,
    "name": 500,
    "version": 100,
    "artifact_uri": 2_000,
    "exception_type": 255,
}
"""The longest text each column takes, in characters. The server checks it, and the writer before it."""

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)

RUN_STATUSES: tuple[str, ...] = get_args(RunStatus)
ATTEMPT_STATUSES = RUN_STATUSES[:-1]
"""A missed run was never attempted: its day was over when its schedule began."""
EXPERIMENT_STATUSES: tuple[str, ...] = get_args(ExperimentStatus)
RESULT_STATUSES: tuple[str, ...] = get_args(ResultStatus)
CALL_STATUSES: tuple[str, ...] = get_args(CallStatus)
RESOLUTION_STATES = ("open", "proposed", "disputed", "final", "gave_up")


def experiment_id(name: str, version: str) -> UUID:
    """The id of one version of an experiment."""
    return uuid5(RUN_NAMESPACE, f"experiment|{name}|{version}")


def experiment_run_id(run_id: UUID, name: str, attempt: int) -> UUID:
    """The id of the n-th attempt of an experiment in a run, whatever its version."""
    return uuid5(run_id, f"experiment_run|{name}|{attempt}")


def id_in_run(run_id: UUID, name: str) -> UUID:
    """The id of one of the many rows of a run: a uuid5, but with the run's first eight digits, and so version 8.

    The rows of a run lie together in every index then. Ids that have nothing in common change a page of a large index
    each, which is read from disk and logged whole.
    """
    own = uuid5(run_id, name).hex
    return UUID(f"{run_id.hex[:8]}{own[8:12]}8{own[13:]}")


def processed_market_id(run_id: UUID, market_id: str) -> UUID:
    """The id of a market in a run; those of its contracts and results follow from it, see `persistence/rows.py`."""
    return id_in_run(run_id, f"market|{market_id}")


def _text(name: str, *, nullable: bool = True) -> Column[str]:
    return Column(name, Text, nullable=nullable)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, Integer)


def _json(name: str) -> Column[object]:
    return Column(name, JSONB(none_as_null=True))


def _lengths(*columns: str) -> CheckConstraint:
    return CheckConstraint(
        " AND ".join(f"char_length({column}) <= {LONGEST[column]}" for column in columns), name="lengths"
    )


def _unit(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= 0 AND {column} <= 1", name=f"{column}_in_unit") for column in columns]


def _finite(*columns: str) -> list[CheckConstraint]:
    bounds = "{0} > '-Infinity'::float8 AND {0} < 'Infinity'::float8"
    return [CheckConstraint(bounds.format(column), name=f"{column}_finite") for column in columns]


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=f"{column}_known")


processing_runs = Table(
    "processing_runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("run_date", Date, nullable=False),
    Column("window_days", Integer, nullable=False),
    Column("target_date", Date, nullable=False),
    _time("started_at", nullable=False),
    _time("finished_at"),
    _text("status", nullable=False),
    # The lease: only the holder of the newest attempt may write.
    Column("attempt", Integer, nullable=False),
    _text("holder", nullable=False),
    _time("heartbeat_at", nullable=False),
    _text("dagster_run_id", nullable=False),
    # The host that was read. Sandbox and live data never share a database.
    _text("exchange", nullable=False),
    # offered = excluded + rejected + failed + processed; total = failed + processed. Null until the run ended.
    _count("offered_markets"),
    _count("excluded_markets"),
    _count("rejected_markets"),
    _count("total_markets"),
    _count("processed_markets"),
    _count("failed_markets"),
    _json("excluded_by_reason"),
    _text("stage"),
    _text("reason"),
    _text("snapshot_hash"),
    # As that of its snapshot: null where it was captured.
    _time("as_of"),
    _text("git_sha"),
    _json("summary"),
    UniqueConstraint("run_date", "window_days"),
    CheckConstraint("target_date = run_date + window_days", name="target_date"),
    CheckConstraint("attempt >= 1", name="attempt_positive"),
    _one_of("status", RUN_STATUSES),
    CheckConstraint(
        "status NOT IN ('completed', 'partial') OR coalesce("
        "offered_markets = excluded_markets + rejected_markets + failed_markets + processed_markets"
        " AND total_markets = failed_markets + processed_markets"
        " AND least(excluded_markets, rejected_markets, failed_markets, processed_markets) >= 0, false)",
        name="counts_add_up",
    ),
)

processing_attempts = Table(
    "processing_attempts",
    metadata,
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("dagster_run_id", Text, nullable=False, unique=True),
    _text("holder", nullable=False),
    _time("started_at", nullable=False),
    _time("heartbeat_at", nullable=False),
    _time("finished_at"),
    _text("status", nullable=False),
    _text("stage"),
    _text("reason"),
    PrimaryKeyConstraint("run_id", "attempt"),
    _one_of("status", ATTEMPT_STATUSES),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("snapshot_id", Uuid, primary_key=True),
    Column("run_date", Date, nullable=False),
    Column("window_days", Integer, nullable=False),
    _time("captured_at", nullable=False),
    # Hash of the bytes received from the exchange.
    _text("sha256", nullable=False),
    # Hash of the staged rows, quotes included: every other table's `snapshot_hash`.
    _text("content_hash", nullable=False),
    Column("rows", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    _text("uri", nullable=False),
    _text("exchange", nullable=False),
    _text("quotes_source", nullable=False),
    # The instant that was reconstructed; null where the exchange was captured as it was.
    _time("as_of"),
    _time("superseded_at"),
    # Which check stopped the run that captured it, and why: kept for those who mend the reader.
    _text("refused"),
    # Cost of the walk: pages, requests, retries, throttle seconds.
    _json("api"),
)
Index(
    "uq_snapshots_current",
    snapshots.c.run_date,
    snapshots.c.window_days,
    unique=True,
    postgresql_where=snapshots.c.superseded_at.is_(None),
)

archives = Table(
    "archives",
    metadata,
    Column("archive_id", Uuid, primary_key=True),
    # A file of JSON lines under zstd, a line for each raw snapshot that was moved there.
    _text("uri", nullable=False),
    # Of the uncompressed lines, each with its line feed.
    _text("sha256", nullable=False),
    Column("rows", Integer, nullable=False),
    _time("made_at", nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("event_id", Text, primary_key=True),
    _text("slug"),
    _text("title"),
    Column("neg_risk", Boolean, nullable=False),
    _lengths("event_id", "slug", "title"),
)

processed_markets = Table(
    "processed_markets",
    metadata,
    Column("processed_market_id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), nullable=False),
    _text("market_id", nullable=False),
    _text("market_slug", nullable=False),
    _text("question", nullable=False),
    _time("close_time", nullable=False),
    # Polymarket's row; jsonb keeps neither the order of keys nor whitespace, the snapshot's hash vouches for the bytes.
    # Null once it has been moved to an archive, long after the market was final.
    Column("raw_snapshot", JSONB(none_as_null=True)),
    Column("raw_archive_id", Uuid, ForeignKey("predictbench.archives.archive_id")),
    _time("processed_at", nullable=False),
    _text("condition_id"),
    Column("event_id", Text, ForeignKey(events.c.event_id)),
    _text("cluster", nullable=False),
    _text("category", nullable=False),
    _text("series_slug"),
    _text("game_id"),
    Column("neg_risk", Boolean, nullable=False),
    _text("neg_risk_market_id"),
    # Instant at which the exchange was read.
    _time("captured_at", nullable=False),
    # The instant that was reconstructed, which the price is of; null where it was captured.
    _time("as_of"),
    # The market's own forecast at capture: midpoint of bid and ask, or what the source had.
    Column("price", Double),
    Column("bid", Double),
    Column("ask", Double),
    Column("spread", Double),
    _text("price_source", nullable=False),
    _time("price_at"),
    _text("price_quality", nullable=False),
    # USDC.
    Column("volume", Double),
    Column("liquidity", Double),
    # The frozen core sample, and the inverse of the probability with which it picked the market.
    Column("core", Boolean, nullable=False),
    Column("core_weight", Double),
    _text("snapshot_hash"),
    # Place of the market in its event, in Polymarket's words: for readers of the data; often missing or repeated.
    _text("group_item_title"),
    Column("group_item_threshold", Double),
    # True where the snapshot was put together afterwards (a backfill) rather than captured on the day.
    Column("reconstructed", Boolean, nullable=False, server_default=text("false")),
    # Set when a later complete run of the same day no longer has the market.
    _time("withdrawn_at"),
    UniqueConstraint("run_id", "market_id"),
    # With what a run's markets are counted by.
    Index(None, "run_id", postgresql_include=["close_time", "withdrawn_at"]),
    Index(None, "close_time"),
    Index(None, "market_id"),
    Index(None, "event_id"),
    Index(None, "raw_archive_id"),
    # Those that are not archived yet: after years a small part of all.
    Index("ix_processed_markets_raw", "run_id", postgresql_where=text("raw_snapshot IS NOT NULL")),
    *_unit("price", "bid", "ask"),
    *_finite("spread", "volume", "liquidity", "core_weight"),
    CheckConstraint("raw_snapshot IS NOT NULL OR raw_archive_id IS NOT NULL", name="raw_kept"),
    _one_of("price_source", get_args(PriceSource)),
    _one_of("price_quality", get_args(PriceQuality)),
    _lengths(
        "market_id",
        "market_slug",
        "question",
        "condition_id",
        "cluster",
        "category",
        "series_slug",
        "game_id",
        "neg_risk_market_id",
    ),
)

processed_contracts = Table(
    "processed_contracts",
    metadata,
    Column("processed_contract_id", Uuid, primary_key=True),
    Column(
        "processed_market_id",
        Uuid,
        ForeignKey(processed_markets.c.processed_market_id, ondelete="CASCADE"),
        nullable=False,
    ),
    _text("contract_id", nullable=False),
    _text("name", nullable=False),
    Column("price", Double),
    # {"index": position in the market's outcomes}
    Column("metadata", JSONB, nullable=False),
    UniqueConstraint("processed_market_id", "contract_id"),
    *_unit("price"),
    _lengths("contract_id", "name"),
)

experiments = Table(
    "experiments",
    metadata,
    Column("experiment_id", Uuid, primary_key=True),
    _text("name", nullable=False),
    _text("version", nullable=False),
    _text("description", nullable=False),
    # Knowledge that the experiment may use: prices (market), the world (search_blind), both (search), neither (blind).
    _text("information", nullable=False),
    Column("mandatory", Boolean, nullable=False),
    # True for one that knows nothing on purpose: one that beats the market shows a bug or a leak.
    Column("control", Boolean, nullable=False, server_default=text("false")),
    # False for one that prepares what others require: its results have no probability and are no forecasts.
    Column("forecasts", Boolean, nullable=False, server_default=text("true")),
    # The last day that its model's training may have seen; null where it knows nothing of its own.
    Column("knowledge_cutoff", Date),
    # True for the version that was registered last.
    Column("is_active", Boolean, nullable=False),
    UniqueConstraint("name", "version"),
    _one_of("information", ("blind", "market", "search_blind", "search")),
    _lengths("name", "version"),
)

experiment_runs = Table(
    "experiment_runs",
    metadata,
    Column("experiment_run_id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), nullable=False),
    Column("experiment_id", Uuid, ForeignKey(experiments.c.experiment_id), nullable=False),
    # Counts the attempts of this experiment's name in this run, across versions. Attempts are only ever added.
    Column("attempt", Integer, nullable=False),
    _text("status", nullable=False),
    _time("started_at"),
    _time("finished_at"),
    _text("error_message"),
    # Hash of the staged results: the same version and content again is the same attempt.
    _text("content_hash", nullable=False),
    _text("snapshot_hash"),
    _text("config_hash"),
    _count("completed"),
    _count("skipped"),
    _count("failed"),
    _text("dagster_run_id", nullable=False),
    UniqueConstraint("run_id", "experiment_id", "attempt"),
    Index(None, "experiment_id"),
    _one_of("status", EXPERIMENT_STATUSES),
)

experiment_results = Table(
    "experiment_results",
    metadata,
    Column("experiment_result_id", Uuid, primary_key=True),
    Column(
        "experiment_run_id",
        Uuid,
        ForeignKey(experiment_runs.c.experiment_run_id, ondelete="CASCADE"),
        nullable=False,
    ),
    Column(
        "processed_market_id",
        Uuid,
        ForeignKey(processed_markets.c.processed_market_id, ondelete="CASCADE"),
        nullable=False,
    ),
    _text("status", nullable=False),
    _text("reason"),
    _text("exception_type"),
    Column("probability", Double),
    # One per outcome, first outcome first.
    _json("probabilities"),
    _json("payload"),
    # A number of the experiment's own, of forecasts before usage was kept.
    Column("score", Double),
    _text("artifact_uri"),
    _json("diagnostics"),
    # Instant of the forecast; boards count only those inside the freeze window.
    _time("forecast_at"),
    # True where the forecast's own words cite a market's price that it was not shown: kept, and on no board.
    Column("leaked", Boolean, nullable=False, server_default=text("false")),
    # Instant of the row's writing: what a board of a past day could know. Null, in older rows, counts as known.
    _time("stored_at"),
    _text("snapshot_hash"),
    _text("config_hash"),
    # Usage of a model or a service; null where the experiment does not know.
    Column("requests", BigInteger),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("cost", Numeric),
    _text("currency"),
    Column("seconds", Double),
    _text("model"),
    UniqueConstraint("experiment_run_id", "processed_market_id"),
    Index(None, "processed_market_id"),
    *_unit("probability"),
    *_finite("score"),
    CheckConstraint(
        "least(requests, input_tokens, output_tokens, cached_tokens) >= 0 AND cost BETWEEN 0 AND 1e12"
        " AND seconds BETWEEN 0 AND 1e12 AND (cost IS NULL) = (currency IS NULL)"
        " AND char_length(currency) = 3 AND char_length(model) <= 255",
        name="usage",
    ),
    _one_of("status", RESULT_STATUSES),
    _lengths("artifact_uri", "exception_type"),
)

processing_failures = Table(
    "processing_failures",
    metadata,
    Column("failure_id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    # Null for a failure of the run itself.
    _text("market_id"),
    _text("stage", nullable=False),
    _text("experiment"),
    _text("field"),
    _text("reason", nullable=False),
    _text("exception_type"),
    Column("retriable", Boolean, nullable=False),
    _time("logged_at", nullable=False),
    Index(None, "run_id", "attempt"),
)

resolution_observations = Table(
    "resolution_observations",
    metadata,
    Column("observation_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    _text("market_id", nullable=False),
    _time("observed_at", nullable=False),
    _text("source", nullable=False),
    _text("state", nullable=False),
    # The source's own word for its state; of Gamma's rows umaResolutionStatus.
    _text("status"),
    # Per outcome, first outcome first; `outcome` is the first of them. A half is a settlement too.
    _json("payout"),
    Column("outcome", Double),
    _time("closed_time"),
    _json("raw"),
    Index("ix_resolution_observations_newest", "market_id", text("observed_at DESC")),
    # Final markets, which are looked up again for a while.
    Index("ix_resolution_observations_final", "observed_at", postgresql_where=text("state = 'final'")),
    # Settled markets that are counted: all others have a winner.
    Index(
        "ix_resolution_observations_unusual",
        "market_id",
        postgresql_where=text("state = 'gave_up' OR state = 'final' AND outcome NOT IN (0, 1)"),
    ),
    *_unit("outcome"),
    _one_of("state", RESOLUTION_STATES),
    CheckConstraint("char_length(market_id) <= 255", name="lengths"),
)

resolution_checks = Table(
    "resolution_checks",
    metadata,
    # The sweep's last look-up of a market: an observation equal to the newest one adds no row to the ledger.
    Column("market_id", Text, primary_key=True),
    _time("checked_at", nullable=False),
    Column("checks", Integer, nullable=False),
    # Why the last look-up gave no observation (not found, no readable payout); null where it gave one.
    _text("problem"),
)

resolutions_due = Table(
    "resolutions_due",
    metadata,
    # Every stored market that is neither final nor given up has an entry, and others may: triggers add one for whatever
    # is stored or observed, in the same transaction, and the next sweep removes those of markets that have settled.
    # Only ever added to, so an entry that is removed has never stood for a later change.
    Column("due_id", BigInteger, Identity(), primary_key=True),
    Column("market_id", Text, nullable=False),
)

experiment_scores = Table(
    "experiment_scores",
    metadata,
    # The state of today: a changed resolution overwrites. The ledger and the forecasts rebuild every earlier one.
    Column(
        "experiment_result_id",
        Uuid,
        ForeignKey(experiment_results.c.experiment_result_id, ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("observation_id", Uuid, ForeignKey(resolution_observations.c.observation_id), nullable=False),
    Column("outcome", Double, nullable=False),
    Column("brier", Double, nullable=False),
    Column("log_loss", Double, nullable=False),
    # True where the forecast was so sure that the log loss took another, see scoring/rules.py.
    Column("clipped", Boolean, nullable=False),
    # Null where the market had no price of its own.
    Column("edge", Double),
    Column("disagreement", Double),
    _text("scoring_version", nullable=False),
    _time("scored_at", nullable=False),
    Index(None, "observation_id"),
)

scores_due = Table(
    "scores_due",
    metadata,
    # Entries of scoring's queue, added by triggers in the transaction of the change, and removed in the one
    # that has scored it. Only ever added to: an entry that is removed has never stood for a later change.
    Column("due_id", BigInteger, Identity(), primary_key=True),
    # Market with a new observation.
    Column("market_id", Text),
    # Run with new forecasts, or other prices.
    Column("run_id", Uuid),
    Index(None, "market_id"),
    CheckConstraint("num_nonnulls(market_id, run_id) = 1", name="one_of_both"),
)

scored_runs = Table(
    "scored_runs",
    metadata,
    # Sums over the forecasts and scores of a run, kept in the transactions that change its scores: no reader
    # counts millions of rows to know how many there are.
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), primary_key=True),
    # Version that scored the whole run.
    _text("scoring_version", nullable=False),
    Column("forecasts", Integer, nullable=False),
    Column("scores", Integer, nullable=False),
    # The rest is for the checks of scores, see scoring/store/checks.py.
    Column("out_of_range", Integer, nullable=False),
    Column("reference_scores", Integer, nullable=False),
    Column("reference_edges", Integer, nullable=False),
)

leaderboards = Table(
    "leaderboards",
    metadata,
    Column("leaderboard_id", Uuid, primary_key=True),
    # The ledger's time: nothing observed or stored later is in the board.
    _time("as_of", nullable=False),
    _time("computed_at", nullable=False),
    _text("scoring_version", nullable=False),
    # Hash of rows and detail: a rebuild of the same moment has the same.
    _text("content_hash", nullable=False),
    # Everything but the rows: comparisons, calibration curves, edge over time, coherence.
    Column("detail", JSONB(none_as_null=True), nullable=False),
    Index(None, "as_of"),
)

leaderboard_rows = Table(
    "leaderboard_rows",
    metadata,
    Column("leaderboard_id", Uuid, ForeignKey(leaderboards.c.leaderboard_id, ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    _text("board", nullable=False),
    Column("window_days", Integer, nullable=False),
    _text("category", nullable=False),
    _text("price_bin", nullable=False),
    _text("experiment", nullable=False),
    _text("version", nullable=False),
    Column("n_markets", Integer, nullable=False),
    Column("n_events", Integer, nullable=False),
    Column("mean_edge", Double),
    Column("edge_low", Double),
    Column("edge_high", Double),
    Column("rank", Integer),
    # The whole row, as `predictbench leaderboard --format json` shows it.
    Column("row", JSONB(none_as_null=True), nullable=False),
    PrimaryKeyConstraint("leaderboard_id", "position"),
)

model_calls = Table(
    "model_calls",
    metadata,
    # A row for each request. Its id is that of what was asked and of the attempt: two processes that ask for the same
    # thing find each other's row.
    Column("call_id", Uuid, primary_key=True),
    Column("run_date", Date, nullable=False),
    Column("window_days", Integer, nullable=False),
    _text("experiment", nullable=False),
    _text("version", nullable=False),
    _text("config_hash", nullable=False),
    _text("snapshot_hash", nullable=False),
    # The market, or the event, that was asked about.
    _text("unit", nullable=False),
    _text("unit_id", nullable=False),
    Column("sample", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    _text("provider", nullable=False),
    _text("model_asked", nullable=False),
    _text("model_returned"),
    _text("prompt_hash", nullable=False),
    # `unknown` from the intent on: whether a request that has no other status was paid for, nobody knows.
    _text("status", nullable=False),
    _text("reason"),
    _text("response_id"),
    _text("finish_reason"),
    *(Column(f"{kind}_tokens", BigInteger) for kind in ("reserved", "input", "cached", "output", "reasoning")),
    # USD: the most that it can cost, and what it did; null where no price is known. An unknown one counts as reserved.
    Column("reserved_cost", Numeric),
    Column("cost", Numeric),
    # The table of prices, with its version.
    _text("price_table"),
    _time("asked_at", nullable=False),
    _time("answered_at"),
    # Until then the process that asked may still be waiting for the answer.
    _time("expires_at", nullable=False),
    # The server's own time, by which requests are spaced.
    Column("claimed_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    _text("owner", nullable=False),
    # The whole request and answer: a file of lines, and the line in it, from 0 on.
    _text("transcript_uri"),
    Column("transcript_line", Integer),
    _text("batch_id"),
    Index(None, "run_date", "window_days", "experiment"),
    Index(None, "asked_at"),
    Index(None, "claimed_at"),
    _one_of("unit", ("market", "event", "cohort")),
    _one_of("status", CALL_STATUSES),
    CheckConstraint(
        "least(sample, attempt, reserved_tokens, input_tokens, cached_tokens, output_tokens, reasoning_tokens) >= 0"
        " AND reserved_cost BETWEEN 0 AND 1e12 AND cost BETWEEN 0 AND 1e12",
        name="amounts",
    ),
)

forecast_digests = Table(
    "forecast_digests",
    metadata,
    # A run has one for each time that its forecasts had changed when it ended.
    Column("run_id", Uuid, ForeignKey(processing_runs.c.run_id, ondelete="CASCADE"), nullable=False),
    _text("digest", nullable=False),
    _text("algorithm", nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("forecasts", Integer, nullable=False),
    _time("made_at", nullable=False),
    PrimaryKeyConstraint("run_id", "digest"),
)

# Made in the migrations, where their text is; Alembic does not compare views.
VIEWS = ("latest_experiment_results", "market_resolutions")
