-- All tables that Predictbench needs in a Supabase project: run it once in the SQL editor, and after it
-- roles.sql. (Or roles.sql alone, and then `predictbench db upgrade`, which later revisions need anyway.)
-- Generated from the revisions in migrations/versions: `python -m predictbench_assets.database.migrations`.
-- The schema predictbench is not exposed by the REST API.

BEGIN;

CREATE SCHEMA IF NOT EXISTS predictbench;

CREATE TABLE predictbench.predictbench_alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT predictbench_alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

CREATE TABLE predictbench.events (
    event_id TEXT NOT NULL, 
    slug TEXT, 
    title TEXT, 
    neg_risk BOOLEAN NOT NULL, 
    CONSTRAINT pk_events PRIMARY KEY (event_id), 
    CONSTRAINT ck_events_lengths CHECK (char_length(event_id) <= 255 AND char_length(slug) <= 500 AND char_length(title) <= 2000)
);

CREATE TABLE predictbench.experiments (
    experiment_id UUID NOT NULL, 
    name TEXT NOT NULL, 
    version TEXT NOT NULL, 
    description TEXT NOT NULL, 
    information TEXT NOT NULL, 
    mandatory BOOLEAN NOT NULL, 
    is_active BOOLEAN NOT NULL, 
    CONSTRAINT pk_experiments PRIMARY KEY (experiment_id), 
    CONSTRAINT ck_experiments_information_known CHECK (information IN ('blind', 'market', 'search')), 
    CONSTRAINT ck_experiments_lengths CHECK (char_length(name) <= 500 AND char_length(version) <= 100), 
    CONSTRAINT uq_experiments_name_version UNIQUE (name, version)
);

CREATE TABLE predictbench.processing_runs (
    run_id UUID NOT NULL, 
    run_date DATE NOT NULL, 
    window_days INTEGER NOT NULL, 
    target_date DATE NOT NULL, 
    started_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    finished_at TIMESTAMP WITH TIME ZONE, 
    status TEXT NOT NULL, 
    attempt INTEGER NOT NULL, 
    holder TEXT NOT NULL, 
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    dagster_run_id TEXT NOT NULL, 
    exchange TEXT NOT NULL, 
    offered_markets INTEGER, 
    excluded_markets INTEGER, 
    rejected_markets INTEGER, 
    total_markets INTEGER, 
    processed_markets INTEGER, 
    failed_markets INTEGER, 
    excluded_by_reason JSONB, 
    stage TEXT, 
    reason TEXT, 
    snapshot_hash TEXT, 
    git_sha TEXT, 
    summary JSONB, 
    CONSTRAINT pk_processing_runs PRIMARY KEY (run_id), 
    CONSTRAINT ck_processing_runs_status_known CHECK (status IN ('running', 'completed', 'partial', 'failed', 'interrupted')), 
    CONSTRAINT ck_processing_runs_counts_add_up CHECK (status NOT IN ('completed', 'partial') OR coalesce(offered_markets = excluded_markets + rejected_markets + failed_markets + processed_markets AND total_markets = failed_markets + processed_markets AND least(excluded_markets, rejected_markets, failed_markets, processed_markets) >= 0, false)), 
    CONSTRAINT ck_processing_runs_attempt_positive CHECK (attempt >= 1), 
    CONSTRAINT ck_processing_runs_target_date CHECK (target_date = run_date + window_days), 
    CONSTRAINT uq_processing_runs_run_date_window_days UNIQUE (run_date, window_days)
);

CREATE TABLE predictbench.resolution_observations (
    observation_id UUID DEFAULT gen_random_uuid() NOT NULL, 
    market_id TEXT NOT NULL, 
    observed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    source TEXT NOT NULL, 
    state TEXT NOT NULL, 
    payout JSONB, 
    outcome DOUBLE PRECISION, 
    closed_time TIMESTAMP WITH TIME ZONE, 
    raw JSONB, 
    CONSTRAINT pk_resolution_observations PRIMARY KEY (observation_id), 
    CONSTRAINT ck_resolution_observations_state_known CHECK (state IN ('open', 'proposed', 'disputed', 'final', 'gave_up')), 
    CONSTRAINT ck_resolution_observations_lengths CHECK (char_length(market_id) <= 255), 
    CONSTRAINT ck_resolution_observations_outcome_in_unit CHECK (outcome >= 0 AND outcome <= 1)
);

CREATE INDEX ix_resolution_observations_newest ON predictbench.resolution_observations (market_id, observed_at DESC);

CREATE TABLE predictbench.snapshots (
    snapshot_id UUID NOT NULL, 
    run_date DATE NOT NULL, 
    window_days INTEGER NOT NULL, 
    captured_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    sha256 TEXT NOT NULL, 
    content_hash TEXT NOT NULL, 
    rows INTEGER NOT NULL, 
    bytes BIGINT NOT NULL, 
    uri TEXT NOT NULL, 
    exchange TEXT NOT NULL, 
    quotes_source TEXT NOT NULL, 
    superseded_at TIMESTAMP WITH TIME ZONE, 
    api JSONB, 
    CONSTRAINT pk_snapshots PRIMARY KEY (snapshot_id)
);

CREATE UNIQUE INDEX uq_snapshots_current ON predictbench.snapshots (run_date, window_days) WHERE superseded_at IS NULL;

CREATE TABLE predictbench.experiment_runs (
    experiment_run_id UUID NOT NULL, 
    run_id UUID NOT NULL, 
    experiment_id UUID NOT NULL, 
    attempt INTEGER NOT NULL, 
    status TEXT NOT NULL, 
    started_at TIMESTAMP WITH TIME ZONE, 
    finished_at TIMESTAMP WITH TIME ZONE, 
    error_message TEXT, 
    content_hash TEXT NOT NULL, 
    snapshot_hash TEXT, 
    config_hash TEXT, 
    completed INTEGER, 
    skipped INTEGER, 
    failed INTEGER, 
    dagster_run_id TEXT NOT NULL, 
    CONSTRAINT pk_experiment_runs PRIMARY KEY (experiment_run_id), 
    CONSTRAINT ck_experiment_runs_status_known CHECK (status IN ('completed', 'failed', 'not_run')), 
    CONSTRAINT fk_experiment_runs_experiment_id FOREIGN KEY(experiment_id) REFERENCES predictbench.experiments (experiment_id), 
    CONSTRAINT fk_experiment_runs_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE, 
    CONSTRAINT uq_experiment_runs_run_id_experiment_id_attempt UNIQUE (run_id, experiment_id, attempt)
);

CREATE INDEX ix_experiment_runs_experiment_id ON predictbench.experiment_runs (experiment_id);

CREATE TABLE predictbench.processed_markets (
    processed_market_id UUID NOT NULL, 
    run_id UUID NOT NULL, 
    market_id TEXT NOT NULL, 
    market_slug TEXT NOT NULL, 
    question TEXT NOT NULL, 
    close_time TIMESTAMP WITH TIME ZONE NOT NULL, 
    raw_snapshot JSONB NOT NULL, 
    processed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    condition_id TEXT, 
    event_id TEXT, 
    cluster TEXT NOT NULL, 
    category TEXT NOT NULL, 
    series_slug TEXT, 
    game_id TEXT, 
    neg_risk BOOLEAN NOT NULL, 
    neg_risk_market_id TEXT, 
    captured_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    price DOUBLE PRECISION, 
    bid DOUBLE PRECISION, 
    ask DOUBLE PRECISION, 
    spread DOUBLE PRECISION, 
    price_source TEXT NOT NULL, 
    price_at TIMESTAMP WITH TIME ZONE, 
    price_quality TEXT NOT NULL, 
    volume DOUBLE PRECISION, 
    liquidity DOUBLE PRECISION, 
    core BOOLEAN NOT NULL, 
    core_weight DOUBLE PRECISION, 
    snapshot_hash TEXT, 
    reconstructed BOOLEAN DEFAULT false NOT NULL, 
    withdrawn_at TIMESTAMP WITH TIME ZONE, 
    CONSTRAINT pk_processed_markets PRIMARY KEY (processed_market_id), 
    CONSTRAINT ck_processed_markets_core_weight_finite CHECK (core_weight > '-Infinity'::float8 AND core_weight < 'Infinity'::float8), 
    CONSTRAINT ck_processed_markets_liquidity_finite CHECK (liquidity > '-Infinity'::float8 AND liquidity < 'Infinity'::float8), 
    CONSTRAINT ck_processed_markets_price_quality_known CHECK (price_quality IN ('good', 'thin', 'none')), 
    CONSTRAINT ck_processed_markets_price_source_known CHECK (price_source IN ('clob', 'gamma', 'none')), 
    CONSTRAINT ck_processed_markets_spread_finite CHECK (spread > '-Infinity'::float8 AND spread < 'Infinity'::float8), 
    CONSTRAINT ck_processed_markets_volume_finite CHECK (volume > '-Infinity'::float8 AND volume < 'Infinity'::float8), 
    CONSTRAINT ck_processed_markets_ask_in_unit CHECK (ask >= 0 AND ask <= 1), 
    CONSTRAINT ck_processed_markets_bid_in_unit CHECK (bid >= 0 AND bid <= 1), 
    CONSTRAINT ck_processed_markets_lengths CHECK (char_length(market_id) <= 255 AND char_length(market_slug) <= 500 AND char_length(question) <= 2000 AND char_length(condition_id) <= 255 AND char_length(cluster) <= 500 AND char_length(category) <= 255 AND char_length(series_slug) <= 500 AND char_length(game_id) <= 255 AND char_length(neg_risk_market_id) <= 255), 
    CONSTRAINT ck_processed_markets_price_in_unit CHECK (price >= 0 AND price <= 1), 
    CONSTRAINT fk_processed_markets_event_id FOREIGN KEY(event_id) REFERENCES predictbench.events (event_id), 
    CONSTRAINT fk_processed_markets_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE, 
    CONSTRAINT uq_processed_markets_run_id_market_id UNIQUE (run_id, market_id)
);

CREATE INDEX ix_processed_markets_close_time ON predictbench.processed_markets (close_time);

CREATE INDEX ix_processed_markets_event_id ON predictbench.processed_markets (event_id);

CREATE INDEX ix_processed_markets_market_id ON predictbench.processed_markets (market_id);

CREATE INDEX ix_processed_markets_run_id ON predictbench.processed_markets (run_id);

CREATE TABLE predictbench.processing_attempts (
    run_id UUID NOT NULL, 
    attempt INTEGER NOT NULL, 
    dagster_run_id TEXT NOT NULL, 
    holder TEXT NOT NULL, 
    started_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    heartbeat_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    finished_at TIMESTAMP WITH TIME ZONE, 
    status TEXT NOT NULL, 
    stage TEXT, 
    reason TEXT, 
    CONSTRAINT pk_processing_attempts PRIMARY KEY (run_id, attempt), 
    CONSTRAINT ck_processing_attempts_status_known CHECK (status IN ('running', 'completed', 'partial', 'failed', 'interrupted')), 
    CONSTRAINT fk_processing_attempts_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE, 
    CONSTRAINT uq_processing_attempts_dagster_run_id UNIQUE (dagster_run_id)
);

CREATE TABLE predictbench.processing_failures (
    failure_id UUID NOT NULL, 
    run_id UUID NOT NULL, 
    attempt INTEGER NOT NULL, 
    market_id TEXT, 
    stage TEXT NOT NULL, 
    experiment TEXT, 
    field TEXT, 
    reason TEXT NOT NULL, 
    exception_type TEXT, 
    retriable BOOLEAN NOT NULL, 
    logged_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT pk_processing_failures PRIMARY KEY (failure_id), 
    CONSTRAINT fk_processing_failures_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE
);

CREATE INDEX ix_processing_failures_run_id_attempt ON predictbench.processing_failures (run_id, attempt);

CREATE TABLE predictbench.experiment_results (
    experiment_result_id UUID NOT NULL, 
    experiment_run_id UUID NOT NULL, 
    processed_market_id UUID NOT NULL, 
    status TEXT NOT NULL, 
    reason TEXT, 
    exception_type TEXT, 
    probability DOUBLE PRECISION, 
    probabilities JSONB, 
    payload JSONB, 
    score DOUBLE PRECISION, 
    artifact_uri TEXT, 
    diagnostics JSONB, 
    forecast_at TIMESTAMP WITH TIME ZONE, 
    snapshot_hash TEXT, 
    config_hash TEXT, 
    CONSTRAINT pk_experiment_results PRIMARY KEY (experiment_result_id), 
    CONSTRAINT ck_experiment_results_score_finite CHECK (score > '-Infinity'::float8 AND score < 'Infinity'::float8), 
    CONSTRAINT ck_experiment_results_status_known CHECK (status IN ('completed', 'skipped', 'failed', 'not_run')), 
    CONSTRAINT ck_experiment_results_lengths CHECK (char_length(artifact_uri) <= 2000 AND char_length(exception_type) <= 255), 
    CONSTRAINT ck_experiment_results_probability_in_unit CHECK (probability >= 0 AND probability <= 1), 
    CONSTRAINT fk_experiment_results_experiment_run_id FOREIGN KEY(experiment_run_id) REFERENCES predictbench.experiment_runs (experiment_run_id) ON DELETE CASCADE, 
    CONSTRAINT fk_experiment_results_processed_market_id FOREIGN KEY(processed_market_id) REFERENCES predictbench.processed_markets (processed_market_id) ON DELETE CASCADE, 
    CONSTRAINT uq_experiment_results_experiment_run_id_processed_market_id UNIQUE (experiment_run_id, processed_market_id)
);

CREATE INDEX ix_experiment_results_processed_market_id ON predictbench.experiment_results (processed_market_id);

CREATE TABLE predictbench.processed_contracts (
    processed_contract_id UUID NOT NULL, 
    processed_market_id UUID NOT NULL, 
    contract_id TEXT NOT NULL, 
    name TEXT NOT NULL, 
    price DOUBLE PRECISION, 
    metadata JSONB NOT NULL, 
    CONSTRAINT pk_processed_contracts PRIMARY KEY (processed_contract_id), 
    CONSTRAINT ck_processed_contracts_lengths CHECK (char_length(contract_id) <= 255 AND char_length(name) <= 500), 
    CONSTRAINT ck_processed_contracts_price_in_unit CHECK (price >= 0 AND price <= 1), 
    CONSTRAINT fk_processed_contracts_processed_market_id FOREIGN KEY(processed_market_id) REFERENCES predictbench.processed_markets (processed_market_id) ON DELETE CASCADE, 
    CONSTRAINT uq_processed_contracts_processed_market_id_contract_id UNIQUE (processed_market_id, contract_id)
);

CREATE VIEW predictbench.latest_experiment_results AS
SELECT DISTINCT ON (m.processed_market_id, e.name)
    m.processed_market_id, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at,
    e.name AS experiment, e.version, er.attempt, r.experiment_run_id, r.experiment_result_id,
    r.status, r.reason, r.exception_type, r.probability, r.probabilities, r.score, r.artifact_uri,
    r.forecast_at, r.snapshot_hash, r.config_hash
FROM predictbench.experiment_results r
JOIN predictbench.experiment_runs er ON er.experiment_run_id = r.experiment_run_id
JOIN predictbench.experiments e ON e.experiment_id = er.experiment_id
JOIN predictbench.processed_markets m ON m.processed_market_id = r.processed_market_id
JOIN predictbench.processing_runs p ON p.run_id = m.run_id
-- An attempt that did not get to a market never hides one that did.
ORDER BY m.processed_market_id, e.name, (r.status = 'not_run'), er.attempt DESC;

CREATE VIEW predictbench.market_resolutions AS
SELECT DISTINCT ON (market_id) market_id, state, outcome, closed_time, observed_at, source
FROM predictbench.resolution_observations
ORDER BY market_id, observed_at DESC, observation_id;

DO $$ BEGIN
    ALTER TABLE predictbench.processed_markets ALTER COLUMN raw_snapshot SET COMPRESSION lz4;
    ALTER TABLE predictbench.experiment_results ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    RAISE DEBUG 'this server was built without lz4';
END $$;

INSERT INTO predictbench.predictbench_alembic_version (version_num) VALUES ('0001') RETURNING predictbench.predictbench_alembic_version.version_num;

-- Running upgrade 0001 -> 0002

ALTER TABLE predictbench.processing_runs DROP CONSTRAINT ck_processing_runs_status_known;

ALTER TABLE predictbench.processing_runs ADD CONSTRAINT ck_processing_runs_status_known CHECK (status IN ('running', 'completed', 'partial', 'failed', 'interrupted', 'missed'));

CREATE TABLE predictbench.archives (
    archive_id UUID NOT NULL, 
    uri TEXT NOT NULL, 
    sha256 TEXT NOT NULL, 
    rows INTEGER NOT NULL, 
    made_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT pk_archives PRIMARY KEY (archive_id)
);

ALTER TABLE predictbench.processed_markets ADD COLUMN raw_archive_id UUID;

ALTER TABLE predictbench.processed_markets ADD CONSTRAINT fk_processed_markets_raw_archive_id FOREIGN KEY(raw_archive_id) REFERENCES predictbench.archives (archive_id);

CREATE INDEX ix_processed_markets_raw_archive_id ON predictbench.processed_markets (raw_archive_id);

ALTER TABLE predictbench.processed_markets ALTER COLUMN raw_snapshot DROP NOT NULL;

INSERT INTO predictbench.archives SELECT DISTINCT a.* FROM predictbench.processed_markets, jsonb_populate_record(CAST(NULL AS predictbench.archives), raw_snapshot -> 'predictbench_archive') a WHERE jsonb_exists(raw_snapshot, 'predictbench_archive');

UPDATE predictbench.processed_markets SET raw_snapshot = NULL, raw_archive_id = CAST(raw_snapshot -> 'predictbench_archive' ->> 'archive_id' AS uuid) WHERE jsonb_exists(raw_snapshot, 'predictbench_archive');

ALTER TABLE predictbench.processed_markets ADD CONSTRAINT ck_processed_markets_raw_kept CHECK (raw_snapshot IS NOT NULL OR raw_archive_id IS NOT NULL);

UPDATE predictbench.predictbench_alembic_version SET version_num='0002' WHERE predictbench.predictbench_alembic_version.version_num = '0001';

-- Running upgrade 0002 -> 0003

ALTER TABLE predictbench.experiments ADD COLUMN control BOOLEAN DEFAULT false NOT NULL;

ALTER TABLE predictbench.experiment_results ADD COLUMN stored_at TIMESTAMP WITH TIME ZONE;

UPDATE predictbench.experiment_results r SET stored_at = coalesce(a.finished_at, a.started_at) FROM predictbench.experiment_runs a WHERE a.experiment_run_id = r.experiment_run_id;

ALTER TABLE predictbench.processed_markets ADD COLUMN group_item_title TEXT;

ALTER TABLE predictbench.processed_markets ADD COLUMN group_item_threshold DOUBLE PRECISION;

ALTER TABLE predictbench.resolution_observations ADD COLUMN status TEXT;

CREATE TABLE predictbench.resolution_checks (
    market_id TEXT NOT NULL, 
    checked_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    checks INTEGER NOT NULL, 
    problem TEXT, 
    CONSTRAINT pk_resolution_checks PRIMARY KEY (market_id)
);

CREATE TABLE predictbench.experiment_scores (
    experiment_result_id UUID NOT NULL, 
    observation_id UUID NOT NULL, 
    outcome DOUBLE PRECISION NOT NULL, 
    brier DOUBLE PRECISION NOT NULL, 
    log_loss DOUBLE PRECISION NOT NULL, 
    clipped BOOLEAN NOT NULL, 
    edge DOUBLE PRECISION, 
    disagreement DOUBLE PRECISION, 
    scoring_version TEXT NOT NULL, 
    scored_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT pk_experiment_scores PRIMARY KEY (experiment_result_id), 
    CONSTRAINT fk_experiment_scores_experiment_result_id FOREIGN KEY(experiment_result_id) REFERENCES predictbench.experiment_results (experiment_result_id) ON DELETE CASCADE, 
    CONSTRAINT fk_experiment_scores_observation_id FOREIGN KEY(observation_id) REFERENCES predictbench.resolution_observations (observation_id)
);

CREATE INDEX ix_experiment_scores_observation_id ON predictbench.experiment_scores (observation_id);

CREATE TABLE predictbench.leaderboards (
    leaderboard_id UUID NOT NULL, 
    as_of TIMESTAMP WITH TIME ZONE NOT NULL, 
    computed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    scoring_version TEXT NOT NULL, 
    content_hash TEXT NOT NULL, 
    detail JSONB NOT NULL, 
    CONSTRAINT pk_leaderboards PRIMARY KEY (leaderboard_id)
);

CREATE INDEX ix_leaderboards_as_of ON predictbench.leaderboards (as_of);

CREATE TABLE predictbench.leaderboard_rows (
    leaderboard_id UUID NOT NULL, 
    position INTEGER NOT NULL, 
    board TEXT NOT NULL, 
    window_days INTEGER NOT NULL, 
    category TEXT NOT NULL, 
    price_bin TEXT NOT NULL, 
    experiment TEXT NOT NULL, 
    version TEXT NOT NULL, 
    n_markets INTEGER NOT NULL, 
    n_events INTEGER NOT NULL, 
    mean_edge DOUBLE PRECISION, 
    edge_low DOUBLE PRECISION, 
    edge_high DOUBLE PRECISION, 
    rank INTEGER, 
    row JSONB NOT NULL, 
    CONSTRAINT pk_leaderboard_rows PRIMARY KEY (leaderboard_id, position), 
    CONSTRAINT fk_leaderboard_rows_leaderboard_id FOREIGN KEY(leaderboard_id) REFERENCES predictbench.leaderboards (leaderboard_id) ON DELETE CASCADE
);

CREATE TABLE predictbench.forecast_digests (
    run_id UUID NOT NULL, 
    digest TEXT NOT NULL, 
    algorithm TEXT NOT NULL, 
    attempt INTEGER NOT NULL, 
    forecasts INTEGER NOT NULL, 
    made_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    CONSTRAINT pk_forecast_digests PRIMARY KEY (run_id, digest), 
    CONSTRAINT fk_forecast_digests_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE
);

UPDATE predictbench.predictbench_alembic_version SET version_num='0003' WHERE predictbench.predictbench_alembic_version.version_num = '0002';

-- Running upgrade 0003 -> 0004

ALTER TABLE predictbench.snapshots ADD COLUMN refused TEXT;

UPDATE predictbench.predictbench_alembic_version SET version_num='0004' WHERE predictbench.predictbench_alembic_version.version_num = '0003';

-- Running upgrade 0004 -> 0005

CREATE TABLE predictbench.scores_due (
    due_id BIGINT GENERATED BY DEFAULT AS IDENTITY, 
    market_id TEXT, 
    run_id UUID, 
    CONSTRAINT pk_scores_due PRIMARY KEY (due_id), 
    CONSTRAINT ck_scores_due_one_of_both CHECK (num_nonnulls(market_id, run_id) = 1)
);

CREATE INDEX ix_scores_due_market_id ON predictbench.scores_due (market_id);

CREATE TABLE predictbench.scored_runs (
    run_id UUID NOT NULL, 
    scoring_version TEXT NOT NULL, 
    forecasts INTEGER NOT NULL, 
    scores INTEGER NOT NULL, 
    out_of_range INTEGER NOT NULL, 
    reference_scores INTEGER NOT NULL, 
    reference_edges INTEGER NOT NULL, 
    CONSTRAINT pk_scored_runs PRIMARY KEY (run_id), 
    CONSTRAINT fk_scored_runs_run_id FOREIGN KEY(run_id) REFERENCES predictbench.processing_runs (run_id) ON DELETE CASCADE
);

CREATE FUNCTION predictbench.note_observed_markets() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$BEGIN
        INSERT INTO predictbench.scores_due (market_id) SELECT DISTINCT market_id FROM added;
        RETURN NULL;
    END$$;

CREATE FUNCTION predictbench.note_forecast_runs() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$BEGIN
        INSERT INTO predictbench.scores_due (run_id)
        SELECT DISTINCT a.run_id FROM (SELECT DISTINCT experiment_run_id FROM added WHERE probability IS NOT NULL) r
        JOIN predictbench.experiment_runs a USING (experiment_run_id);
        RETURN NULL;
    END$$;

CREATE FUNCTION predictbench.note_priced_run() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$BEGIN
        INSERT INTO predictbench.scores_due (run_id) VALUES (NEW.run_id);
        RETURN NULL;
    END$$;

CREATE TRIGGER scores_due AFTER INSERT ON predictbench.resolution_observations
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_observed_markets();

CREATE TRIGGER scores_due AFTER INSERT ON predictbench.experiment_results
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_forecast_runs();

CREATE TRIGGER scores_due AFTER UPDATE OF price, snapshot_hash ON predictbench.processed_markets
        FOR EACH ROW WHEN ((OLD.price, OLD.snapshot_hash) IS DISTINCT FROM (NEW.price, NEW.snapshot_hash))
        EXECUTE FUNCTION predictbench.note_priced_run();

INSERT INTO predictbench.scores_due (run_id) SELECT run_id FROM predictbench.processing_runs;

UPDATE predictbench.predictbench_alembic_version SET version_num='0005' WHERE predictbench.predictbench_alembic_version.version_num = '0004';

-- Running upgrade 0005 -> 0006

CREATE TABLE predictbench.resolutions_due (
    due_id BIGINT GENERATED BY DEFAULT AS IDENTITY, 
    market_id TEXT NOT NULL, 
    CONSTRAINT pk_resolutions_due PRIMARY KEY (due_id)
);

CREATE FUNCTION predictbench.note_unsettled_markets() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS
        $$BEGIN
        INSERT INTO predictbench.resolutions_due (market_id) SELECT DISTINCT market_id FROM noted;
        RETURN NULL;
    END$$;

CREATE TRIGGER resolutions_due_insert AFTER INSERT ON predictbench.processed_markets
            REFERENCING NEW TABLE AS noted
            FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_unsettled_markets();

CREATE TRIGGER resolutions_due_insert AFTER INSERT ON predictbench.resolution_observations
            REFERENCING NEW TABLE AS noted
            FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_unsettled_markets();

CREATE TRIGGER resolutions_due_update AFTER UPDATE ON predictbench.resolution_observations
            REFERENCING NEW TABLE AS noted
            FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_unsettled_markets();

CREATE TRIGGER resolutions_due_delete AFTER DELETE ON predictbench.resolution_observations
            REFERENCING OLD TABLE AS noted
            FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_unsettled_markets();

INSERT INTO predictbench.resolutions_due (market_id)
        SELECT DISTINCT market_id FROM predictbench.processed_markets
        LEFT JOIN predictbench.market_resolutions USING (market_id)
        WHERE state IS NULL OR state NOT IN ('final', 'gave_up');

CREATE INDEX ix_resolution_observations_final ON predictbench.resolution_observations (observed_at) WHERE state = 'final';

CREATE INDEX ix_resolution_observations_unusual ON predictbench.resolution_observations (market_id) WHERE state = 'gave_up' OR state = 'final' AND outcome NOT IN (0, 1);

DROP INDEX predictbench.ix_processed_markets_run_id;

CREATE INDEX ix_processed_markets_run_id ON predictbench.processed_markets (run_id) INCLUDE (close_time, withdrawn_at);

UPDATE predictbench.predictbench_alembic_version SET version_num='0006' WHERE predictbench.predictbench_alembic_version.version_num = '0005';

-- Running upgrade 0006 -> 0007

ALTER TABLE predictbench.experiments DROP CONSTRAINT ck_experiments_information_known;

ALTER TABLE predictbench.experiments ADD CONSTRAINT ck_experiments_information_known CHECK (information IN ('blind', 'market', 'search_blind', 'search'));

ALTER TABLE predictbench.experiment_results ADD COLUMN requests BIGINT;

ALTER TABLE predictbench.experiment_results ADD COLUMN input_tokens BIGINT;

ALTER TABLE predictbench.experiment_results ADD COLUMN output_tokens BIGINT;

ALTER TABLE predictbench.experiment_results ADD COLUMN cached_tokens BIGINT;

ALTER TABLE predictbench.experiment_results ADD COLUMN cost NUMERIC;

ALTER TABLE predictbench.experiment_results ADD COLUMN currency TEXT;

ALTER TABLE predictbench.experiment_results ADD COLUMN seconds DOUBLE PRECISION;

ALTER TABLE predictbench.experiment_results ADD COLUMN model TEXT;

ALTER TABLE predictbench.experiment_results ADD CONSTRAINT ck_experiment_results_usage CHECK (least(requests, input_tokens, output_tokens, cached_tokens) >= 0 AND cost BETWEEN 0 AND 1e12 AND seconds BETWEEN 0 AND 1e12 AND (cost IS NULL) = (currency IS NULL) AND char_length(currency) = 3 AND char_length(model) <= 255);

UPDATE predictbench.predictbench_alembic_version SET version_num='0007' WHERE predictbench.predictbench_alembic_version.version_num = '0006';

-- Running upgrade 0007 -> 0008

CREATE TABLE predictbench.model_calls (
    call_id UUID NOT NULL, 
    run_date DATE NOT NULL, 
    window_days INTEGER NOT NULL, 
    experiment TEXT NOT NULL, 
    version TEXT NOT NULL, 
    config_hash TEXT NOT NULL, 
    snapshot_hash TEXT NOT NULL, 
    unit TEXT NOT NULL, 
    unit_id TEXT NOT NULL, 
    sample INTEGER NOT NULL, 
    attempt INTEGER NOT NULL, 
    provider TEXT NOT NULL, 
    model_asked TEXT NOT NULL, 
    model_returned TEXT, 
    prompt_hash TEXT NOT NULL, 
    status TEXT NOT NULL, 
    reason TEXT, 
    response_id TEXT, 
    finish_reason TEXT, 
    reserved_tokens BIGINT, 
    input_tokens BIGINT, 
    cached_tokens BIGINT, 
    output_tokens BIGINT, 
    reasoning_tokens BIGINT, 
    reserved_cost NUMERIC, 
    cost NUMERIC, 
    price_table TEXT, 
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    answered_at TIMESTAMP WITH TIME ZONE, 
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL, 
    claimed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL, 
    owner TEXT NOT NULL, 
    transcript_uri TEXT, 
    transcript_line INTEGER, 
    batch_id TEXT, 
    CONSTRAINT pk_model_calls PRIMARY KEY (call_id), 
    CONSTRAINT ck_model_calls_unit_known CHECK (unit IN ('market', 'event', 'cohort')), 
    CONSTRAINT ck_model_calls_status_known CHECK (status IN ('answered', 'refused', 'truncated', 'invalid', 'failed', 'unknown')), 
    CONSTRAINT ck_model_calls_amounts CHECK (least(sample, attempt, reserved_tokens, input_tokens, cached_tokens, output_tokens, reasoning_tokens) >= 0 AND reserved_cost BETWEEN 0 AND 1e12 AND cost BETWEEN 0 AND 1e12)
);

CREATE INDEX ix_model_calls_run_date_window_days_experiment ON predictbench.model_calls (run_date, window_days, experiment);

CREATE INDEX ix_model_calls_asked_at ON predictbench.model_calls (asked_at);

CREATE INDEX ix_model_calls_claimed_at ON predictbench.model_calls (claimed_at);

UPDATE predictbench.predictbench_alembic_version SET version_num='0008' WHERE predictbench.predictbench_alembic_version.version_num = '0007';

-- Running upgrade 0008 -> 0009

ALTER TABLE predictbench.experiments ADD COLUMN forecasts BOOLEAN DEFAULT true NOT NULL;

ALTER TABLE predictbench.experiment_results ADD COLUMN leaked BOOLEAN DEFAULT false NOT NULL;

UPDATE predictbench.predictbench_alembic_version SET version_num='0009' WHERE predictbench.predictbench_alembic_version.version_num = '0008';

-- Running upgrade 0009 -> 0010

ALTER TABLE predictbench.processing_runs ADD COLUMN as_of TIMESTAMP WITH TIME ZONE;

ALTER TABLE predictbench.snapshots ADD COLUMN as_of TIMESTAMP WITH TIME ZONE;

ALTER TABLE predictbench.processed_markets ADD COLUMN as_of TIMESTAMP WITH TIME ZONE;

ALTER TABLE predictbench.experiments ADD COLUMN knowledge_cutoff DATE;

ALTER TABLE predictbench.processed_markets DROP CONSTRAINT ck_processed_markets_price_source_known;

ALTER TABLE predictbench.processed_markets ADD CONSTRAINT ck_processed_markets_price_source_known CHECK (price_source IN ('clob', 'gamma', 'history', 'none')) NOT VALID;

ALTER TABLE predictbench.processed_markets VALIDATE CONSTRAINT ck_processed_markets_price_source_known;

ALTER TABLE predictbench.processed_markets DROP CONSTRAINT ck_processed_markets_price_quality_known;

ALTER TABLE predictbench.processed_markets ADD CONSTRAINT ck_processed_markets_price_quality_known CHECK (price_quality IN ('good', 'thin', 'history', 'none')) NOT VALID;

ALTER TABLE predictbench.processed_markets VALIDATE CONSTRAINT ck_processed_markets_price_quality_known;

UPDATE predictbench.predictbench_alembic_version SET version_num='0010' WHERE predictbench.predictbench_alembic_version.version_num = '0009';

-- Running upgrade 0010 -> 0011

CREATE OR REPLACE VIEW predictbench.latest_experiment_results AS
SELECT DISTINCT ON (m.processed_market_id, e.name, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at)
    m.processed_market_id, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at,
    e.name AS experiment, e.version, er.attempt, r.experiment_run_id, r.experiment_result_id,
    r.status, r.reason, r.exception_type, r.probability, r.probabilities, r.score, r.artifact_uri,
    r.forecast_at, r.snapshot_hash, r.config_hash
FROM predictbench.experiment_results r
JOIN predictbench.experiment_runs er ON er.experiment_run_id = r.experiment_run_id
JOIN predictbench.experiments e ON e.experiment_id = er.experiment_id
JOIN predictbench.processed_markets m ON m.processed_market_id = r.processed_market_id
JOIN predictbench.processing_runs p ON p.run_id = m.run_id
-- An attempt that did not get to a market never hides one that did.
ORDER BY m.processed_market_id, e.name, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at, (r.status = 'not_run'), er.attempt DESC;

CREATE INDEX ix_processed_markets_raw ON predictbench.processed_markets (run_id) WHERE raw_snapshot IS NOT NULL;

UPDATE predictbench.predictbench_alembic_version SET version_num='0011' WHERE predictbench.predictbench_alembic_version.version_num = '0010';

-- Running upgrade 0011 -> 0012

ALTER TABLE predictbench.experiment_results ALTER COLUMN processed_market_id SET (n_distinct = -0.1);

ANALYZE predictbench.experiment_results (processed_market_id);

UPDATE predictbench.predictbench_alembic_version SET version_num='0012' WHERE predictbench.predictbench_alembic_version.version_num = '0011';

DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('predictbench_alembic_version', 'SELECT'),
        ('archives', 'SELECT, INSERT'),
        ('events', 'SELECT, INSERT, UPDATE'),
        ('experiment_results', 'SELECT, INSERT'),
        ('experiment_runs', 'SELECT, INSERT'),
        ('experiment_scores', 'SELECT, INSERT, UPDATE, DELETE'),
        ('experiments', 'SELECT, INSERT, UPDATE'),
        ('forecast_digests', 'SELECT, INSERT'),
        ('leaderboard_rows', 'SELECT, INSERT'),
        ('leaderboards', 'SELECT, INSERT'),
        ('model_calls', 'SELECT, INSERT, UPDATE'),
        ('processed_contracts', 'SELECT, INSERT, UPDATE, DELETE'),
        ('processing_failures', 'SELECT, INSERT, UPDATE, DELETE'),
        ('processed_markets', 'SELECT, INSERT, UPDATE'),
        ('processing_attempts', 'SELECT, INSERT, UPDATE'),
        ('processing_runs', 'SELECT, INSERT, UPDATE'),
        ('resolution_checks', 'SELECT, INSERT, UPDATE'),
        ('resolution_observations', 'SELECT, INSERT'),
        ('resolutions_due', 'SELECT, INSERT, DELETE'),
        ('scored_runs', 'SELECT, INSERT, UPDATE'),
        ('scores_due', 'SELECT, INSERT, DELETE'),
        ('snapshots', 'SELECT, INSERT, UPDATE'),
        ('latest_experiment_results', 'SELECT'),
        ('market_resolutions', 'SELECT')
    ) AS t(name, rights) WHERE to_regclass('predictbench.' || name) IS NOT NULL LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'predictbench_writer') THEN
            EXECUTE 'REVOKE ALL ON predictbench.' || wanted.name || ' FROM predictbench_writer';
            EXECUTE 'GRANT ' || wanted.rights || ' ON predictbench.' || wanted.name || ' TO predictbench_writer';
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'predictbench_reader') THEN
            EXECUTE 'REVOKE ALL ON predictbench.' || wanted.name || ' FROM predictbench_reader';
            EXECUTE 'GRANT SELECT ON predictbench.' || wanted.name || ' TO predictbench_reader';
        END IF;
    END LOOP;
END $$;

COMMIT;
