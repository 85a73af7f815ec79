"""What a release holds: the tables, and the queries that they come from.

Cohort tables are read run by run. Besides the run's id their queries have two parameters: `frozen_at`, the moment at
which the cohort was released first (nothing stored later is in any release), and `as_of`, that of the release itself.
Those of forecasts have a third, `experiments`: the names to take, or null for all, as in a release. Rows are in an
order that is the same on every server.
"""

from typing import Final

from predictbench_assets.dataset.tables import DIGESTS, FORECASTS, MARKETS, SCORES, USAGE, Column, ExportedTable

_NOT_OF_A_COHORT: Final = {"resolution", "outcome", "resolution_observed_at"}
"""Of the export's markets: what changes when a market settles."""
_OUTCOMES: Final = {"outcomes", "outcome_ids", "outcome_prices"}

_NOT_RELEASED: Final = {
    # Free text of programs, and addresses that may be private.
    *("reason", "exception_type", "artifact_uri"),
    # Of the experiment, in a table of its own.
    "control",
    # A cohort that was released has no such columns, and its rows are the same in every release.
    *(column.name for column in USAGE),
}

_WITHDRAWN = Column(
    "withdrawn_at",
    "time",
    "when a later complete run of the same day no longer had it",
    source="CASE WHEN m.withdrawn_at <= :frozen_at THEN m.withdrawn_at END",
)

RELEASED_MARKETS: Final = ExportedTable(
    "markets",
    "A row for each market of each cohort. A market of several cohorts has a row for each.",
    tuple(
        _WITHDRAWN if column.name == "withdrawn_at" else column
        for column in MARKETS.columns
        if column.name not in _NOT_OF_A_COHORT | _OUTCOMES
    ),
    """predictbench.processed_markets m
    JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN predictbench.events e USING (event_id)
    WHERE m.run_id = :run_id AND EXISTS (
        SELECT FROM predictbench.experiment_results r
        WHERE r.processed_market_id = m.processed_market_id AND coalesce(r.stored_at, '-infinity') <= :frozen_at)""",
    'm.market_id COLLATE "C"',
)

_KEY: Final = MARKETS.columns[:3]

RELEASED_CONTRACTS: Final = ExportedTable(
    "contracts",
    "A row for each outcome of each market of each cohort.",
    (
        *_KEY,
        Column(
            "position", "integer", "0 is the first outcome", source="(c.metadata->>'index')::integer", required=True
        ),
        Column("contract_id", "text", "Polymarket's token of the outcome", required=True),
        Column("name", "text", "the outcome's name", source="c.name", required=True),
        Column("price", "double", "its price in the listing", "probability", source="c.price"),
    ),
    """predictbench.processed_contracts c
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p USING (run_id)
    WHERE m.run_id = :run_id AND EXISTS (
        SELECT FROM predictbench.experiment_results r
        WHERE r.processed_market_id = m.processed_market_id AND coalesce(r.stored_at, '-infinity') <= :frozen_at)""",
    'm.market_id COLLATE "C", (c.metadata->>\'index\')::integer, c.contract_id COLLATE "C"',
)

_RESULTS: Final = """predictbench.experiment_results r
    JOIN predictbench.experiment_runs a USING (experiment_run_id)
    JOIN predictbench.experiments n USING (experiment_id)
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p ON p.run_id = a.run_id"""
_FROZEN: Final = """WHERE a.run_id = :run_id AND coalesce(r.stored_at, '-infinity') <= :frozen_at
        AND (CAST(:experiments AS text[]) IS NULL OR n.name = ANY(CAST(:experiments AS text[])))"""
_ORDER: Final = 'n.name COLLATE "C", n.version COLLATE "C", a.attempt, m.market_id COLLATE "C"'
"""The order in which a digest has them."""

RELEASED_FORECASTS: Final = ExportedTable(
    "forecasts",
    "A row for each market and each attempt of each experiment, those included that gave no forecast.",
    tuple(column for column in FORECASTS.columns if column.name not in _NOT_RELEASED),
    f"{_RESULTS} {_FROZEN}",
    _ORDER,
)

RELEASED_DIGESTS: Final = ExportedTable(
    "digests",
    DIGESTS.meaning,
    DIGESTS.columns,
    f"{DIGESTS.source} AND d.made_at <= :frozen_at",
    'd.made_at, d.attempt, d.digest COLLATE "C"',
)

FROZEN_TABLES: Final = (RELEASED_MARKETS, RELEASED_CONTRACTS, RELEASED_FORECASTS, RELEASED_DIGESTS)
"""A cohort's rows of these are the same in every release that has it."""

RELEASED_EXPERIMENTS: Final = ExportedTable(
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
    WHERE EXISTS (SELECT FROM predictbench.experiment_runs a
        WHERE a.experiment_id = n.experiment_id AND a.run_id = ANY(:runs))""",
    'n.name COLLATE "C", n.version COLLATE "C"',
)

RELEASED_RESOLUTIONS: Final = ExportedTable(
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
    'o.market_id COLLATE "C", o.observed_at DESC, o.observation_id',
    'DISTINCT ON (o.market_id COLLATE "C")',
)

RELEASED_SCORES: Final = ExportedTable(
    "scores",
    "A row for each forecast of a settled market: how good it was, by the resolution in this release.",
    tuple(column for column in SCORES.columns if column.name != "scored_at"),
    "",
    "",
)

# A forecast made on a snapshot that was replaced since has no price to be compared with.
SCORED_FORECASTS: Final = f"""
    SELECT p.run_date, p.window_days, m.market_id, n.name, n.version, a.attempt, o.observed_at, r.probability,
        o.outcome, CASE WHEN coalesce(r.snapshot_hash = m.snapshot_hash, true) THEN m.price END AS price
    FROM {_RESULTS}
    JOIN LATERAL (
        SELECT state, outcome, observed_at FROM predictbench.resolution_observations
        WHERE market_id = m.market_id AND observed_at <= :as_of
        ORDER BY observed_at DESC, observation_id LIMIT 1
    ) o ON o.state = 'final' AND o.outcome IS NOT NULL
    {_FROZEN} AND r.status = 'completed' AND r.probability IS NOT NULL
    ORDER BY {_ORDER}"""  # noqa: S608 - names of ours

RELEASED_TABLES: Final = (*FROZEN_TABLES, RELEASED_EXPERIMENTS, RELEASED_RESOLUTIONS, RELEASED_SCORES)
