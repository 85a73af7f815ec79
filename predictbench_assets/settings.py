"""Every setting and every secret, in one class, read from the environment and a `.env` file.

An environment variable wins over `.env`. No other module reads a setting from the environment (proxies and certificates
are read by `web`). Each text is trimmed and checked here, before anything is made of it. A setting that is missing
or wrong stops everything at once, with the names of all that are at fault.
"""

import hashlib
import io
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args, get_origin
from urllib.parse import urlsplit

from dotenv.parser import Binding, parse_stream
from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticUseDefault
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import URL, make_url

from predictbench_assets.addresses import (
    dagster_storage_url,
    normalized_url,
    other_clients_parameters,
    supabase_project,
)
from predictbench_assets.clock import Clock, FixedClock, SystemClock
from predictbench_assets.exchange_names import exchange_name
from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import WINDOW_DAYS
from predictbench_assets.secrecy import secret_forms
from predictbench_assets.texts import UndecodableFile, encoding_of, read_text, trimmed, unusable_character

ENV_FILE_VARIABLE = "PREDICTBENCH_ENV_FILE"
"""Names the `.env` file to read; empty reads none. Default: `.env` in the current folder."""

BASELINE = "predictbench_assets.experiments.builtin.baseline:BaselineSnapshotExperiment"
DEFAULT_EXPERIMENTS = (
    BASELINE,
    "predictbench_assets.experiments.builtin.pricing:DeviggedEventExperiment",
    "predictbench_assets.experiments.builtin.controls:UniformExperiment",
    "predictbench_assets.experiments.builtin.controls:BaseRateExperiment",
    "predictbench_assets.experiments.builtin.controls:ShuffledPriceExperiment",
    "predictbench_assets.experiments.builtin.controls:PriceDayAgoExperiment",
    "predictbench_assets.experiments.builtin.pricing:ShrunkMarketExperiment",
    "predictbench_assets.experiments.quantitative.favourite_longshot:FavouriteLongshotExperiment",
    "predictbench_assets.experiments.quantitative.recalibrated_market:RecalibratedMarketExperiment",
)

EXPERIMENTS_FILE = "experiments.toml"
"""Name of the file of declared experiments, where no other is set."""

DB_TIMEOUT_SECONDS = 150.0
"""More than the longest limit that our statements give the server."""

_A_DAY_S = 86_400
_A_CENTURY_DAYS = 36_500
_MANY = 1_000_000_000
"""No setting is meant to be larger; what is would overflow somewhere, and be a fault of ours there."""

_FIRST_NOW = datetime(2020, 1, 1, tzinfo=UTC)
"""Polymarket's first year."""

_SHORTEST_PATH = 8
"""Characters of a path that can be a secret; a shorter one is `/ping` or the like."""

_WEB_ADDRESS = "expected an address such as https://example.com/path, beginning with https:// or http://"
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PROJECT = re.compile(r"[a-z0-9-]+", re.ASCII)

_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")

DECIDE_ROWS = frozenset(
    {
        *("environment", "allow_empty_windows", "past_snapshots", "pipeline_run_at_utc", "predictbench_now"),
        *("processing_experiments", "experiments_file", "experiment_timeout_seconds"),
        *("model_usd_per_day", "model_prices_file", "core_sample_size"),
        *("polymarket_base_url", "polymarket_clob_url", "polymarket_price_history"),
        *("min_liquidity", "min_volume", "max_markets", "rejected_share_limit"),
    }
)
"""Settings that decide what a run stores: the same wherever its steps run. Each other one is in `DECIDE_NO_ROW`."""

DECIDE_NO_ROW = frozenset(
    {
        # Addresses and keys, which may be others where a step runs.
        *("supabase_db_url", "supabase_migration_db_url", "supabase_service_role_key", "supabase_project_ref"),
        *("supabase_api_url", "database_url", "dagster_postgres_url", "polymarket_api_key", "staging_uri"),
        *("staging_s3_endpoint_url", "staging_s3_region", "staging_s3_addressing", "staging_s3_access_key_id"),
        *("staging_s3_secret_access_key", "archive_uri", "artifacts_dir", "predictbench_home"),
        # How a step works, not what it comes to.
        *("db_pool_max_size", "db_timeout_seconds", "experiment_concurrency"),
        *("executor", "executor_max_concurrent", "executor_options"),
        *("polymarket_page_size", "polymarket_requests_per_second", "polymarket_concurrency"),
        *("polymarket_timeout_seconds", "polymarket_max_attempts", "polymarket_max_answer_mb"),
        *("polymarket_max_listing_mb", "staging_timeout_seconds"),
        # What is run, kept, told and seen.
        *("target_close_window_days", "horizons", "resolution_max_requests", "leaderboard_days", "raw_retention_days"),
        *("staging_retention_days", "dagster_retention_days", "database_size_limit_mb", "notify_webhook_url"),
        *("notify_on_success", "dead_man_url", "notify_timeout_seconds", "github_repository", "github_token"),
        *("github_api_url", "log_level", "log_format", "prometheus_textfile", "prometheus_push_gateway"),
        *("predictbench_summary", "predictbench_scratch", "predictbench_shared_by"),
        # Compared apart: a dry run by a tag of its own, the commit where both sides know theirs.
        *("predictbench_dry_run", "git_sha"),
    }
)

DIGEST = "sha256:"
"""What the digest of a value begins with."""

LEAST_PACE = 0.1
"""Requests a second that an exchange may be asked at the least: one in the period that they are averaged over."""

_LONGEST_TOLD = 48

Environment = Literal["development", "staging", "production"]
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


# A line that cannot be read is refused here, by name; pydantic's own reading would complain of it as well.
logging.getLogger("dotenv.main").setLevel(logging.ERROR)


class SettingsError(PermanentError):
    """One or more settings are missing or wrong; `problems` has a line for each, naming it."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("settings are not usable:\n" + "\n".join(f"  - {problem}" for problem in problems))


class DatabaseAddress(SecretStr):
    """A database's address as our driver reads it, with the names of the parameters that were left out of it."""

    def __init__(self, address: str, left_out: tuple[str, ...] = ()) -> None:
        super().__init__(address)
        self.left_out = left_out


class Settings(BaseSettings):
    """All settings; a field's name in upper case is its environment variable."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

    environment: Environment = Field("development", description="development, staging or production")

    # Database
    supabase_db_url: SecretStr | None = Field(
        None, description="writer, through the transaction pooler (port 6543); staging and production only"
    )
    supabase_migration_db_url: SecretStr | None = Field(
        None, description="owner, through the session pooler (port 5432); read by `predictbench db` only"
    )
    supabase_service_role_key: SecretStr | None = Field(
        None,
        description="only `predictbench doctor` reads it, to prove that the REST API does not show our tables",
    )
    supabase_project_ref: str | None = Field(None, description="the project that the Supabase URLs must belong to")
    supabase_api_url: str | None = Field(
        None, description="of the REST API, for the same proof; default: https://<SUPABASE_PROJECT_REF>.supabase.co"
    )
    database_url: SecretStr | None = Field(
        None, description="development: a Postgres of your own; unset starts an embedded one"
    )
    db_pool_max_size: int = Field(2, ge=2, le=50, description="connections that a process may hold, at least two")

    db_timeout_seconds: float = Field(
        DB_TIMEOUT_SECONDS, gt=0, le=_A_DAY_S, description="time limit of the database's answer to one statement"
    )

    # Dagster
    dagster_postgres_url: SecretStr | None = Field(
        None, description="Dagster's own storage (session pooler or direct); unset keeps it in SQLite"
    )
    executor: str = Field(
        "in_process", description="in_process, multiprocess, k8s, ray, or module:attribute of an executor"
    )
    executor_max_concurrent: int = Field(8, ge=1, le=1_000, description="steps at once, where the executor can")
    executor_options: SecretStr | None = Field(
        None, description="the executor's own configuration, a JSON object; see docs/scaling-out.md"
    )

    # What runs, and when
    target_close_window_days: int = Field(7, description="days from the run date to the markets' close")
    horizons: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="windows to schedule, comma-separated; default: TARGET_CLOSE_WINDOW_DAYS alone"
    )
    allow_empty_windows: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="windows whose days may truly have no market; elsewhere an empty listing is tried again"
    )
    past_snapshots: Literal["refuse", "reconstruct"] | None = Field(
        None,
        description="what a past day without a snapshot gets, refuse or reconstruct (one, of what can still be known); "
        "default: reconstruct in development, else refuse",
    )
    pipeline_run_at_utc: time = Field(
        time(7, 0),
        validation_alias=AliasChoices("PIPELINE_RUN_AT_UTC", "PIPELINE_RUN_TIME_UTC"),
        description="time of the daily run, UTC",
    )
    processing_experiments: CommaSeparated = Field(
        DEFAULT_EXPERIMENTS,
        description="module:Class of each experiment, or module:function that makes several, comma-separated",
    )
    experiments_file: Path | None = Field(
        None,
        description="the declared experiments; default: experiments.toml in the working folder, if there is one",
    )
    experiment_concurrency: int = Field(16, ge=1, le=1_000, description="markets at once in an experiment")
    experiment_timeout_seconds: float = Field(120.0, gt=0, le=_A_DAY_S, description="time limit of one forecast")
    model_usd_per_day: Decimal | None = Field(
        None, ge=0, le=_MANY, description="dollars that the paid calls of all experiments may cost in a day of UTC"
    )
    model_prices_file: Path | None = Field(
        None, description="prices of models that come before the packaged ones, see docs/llm.md"
    )
    core_sample_size: int = Field(300, ge=0, le=_MANY, description="markets in the frozen core sample")

    # Polymarket
    polymarket_base_url: str = Field("https://gamma-api.polymarket.com", description="the Gamma API")
    polymarket_clob_url: str = Field("https://clob.polymarket.com", description="the CLOB API")
    polymarket_api_key: SecretStr | None = Field(None, description="sent as a bearer token when set; reads need none")
    polymarket_page_size: int = Field(100, ge=1, le=100, description="rows per page; the API clamps at 100")
    polymarket_requests_per_second: float | None = Field(
        None,
        ge=LEAST_PACE,
        le=1_000_000,
        description="to each host, averaged over 10 seconds; unset: half of what Polymarket documents for each route",
    )
    polymarket_concurrency: int = Field(8, ge=1, le=64, description="requests in flight")
    polymarket_timeout_seconds: float = Field(20.0, gt=0, le=_A_DAY_S, description="time limit of one request")
    polymarket_price_history: bool = Field(
        True, description="freeze each market's price of 24 hours before, too: a request for every 20 markets"
    )
    polymarket_max_attempts: int = Field(
        7, ge=1, le=100, description="tries of one request before the walk is given up"
    )
    polymarket_max_answer_mb: int = Field(
        32,
        ge=1,
        le=1_000_000,
        description="the largest answer that is read, as sent and decompressed; a larger one is an error",
    )
    polymarket_max_listing_mb: int = Field(
        1_000, ge=1, le=1_000_000, description="the longest listing of one day that is read; a longer one is an error"
    )
    resolution_max_requests: int = Field(
        20_000,
        ge=1,
        le=_MANY,
        description="requests of one resolution sweep; the markets left over come first in the next one",
    )
    min_liquidity: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="leave out markets with less liquidity (USDC)"
    )
    min_volume: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="leave out markets with less volume (USDC)"
    )
    max_markets: int | None = Field(None, ge=1, le=_MANY, description="leave out all but this many markets")
    rejected_share_limit: float = Field(
        0.2, gt=0, le=1, description="share of unreadable rows above which the run stops: the API has changed"
    )

    # What boards count
    leaderboard_days: int = Field(
        365,
        ge=0,
        le=_A_CENTURY_DAYS,
        description="days before the moment of a board, or a page, whose run dates it counts; 0: all there are",
    )

    # Where things go
    predictbench_home: Path = Field(Path(".predictbench"), description="local state: database, staging, Dagster's home")
    staging_uri: str | None = Field(None, description="a folder or s3://bucket/prefix; default: in PREDICTBENCH_HOME")
    staging_s3_endpoint_url: str | None = Field(
        None,
        validation_alias=AliasChoices("STAGING_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        description="for S3-compatible stores, e.g. Supabase Storage",
    )
    staging_s3_region: str | None = Field(None, description="of the bucket")
    staging_s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="where the bucket is named; auto: in the path at an endpoint of one's own"
    )
    staging_s3_access_key_id: SecretStr | None = Field(None, description="for s3://; unset: the usual AWS sources")
    staging_s3_secret_access_key: SecretStr | None = Field(None, description="for s3://; unset: the usual AWS sources")
    staging_timeout_seconds: float = Field(
        120.0, gt=0, le=_A_DAY_S, description="time limit of one request to the store, with all its tries"
    )
    artifacts_dir: Path | None = Field(None, description="summaries and debug files; default: in PREDICTBENCH_HOME")

    # What is kept, and for how long
    archive_uri: str | None = Field(
        None, description="where raw snapshots go before they leave the database; default: archive/ beside staging"
    )
    raw_retention_days: int = Field(
        90,
        ge=1,
        le=_A_CENTURY_DAYS,
        description="days after a market is final until its raw snapshot leaves the database",
    )
    staging_retention_days: int = Field(
        120, ge=1, le=_A_CENTURY_DAYS, description="days until staged files and journals are removed"
    )
    dagster_retention_days: int = Field(
        90, ge=1, le=_A_CENTURY_DAYS, description="days until Dagster's runs and event logs are removed"
    )
    database_size_limit_mb: int | None = Field(
        None,
        ge=1,
        le=_MANY,
        description="what the database's plan allows; lets `predictbench doctor` tell the days until full",
    )

    # Notices
    notify_webhook_url: SecretStr | None = Field(
        None, description='Slack\'s or any webhook that takes {"text": ...}; unset: nobody is told'
    )
    notify_on_success: bool = Field(False, description="send the summary of a run that went well, too")
    dead_man_url: SecretStr | None = Field(
        None, description="fetched after each success; whoever watches it raises the alarm when that stops"
    )
    notify_timeout_seconds: float = Field(
        10.0, gt=0, le=3_600, description="time limit of one request to either; three are tried"
    )
    github_repository: str | None = Field(
        None, description="owner/name; lets `predictbench doctor` see whether the schedule is enabled"
    )
    github_token: SecretStr | None = Field(None, description="for the same, where the repository is private")
    github_api_url: str = Field("https://api.github.com", description="for the same; runners set it")

    # What is seen
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="the least serious lines that are shown; DEBUG shows tracebacks too"
    )
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON")
    prometheus_textfile: Path | None = Field(
        None, description="write metrics there after each run; the window goes into the name: NAME_w7.prom"
    )
    prometheus_push_gateway: str | None = Field(None, description="push metrics there after each run")

    # Of one process; set by the commands, not by people
    predictbench_now: datetime | None = Field(
        None, description="an instant to take for now; never later than the real one; refused in production"
    )
    predictbench_dry_run: bool = Field(False, description="write nothing to the database")
    predictbench_summary: Path | None = Field(None, description="where the summary of this run goes")
    predictbench_scratch: Path | None = Field(None, description="a dry run's folder for new files; removed after it")
    predictbench_shared_by: int = Field(
        1, ge=1, le=64, description="processes at once that have an equal part each of all limits of requests and calls"
    )
    git_sha: str | None = Field(
        None,
        validation_alias=AliasChoices("GIT_SHA", "GITHUB_SHA"),
        description="the commit that runs are stored with; default: the checkout's",
    )

    _provider_texts: dict[str, str] = PrivateAttr(default_factory=lambda: _provider_texts(None))
    """Texts of the variables that belong to providers, by their names in capitals."""
    _repeated: tuple[str, ...] = PrivateAttr(())
    """A sentence for each variable that the `.env` file has more than once."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, file_secret_settings
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        if isinstance(dotenv_settings.env_file, Path):
            # Read by us, since there a `${...}` within a password would be taken for a variable.
            texts = env_file_texts(dotenv_settings.env_file)
            dotenv_settings.env_vars = {name.lower(): text for name, text in texts.items()}
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            # A variable of blanks is unset as well, so that it does not hide the file's value.
            source.env_vars = {name: text for name, text in source.env_vars.items() if text and trimmed(text)}
        return init_settings, env_settings, dotenv_settings

    @field_validator("processing_experiments", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value

    @field_validator("horizons", "allow_empty_windows", mode="before")
    @classmethod
    def _split_integers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(dict.fromkeys(int(part) for part in value.split(",") if part.strip()))
        except ValueError as error:
            raise ValueError("expected whole numbers separated by commas, such as 1,7,30") from error

    @field_validator(
        *("polymarket_base_url", "polymarket_clob_url", "github_api_url", "supabase_api_url"), "staging_s3_endpoint_url"
    )
    @classmethod
    def _base_address(cls, value: str | None) -> str | None:
        """An address that paths are added to."""
        if value is None:
            return None
        _check_web_address(value)
        if "?" in value or "#" in value:
            raise ValueError("has a ? or # in it, behind which no path can be added")
        return value.rstrip("/")

    @field_validator("prometheus_push_gateway")
    @classmethod
    def _gateway(cls, value: str | None) -> str | None:
        if value is not None:
            _check_web_address(value if "://" in value else f"http://{value}")
        return value

    @field_validator(
        *("polymarket_api_key", "github_token", "supabase_service_role_key"),
        *("staging_s3_access_key_id", "staging_s3_secret_access_key"),
    )
    @classmethod
    def _header(cls, value: SecretStr | None) -> SecretStr | None:
        """A key that is sent in a header, which takes printable ASCII only."""
        if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("has a character in it that no key has (a blank, or one that is not ASCII): copy it again")
        return value

    @field_validator("github_repository")
    @classmethod
    def _repository(cls, value: str | None) -> str | None:
        if value is not None and not _REPOSITORY.fullmatch(value):
            raise ValueError("expected owner/name, such as octocat/hello-world")
        return value

    @field_validator("supabase_project_ref")
    @classmethod
    def _project(cls, value: str | None) -> str | None:
        if value is not None and not _PROJECT.fullmatch(value):
            raise ValueError("expected the project's reference, such as abcdefghijklmnopqrst: letters and digits only")
        return value

    @field_validator(
        "predictbench_home", "artifacts_dir", "staging_uri", "archive_uri", "experiments_file", "model_prices_file"
    )
    @classmethod
    def _place(cls, value: Path | str | None) -> Path | str | None:
        """A folder of this machine, perhaps in the home of somebody who has one."""
        if value is not None:
            try:
                Path(value).expanduser()
            except RuntimeError:
                raise ValueError("begins with ~ and names nobody whose home is known: write the whole path") from None
        return value

    @field_validator("staging_uri", "archive_uri")
    @classmethod
    def _store(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", value):
            raise ValueError("has one slash after its colon; an address has two, as in s3://bucket/prefix")
        if value.startswith("s3://") and not urlsplit(value).netloc:
            raise ValueError("names no bucket; expected s3://bucket/prefix")
        return value

    @field_validator("pipeline_run_at_utc")
    @classmethod
    def _utc(cls, value: time) -> time:
        if value.utcoffset():
            raise ValueError("is in UTC; leave out the zone, as in 07:00")
        return value.replace(tzinfo=None)

    @field_validator("target_close_window_days")
    @classmethod
    def _in_grid(cls, value: int) -> int:
        if value not in WINDOW_DAYS:
            raise ValueError(f"expected one of {', '.join(map(str, WINDOW_DAYS))}")
        return value

    @field_validator("notify_webhook_url", "dead_man_url")
    @classmethod
    def _web_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_web_address(value.get_secret_value())
        return value

    @field_validator("supabase_db_url", "supabase_migration_db_url", "database_url")
    @classmethod
    def _postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = normalized_url(value.get_secret_value())
        left_out = other_clients_parameters(value.get_secret_value())
        return DatabaseAddress(url.render_as_string(hide_password=False), left_out)

    @field_validator("dagster_postgres_url")
    @classmethod
    def _dagster_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = dagster_storage_url(value.get_secret_value())
        left_out = other_clients_parameters(value.get_secret_value())
        return DatabaseAddress(url.render_as_string(hide_password=False), left_out)

    @field_validator("executor_options")
    @classmethod
    def _options(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                options = json.loads(value.get_secret_value())
            except (ValueError, RecursionError):
                options = None
            if not isinstance(options, dict):
                raise ValueError('expected a JSON object, such as {"job_namespace": "forecasts"}')
        return value

    @field_validator("predictbench_now")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("expected an instant with its zone, such as 2026-02-02T07:00:00Z")
        if value > datetime.now(UTC):
            raise ValueError("is later than the real time; the future cannot be frozen")
        if value < _FIRST_NOW:
            raise ValueError(f"is before {_FIRST_NOW:%Y}, when there was no market to be forecast")
        return value.astimezone(UTC)

    # The last of the validators before a field's own type, so that it is the first to see the text.
    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: object, info: ValidationInfo) -> object:
        """The text without what a shell, an editor or a form has put around it; nothing but that counts as unset."""
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if not isinstance(value, str):
            return value
        text = trimmed(value)
        if _is_list(info.field_name):
            text = ",".join(filter(None, map(trimmed, text.split(","))))
        if not text:
            raise PydanticUseDefault
        if (found := unusable_character(text)) is not None:
            raise ValueError(f"has {found} in it: write it on one line, without invisible characters")
        return text

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems = [*self._horizon_problems(), *self._deployment_problems(), *self._project_problems()]
        problems += [*self._archive_problems(), *self._key_problems(), *self._sharing_problems()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _horizon_problems(self) -> list[str]:
        grid = ", ".join(map(str, WINDOW_DAYS))
        return [
            f"{name.upper()}: {', '.join(outside)} not among the windows of the grid ({grid})"
            for name in ("horizons", "allow_empty_windows")
            if (outside := [str(days) for days in getattr(self, name) if days not in WINDOW_DAYS])
        ]

    def _deployment_problems(self) -> list[str]:
        if self.environment == "development":
            return []
        problems = []
        if self.supabase_db_url is None:
            problems.append(f"SUPABASE_DB_URL: required when ENVIRONMENT={self.environment}")
        if self.staging_uri is None or is_local(self.staging_uri):
            problems.append(
                f"STAGING_URI: required when ENVIRONMENT={self.environment}, and not a local folder: "
                "a runner is thrown away, and its files with it (use s3://bucket/prefix)"
            )
        if self.archive_uri is not None and is_local(self.archive_uri):
            problems.append(
                f"ARCHIVE_URI: may not be a local folder when ENVIRONMENT={self.environment}: "
                "what leaves the database would be thrown away with the runner (use s3://bucket/prefix)"
            )
        if self.environment == "production" and self.predictbench_now is not None:
            problems.append("PREDICTBENCH_NOW: refused when ENVIRONMENT=production")
        return problems

    def _archive_problems(self) -> list[str]:
        schemes = [uri.partition("://")[0] if "://" in uri else "file" for uri in (self.archive, self.staging)]
        if schemes[0] == schemes[1]:
            return []
        return ["ARCHIVE_URI: must be in the same kind of store as STAGING_URI; one set of credentials opens both"]

    def _key_problems(self) -> list[str]:
        if (self.staging_s3_access_key_id is None) == (self.staging_s3_secret_access_key is None):
            return []
        missing = (
            "STAGING_S3_ACCESS_KEY_ID" if self.staging_s3_access_key_id is None else "STAGING_S3_SECRET_ACCESS_KEY"
        )
        return [f"{missing}: required, since the other half of the key is set"]

    def _sharing_problems(self) -> list[str]:
        """What steps on other machines could not share."""
        if not self.remote_executor:
            return []
        problems, required = [], f"required with EXECUTOR={self.executor}, whose steps may run on other machines"
        if self.writer_url is None and not self.deployed:
            problems.append(f"DATABASE_URL: {required}: each would store into an embedded database of its own")
        if self.dagster_postgres_url is None:
            problems.append(f"DAGSTER_POSTGRES_URL: {required}: they find the run in Dagster's storage")
        if self.staging_uri is None:
            problems.append(f"STAGING_URI: {required}: one hands its files to the next there (s3://bucket/prefix)")
        elif is_local(self.staging) and Path(self.staging.removeprefix("file://")).is_relative_to(self.home):
            problems.append(
                "STAGING_URI: may not be in PREDICTBENCH_HOME with EXECUTOR="
                f"{self.executor}, whose steps may run on other machines (use s3://bucket/prefix, or a shared folder)"
            )
        return problems

    def _project_problems(self) -> list[str]:
        if self.supabase_project_ref is None:
            return []
        problems = []
        for name in ("supabase_db_url", "supabase_migration_db_url", "dagster_postgres_url"):
            secret: SecretStr | None = getattr(self, name)
            project = supabase_project(make_url(secret.get_secret_value())) if secret else None
            if project is not None and project != self.supabase_project_ref:
                problems.append(
                    f"{name.upper()}: belongs to project {project}, but SUPABASE_PROJECT_REF is "
                    f"{self.supabase_project_ref}"
                )
        return problems

    @property
    def deployed(self) -> bool:
        """True for staging and production, where nothing local survives."""
        return self.environment != "development"

    @property
    def remote_executor(self) -> bool:
        """True where steps may run on other machines. Those of a dry run stay in one process."""
        return self.executor not in ("in_process", "multiprocess") and not self.predictbench_dry_run

    @property
    def reconstructs(self) -> bool:
        """True where a past day without a snapshot is reconstructed."""
        return (self.past_snapshots or ("refuse" if self.deployed else "reconstruct")) == "reconstruct"

    @property
    def writer_url(self) -> URL | None:
        """The database that runs write to; None for the embedded one."""
        secret = self.supabase_db_url if self.deployed else self.database_url
        return make_url(secret.get_secret_value()) if secret else None

    @property
    def migration_url(self) -> URL | None:
        """The database as its owner, for migrations; None for the embedded one."""
        secret = (self.supabase_migration_db_url or self.supabase_db_url) if self.deployed else self.database_url
        return make_url(secret.get_secret_value()) if secret else None

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows that are scheduled, in days."""
        return self.horizons or (self.target_close_window_days,)

    def leaderboard_since(self, as_of: datetime) -> date | None:
        """The first run date that a board of a moment counts; None for all there are."""
        if not self.leaderboard_days:
            return None
        return date.fromordinal(max(as_of.toordinal() - self.leaderboard_days, 1))

    @property
    def executor_config(self) -> dict[str, Any]:
        """The executor's own configuration, as EXECUTOR_OPTIONS has it."""
        text = self.executor_options
        return {} if text is None else cast(dict[str, Any], json.loads(text.get_secret_value()))

    @property
    def home(self) -> Path:
        """The folder of local state, absolute."""
        return self.predictbench_home.expanduser().resolve()

    @property
    def local_state(self) -> Path:
        """Folder of a run's local state, absolute: a dry run leaves none in `home`."""
        return self.predictbench_scratch or self.home

    @property
    def artifacts(self) -> Path:
        """Folder of summaries and debug files, absolute."""
        return (self.artifacts_dir or self.home / "artifacts").expanduser().resolve()

    @property
    def declared_experiments(self) -> Path | None:
        """The file of declared experiments, absolute; None where none is named and none is in the working folder."""
        if self.experiments_file is not None:
            return self.experiments_file.expanduser().absolute()
        default = Path.cwd() / EXPERIMENTS_FILE
        return default if os.path.lexists(default) else None

    @property
    def model_prices(self) -> Path | None:
        """The file of a deployment's own prices of models, absolute; None where none is named."""
        return None if self.model_prices_file is None else self.model_prices_file.expanduser().absolute()

    def provider_variable(self, name: str) -> SecretStr | None:
        """The text of a provider's variable, such as `OPENAI_API_KEY` or `OPENAI_BASE_URL`; None where it is unset.

        Read from the environment or the `.env` file as settings are. All but addresses are masked by `redact`.

        Raises:
            ValueError: the name is none of `..._API_KEY`, `..._TOKEN`, `..._SECRET` and `..._BASE_URL`.
            SettingsError: the text has a character in it that cannot be sent.
        """
        if not _PROVIDER_VARIABLE.fullmatch(name):
            raise ValueError(
                "what is given is no name of a provider's variable: those are in capitals and end with _API_KEY, "
                "_TOKEN, _SECRET or _BASE_URL. It is not shown, since it may be the secret itself"
            )
        text = self._provider_texts.get(name)
        if text is not None and not re.fullmatch(r"[!-~]+", text):
            raise SettingsError([f"{name}: has a blank in it, or a character that is not ASCII: copy it again"])
        return None if text is None else SecretStr(text)

    @property
    def staging(self) -> str:
        """The staging area's address: an absolute path, or a URI of fsspec's."""
        return str(self.home / "staging") if self.staging_uri is None else _absolute(self.staging_uri)

    @property
    def archive(self) -> str:
        """Address of raw and frozen snapshots that left the database and the staging area."""
        if self.archive_uri is not None:
            return _absolute(self.archive_uri)
        scheme, separator, path = self.staging.rpartition("://")
        # A bucket has nothing beside it: its archive is a folder in it.
        folder, slash, _ = path.rstrip("/").rpartition("/")
        return f"{scheme}{separator}{folder if slash else path}/archive"

    @property
    def staging_options(self) -> dict[str, Any]:
        """Options that fsspec needs beside the address of the staging area and of the archive."""
        return self.storage_options(self.staging)

    def storage_options(self, uri: str) -> dict[str, Any]:
        """Options of fsspec beside an address: for `s3://` the endpoint, the keys and the limits of STAGING_..."""
        if not uri.startswith("s3://"):
            return {}
        client = {"endpoint_url": self.staging_s3_endpoint_url, "region_name": self.staging_s3_region}
        config: dict[str, Any] = {"s3": {"addressing_style": self.staging_s3_addressing}}
        if self.staging_s3_endpoint_url:
            # AWS's libraries send a checksum after the body since 2025; many other stores do not know that form.
            unset = (name for name in _CHECKSUMS if not os.environ.get(f"AWS_{name.upper()}"))
            config |= dict.fromkeys(unset, "when_required")
        options: dict[str, Any] = {
            "client_kwargs": {key: value for key, value in client.items() if value},
            "config_kwargs": config,
            "time_limit": self.staging_timeout_seconds,
        }
        if self.staging_s3_access_key_id and self.staging_s3_secret_access_key:
            options["key"] = self.staging_s3_access_key_id.get_secret_value()
            options["secret"] = self.staging_s3_secret_access_key.get_secret_value()
        return options

    @cached_property
    def clock(self) -> Clock:
        """The clock that everything is handed."""
        return FixedClock(self.predictbench_now) if self.predictbench_now else SystemClock()

    @property
    def exchange(self) -> str:
        """The host that markets come from. Data of two exchanges never share a database."""
        return exchange_name(self.polymarket_base_url)

    @property
    def warnings(self) -> list[str]:
        """Settings without an effect, a sentence each."""
        found = list(self._repeated)
        found += [
            f"{name.upper()}: its {'parameters' if len(secret.left_out) > 1 else 'parameter'} "
            f"{', '.join(secret.left_out)} {'belong' if len(secret.left_out) > 1 else 'belongs'} to another client and "
            "had no effect here"
            for name in _DATABASE_ADDRESSES
            if isinstance(secret := getattr(self, name), DatabaseAddress) and secret.left_out
        ]
        if not self.deployed and self.supabase_db_url is not None:
            found.append(
                "SUPABASE_DB_URL is ignored when ENVIRONMENT=development; use DATABASE_URL, or the embedded server"
            )
        if self.deployed and self.database_url is not None:
            found.append(f"DATABASE_URL is ignored when ENVIRONMENT={self.environment}; runs write to SUPABASE_DB_URL")
        return found

    def public_view(self) -> Mapping[str, Any]:
        """Every setting that is not a secret, by its environment name, as plain values."""
        return {name.upper(): value for name, value in self.model_dump(mode="json", exclude=secret_names()).items()}

    @cached_property
    def deciding_rows(self) -> dict[str, Any]:
        """The settings of `DECIDE_ROWS` by environment name, to be compared: long texts and files as a digest.

        Files are read once, when the experiments are: who edits one during a run changes nothing of that run.
        """
        values = self.model_dump(mode="json", include=set(DECIDE_ROWS))
        for name, file in (("experiments_file", self.declared_experiments), ("model_prices_file", self.model_prices)):
            values[name] = None if file is None or not file.is_file() else _digest(file.read_bytes())
        return {name.upper(): self._comparable(value) for name, value in sorted(values.items())}

    def _comparable(self, value: Any) -> Any:
        if not isinstance(value, str | list):
            return value
        text = self.redact(value if isinstance(value, str) else ",".join(map(str, value)))
        return text if len(text) <= _LONGEST_TOLD else _digest(text.encode())

    def redact(self, text: str) -> str:
        """The text with every secret in it, and every password of a URL, replaced by `***`."""
        for needle in self._secret_texts:
            text = text.replace(needle, "***")
        return without_passwords(text)

    @cached_property
    def _secret_texts(self) -> tuple[str, ...]:
        texts: set[str] = set()
        for name in secret_names():
            value: SecretStr | None = getattr(self, name)
            if value is None:
                continue
            texts |= secret_forms(value.get_secret_value())
            for part in _secret_parts(name, value.get_secret_value()):
                texts |= secret_forms(part)
        for name, text in self._provider_texts.items():
            if not name.endswith(_ADDRESS) and not _HARMLESS.fullmatch(text):
                texts |= secret_forms(text)
        # The longest first, so that a URL goes as a whole before its password does.
        return tuple(sorted(texts, key=len, reverse=True))


_DATABASE_ADDRESSES = ("supabase_db_url", "supabase_migration_db_url", "database_url", "dagster_postgres_url")


def _check_web_address(text: str) -> None:
    """Raise a ValueError for what the HTTP client cannot call; its own words would repeat the address."""
    import httpx  # a while to import, and most settings are at their defaults

    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError(_WEB_ADDRESS) from None
    if url.scheme not in ("http", "https") or not url.host or " " in text or "\\" in text:
        raise ValueError(_WEB_ADDRESS)
    labels = url.raw_host.decode("ascii").removesuffix(".").split(".")
    if ":" not in url.host and not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            "has a host that is none: expected words of 1 to 63 letters, digits or hyphens, parted by dots"
        )
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("has a port that is none: expected one from 1 to 65535")


@lru_cache
def _is_list(name: str | None) -> bool:
    """True where a field takes several texts with commas in between."""
    return name is not None and get_origin(Settings.model_fields[name].annotation) is tuple


def _secret_parts(name: str, address: str) -> list[str]:
    """Parts of a secret address that are secrets by themselves: libraries quote parts of one."""
    if name.endswith(("_db_url", "database_url", "postgres_url")):
        url = make_url(address)
        password = str(url.password or "")
        # One that is the name of the user or of the database protects nothing, and is part of many words.
        own = [] if password in (url.username, url.database) else [password]
        return [*own, *(str(url.query[name]) for name in ("sslpassword",) if name in url.query)]
    if name in ("notify_webhook_url", "dead_man_url"):
        # Not urlsplit, which refuses an address that is none.
        _, _, path = address.partition("://")[2].partition("/")
        return [part for part in {path, path.rpartition("/")[2]} if len(part) >= _SHORTEST_PATH]
    if name == "executor_options":
        return [text for text in _handed_to_workers(json.loads(address)) if not _HARMLESS.fullmatch(text)]
    return []


def _handed_to_workers(options: object, *, handed: bool = False) -> Iterator[str]:
    """Values of the variables, headers and cookies that an executor's options hand on; any may be a secret."""
    match options:
        case dict():
            for name, value in options.items():
                if isinstance(value, str):
                    yield from [value] if handed and name != "name" else []
                else:
                    yield from _handed_to_workers(value, handed=handed or name in _HANDED)
        case list():
            for value in options:
                if isinstance(value, str):  # NAME=value, or the name of a variable of this process
                    yield from [value.partition("=")[2]] if handed else []
                else:
                    yield from _handed_to_workers(value, handed=handed)
        case _:
            return


_HANDED = {"env", "env_vars", "headers", "cookies"}
"""Keys of executors' options under which secrets are handed on."""


def _digest(content: bytes) -> str:
    return f"{DIGEST}{hashlib.sha256(content).hexdigest()[:12]}"


def is_local(uri: str) -> bool:
    """True where an address of files is a folder of this machine."""
    return "://" not in uri or uri.startswith("file:")


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


@lru_cache(maxsize=1)
def secret_names() -> set[str]:
    """The fields of `Settings` that hold secrets."""
    return {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}


def load_settings(env_file: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from the environment and `env_file` (default: `PREDICTBENCH_ENV_FILE`).

    Raises:
        SettingsError: with every problem found, each naming its setting and none repeating a secret.
    """
    file = env_file or default_env_file()
    if env_file is None and file is not None and os.environ.get(ENV_FILE_VARIABLE) and not file.exists():
        raise SettingsError([f"{ENV_FILE_VARIABLE}: there is no file {file}"])
    try:
        # Other problems may come from the lines that cannot be read, and are not searched before they can.
        if file is not None and (problems := _env_file_problems(file)):
            raise SettingsError(problems)
        settings = Settings(_env_file=file, _env_file_encoding=_encoding(file), **overrides)
        settings._repeated = tuple(_repeated(file)) if file is not None else ()
        settings._provider_texts = _provider_texts(file)
        return settings
    except UndecodableFile as error:
        raise SettingsError([str(error)]) from None
    except ValidationError as error:
        raise SettingsError(_problems(error)) from None  # the original's context would hold the values


class _Unchecked(Settings):
    """Settings that need not belong together."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        return self


def usable_settings() -> Settings:
    """The settings as far as they can be used: a wrong one is at its default, a missing one stays missing.

    For what has to work when something is wrong, such as telling somebody so.
    """
    field_of = {name: field for field in Settings.model_fields for name in (field, *variables(field))}
    replaced: dict[str, Any] = {}
    file = default_env_file()
    while True:
        try:
            settings = _Unchecked(_env_file=file, _env_file_encoding=_encoding(file), **replaced)
            settings._provider_texts = _provider_texts(file)
            return settings
        except UndecodableFile:
            file = None
        except ValidationError as error:
            wrong = {str(detail["loc"][0]) for detail in error.errors(include_input=False) if detail["loc"]}
            if not wrong - replaced.keys():
                raise SettingsError(_problems(error)) from None
            replaced |= {name: Settings.model_fields[field_of[name]].get_default() for name in wrong}


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def default_env_file() -> Path | None:
    """The `.env` file of this process: what `PREDICTBENCH_ENV_FILE` names, else `.env` in the current folder."""
    named = os.environ.get(ENV_FILE_VARIABLE)
    if named is None:
        return Path(".env")
    return Path(trimmed(named)) if trimmed(named) else None


def _encoding(file: Path | None) -> str | None:
    """The encoding of a `.env` file that is there."""
    return encoding_of(file) if file is not None and _is_there(file) else None


def _is_there(file: Path) -> bool:
    """True where there is a `.env` file.

    Raises:
        UndecodableFile: the path is no file: a link to nothing, a pipe, a device.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if file.is_symlink():
            raise UndecodableFile(f"{file} is a link to a file that is not there") from None
        return False
    except OSError as error:
        raise UndecodableFile(f"{file} cannot be read: {(error.strerror or type(error).__name__).lower()}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # Every process of a run reads it again, which a pipe does not allow.
        raise UndecodableFile(f"{file} is a pipe or a device, and has to be a file; {ENV_FILE_VARIABLE}= reads none")
    return True


def env_file_texts(file: Path) -> dict[str, str]:
    """The variables of a `.env` file as they are written there, without the lines that cannot be read.

    Raises:
        UndecodableFile: it is no text that can be read.
    """
    return {binding.key: binding.value or "" for _, binding in _bindings(file) if binding.key and _is_usable(binding)}


def _bindings(file: Path) -> Iterator[tuple[int, Binding]]:
    """Bindings of a `.env` file, each with the number of its line; comments and blank lines have no key."""
    if _is_there(file):
        for binding in parse_stream(io.StringIO(read_text(file))):
            text = binding.original.string  # with the blank lines before it
            yield binding.original.line + text[: len(text) - len(text.lstrip())].count("\n"), binding


def _is_usable(binding: Binding) -> bool:
    return not binding.error and binding.value is not None and bool(_VARIABLE.fullmatch(binding.key or ""))


def _env_file_problems(file: Path) -> list[str]:
    """Every line of a `.env` file whose setting would be lost, by the name that it begins with, without its value."""
    problems = []
    for line, binding in _bindings(file):
        if _is_usable(binding) or (binding.key is None and not binding.error):
            continue
        begins = _BEGINS.match(binding.original.string)
        named = f" ({begins.group(1).upper()})" if begins and begins.group(1).upper() in all_variables() else ""
        problems.append(
            f'{file}, line {line}{named}, cannot be read: expected NAME=value, or NAME="value" with both quotes and '
            "nothing behind them"
        )
    return problems


def _repeated(file: Path) -> Iterator[str]:
    lines: dict[str, list[str]] = {}
    for line, binding in _bindings(file):
        if binding.key is not None:
            lines.setdefault(binding.key.upper(), []).append(str(line))
    for name, found in lines.items():
        if len(found) > 1 and name in all_variables():
            yield f"{name}: {file} has it in lines {', '.join(found[:-1])} and {found[-1]}; the last one counts"


def is_provider_variable(name: str) -> bool:
    """True for a variable that may belong to a provider of models or of searches, and is none of ours."""
    return bool(_PROVIDER_VARIABLE.fullmatch(name.upper())) and name.upper() not in all_variables()


def _provider_texts(file: Path | None) -> dict[str, str]:
    """Texts of the variables that may belong to providers, by name, of the environment before those of the file."""
    given = [*(env_file_texts(file).items() if file is not None else ()), *os.environ.items()]
    found = ((name.upper(), trimmed(text)) for name, text in given if is_provider_variable(name))
    return {name: text for name, text in found if text}


_ADDRESS = "_BASE_URL"
_PROVIDER_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(?:API_KEY|TOKEN|SECRET|BASE_URL)", re.ASCII)
_HARMLESS = re.compile(r"[a-z]{1,7}|[A-Z]{1,7}|[A-Z][a-z]{1,6}|[\d.]{1,7}", re.ASCII)
"""A word or a number instead of a key, such as none, EMPTY, true or 4096; taken out of texts, it would spoil them."""

_VARIABLE = re.compile(r"[\w.-]+")
_BEGINS = re.compile(r"\s*(?:export\s+)?['\"]?([A-Za-z_]\w*)", re.ASCII)


def variables(name: str) -> tuple[str, ...]:
    """The environment variables that a field is read from, the first one found wins."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice).upper() for choice in alias.choices)
    return (name.upper(),)


@lru_cache(maxsize=1)
def all_variables() -> frozenset[str]:
    """Every environment variable that decides what this project does."""
    names = {variable for name in Settings.model_fields for variable in variables(name)}
    return frozenset(names | {ENV_FILE_VARIABLE})


def without_passwords(text: str) -> str:
    """The text with what stands before the `@` of an address replaced."""
    if "://" not in text or "@" not in text:  # nearly all texts: to look for these is far cheaper than the pattern
        return text
    return _USERINFO.sub(r"\1***@", text)


_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@", re.I)


def _problems(error: ValidationError) -> list[str]:
    problems: list[str] = []
    for detail in error.errors(include_url=False, include_input=False):
        text = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:
            problems.extend(text.splitlines())
        else:
            problems.append(f"{str(detail['loc'][0]).upper()}: {text}")
    return problems
