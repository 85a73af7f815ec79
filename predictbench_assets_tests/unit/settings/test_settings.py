"""Settings: where they come from, what is refused, and that no secret is ever shown."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from predictbench_assets.settings import (
    DECIDE_NO_ROW,
    DECIDE_ROWS,
    Settings,
    SettingsError,
    load_settings,
    secret_names,
    usable_settings,
    without_passwords,
)

POOLER = "postgres://writer.abcdefgh:s3cret-pw@aws-0-eu.pooler.supabase.com:6543/postgres"
SESSION_POOLER = POOLER.replace("6543", "5432")


def problems(**given: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    return caught.value.problems


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MAX_MARKETS=5\nMIN_VOLUME=10\n")
    monkeypatch.setenv("MAX_MARKETS", "7")
    settings = load_settings()
    assert (settings.max_markets, settings.min_volume, settings.min_liquidity) == (7, 10.0, None)


def test_the_file_can_be_named_and_can_be_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_MARKETS=5\n")
    (tmp_path / "other.env").write_text("MAX_MARKETS=6\n")
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", str(tmp_path / "other.env"))
    assert load_settings().max_markets == 6
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    assert load_settings().max_markets is None


def test_a_named_file_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "nowhere.env")
    assert problems() == ["PREDICTBENCH_ENV_FILE: there is no file nowhere.env"]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET_CLOSE_WINDOW_DAYS", "")
    assert load_settings().target_close_window_days == 7


@pytest.mark.parametrize("name", ["PIPELINE_RUN_AT_UTC", "PIPELINE_RUN_TIME_UTC"])
def test_the_time_of_the_run_has_two_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "06:30")
    assert load_settings().pipeline_run_at_utc == time(6, 30)


@pytest.mark.parametrize("written", ["postgres://u:p-word@h/db", "postgresql://u:p-word@h/db"])
def test_a_database_address_names_its_driver(written: str) -> None:
    settings = load_settings(database_url=written, dagster_postgres_url=written)
    assert settings.writer_url is not None
    assert settings.writer_url.drivername == "postgresql+psycopg"
    assert settings.dagster_postgres_url is not None
    assert settings.dagster_postgres_url.get_secret_value().startswith("postgresql+psycopg2://")


def test_dagsters_storage_is_never_behind_a_transaction_pooler() -> None:
    [problem] = problems(dagster_postgres_url=POOLER)
    assert problem.startswith("DAGSTER_POSTGRES_URL: is a transaction pooler's (port 6543)")
    assert "5432" in problem
    assert load_settings(dagster_postgres_url=POOLER.replace("6543", "5432")).dagster_postgres_url is not None


def test_supabase_gets_tls() -> None:
    settings = load_settings(environment="staging", supabase_db_url=POOLER, staging_uri="s3://bucket/x")
    assert settings.writer_url is not None
    assert settings.writer_url.query["sslmode"] == "require"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"database_url": "sqlite:///x.db"}, "DATABASE_URL"),
        ({"database_url": "postgres://u:[YOUR-PASSWORD]@h/db"}, "DATABASE_URL"),
        ({"database_url": "postgres://u:p-word@h"}, "DATABASE_URL"),
        ({"database_url": "nonsense"}, "DATABASE_URL"),
        ({"database_url": "postgres://u:a@s3cret@h/db"}, "DATABASE_URL"),
        ({"database_url": "postgres://u:a@s3cret/p-word@h/db"}, "DATABASE_URL"),
        ({"database_url": "postgres://u:a@p:s3cret@h:5432/db"}, "DATABASE_URL"),
        ({"target_close_window_days": 15}, "TARGET_CLOSE_WINDOW_DAYS"),
        ({"horizons": "7,15"}, "HORIZONS"),
        ({"horizons": "seven"}, "HORIZONS"),
        ({"polymarket_page_size": 101}, "POLYMARKET_PAGE_SIZE"),
        ({"db_pool_max_size": 1}, "DB_POOL_MAX_SIZE"),
        ({"polymarket_requests_per_second": 0.05}, "POLYMARKET_REQUESTS_PER_SECOND"),
        ({"polymarket_base_url": "gamma-api.polymarket.com"}, "POLYMARKET_BASE_URL"),
        ({"environment": "prod"}, "ENVIRONMENT"),
        ({"predictbench_now": datetime(2026, 1, 1)}, "PREDICTBENCH_NOW"),  # noqa: DTZ001 - what is refused
        ({"predictbench_now": datetime.now(UTC) + timedelta(hours=1)}, "PREDICTBENCH_NOW"),
        ({"environment": "production"}, "SUPABASE_DB_URL"),
        ({"environment": "staging"}, "STAGING_URI"),
        (
            {
                "environment": "production",
                "supabase_db_url": POOLER,
                "staging_uri": "s3://b",
                "predictbench_now": datetime(2026, 2, 2, tzinfo=UTC),
            },
            "PREDICTBENCH_NOW",
        ),
        ({"environment": "production", "supabase_db_url": POOLER, "staging_uri": "/tmp/here"}, "STAGING_URI"),
        (
            {
                "environment": "staging",
                "supabase_db_url": POOLER,
                "staging_uri": "s3://b",
                "supabase_project_ref": "zzz",
            },
            "SUPABASE_DB_URL",
        ),
        ({"dagster_postgres_url": SESSION_POOLER, "supabase_project_ref": "zzz"}, "DAGSTER_POSTGRES_URL"),
        ({"PIPELINE_RUN_AT_UTC": "07:00+02:00"}, "PIPELINE_RUN_AT_UTC"),
    ],
)
def test_what_is_refused_names_its_setting(given: dict[str, object], named: str) -> None:
    found = problems(**given)
    assert any(problem.startswith(f"{named}:") for problem in found), found
    assert not any("s3cret" in problem or "p-word" in problem for problem in found)


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["inf", "nan", "-1", "9" * 400])
def test_no_number_is_without_an_end(name: str, text: str) -> None:
    [problem] = problems(**{name: text})
    assert problem.startswith(f"{name.upper()}: ")


def test_what_is_computed_from_settings_does_not_overflow() -> None:
    [problem] = problems(predictbench_now="0001-01-01T00:00:00Z")
    assert problem.startswith("PREDICTBENCH_NOW: is before 2020")
    [problem] = problems(raw_retention_days=800_000)
    assert problem.startswith("RAW_RETENTION_DAYS: ")
    [problem] = problems(leaderboard_days=800_000)
    assert problem.startswith("LEADERBOARD_DAYS: ")
    assert load_settings().leaderboard_since(datetime(1, 3, 1, tzinfo=UTC)) == date(1, 1, 1)


def test_boards_count_the_run_dates_of_a_year_unless_another_number_of_days_is_set() -> None:
    as_of = datetime(2031, 1, 1, 7, tzinfo=UTC)
    assert load_settings().leaderboard_since(as_of) == date(2030, 1, 1)
    assert load_settings(leaderboard_days=1).leaderboard_since(as_of) == date(2030, 12, 31)
    assert load_settings(leaderboard_days=0).leaderboard_since(as_of) is None


@pytest.mark.parametrize("name", ["predictbench_home", "artifacts_dir", "staging_uri", "archive_uri"])
def test_a_home_of_nobody_is_refused(name: str) -> None:
    [problem] = problems(**{name: "~nobody-of-that-name/x"})
    assert problem.startswith(f"{name.upper()}: begins with ~ and names nobody")


def test_all_problems_are_told_at_once() -> None:
    found = problems(environment="production")
    assert {problem.partition(":")[0] for problem in found} == {"SUPABASE_DB_URL", "STAGING_URI"}


def test_a_window_that_is_named_twice_is_scheduled_once() -> None:
    assert load_settings(horizons="30, 7,7,1,30,").windows == (30, 7, 1)


def test_now_is_the_clock() -> None:
    instant = datetime(2026, 2, 2, 7, tzinfo=UTC)
    assert load_settings(predictbench_now=instant).clock.now() == instant


def test_supabase_is_ignored_in_development_with_a_warning() -> None:
    settings = load_settings(supabase_db_url=POOLER)
    assert settings.writer_url is None
    assert "SUPABASE_DB_URL" in settings.warnings[0]


def test_a_local_database_is_ignored_where_it_is_deployed_with_a_warning() -> None:
    deployed: dict[str, Any] = {
        "environment": "production",
        "supabase_db_url": POOLER,
        "staging_uri": "s3://bucket/x",
    }
    settings = load_settings(**deployed, database_url="postgresql://u@localhost/db")
    assert settings.writer_url == load_settings(**deployed).writer_url
    assert settings.warnings == [
        "DATABASE_URL is ignored when ENVIRONMENT=production; runs write to SUPABASE_DB_URL",
    ]
    assert load_settings(**deployed).warnings == []


@pytest.mark.parametrize("port", [1, 2])
def test_a_local_sandbox_is_one_exchange_whatever_its_port(port: int) -> None:
    assert load_settings(polymarket_base_url=f"http://127.0.0.1:{port}").exchange == "localhost"


def test_another_host_is_another_exchange() -> None:
    assert load_settings().exchange == "gamma-api.polymarket.com"
    assert (
        load_settings(polymarket_base_url="https://user:pw@mirror.example:8443/gamma").exchange == "mirror.example:8443"
    )


PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=8, max_size=20)


@pytest.mark.parametrize("password", ["(000000)", "[k9#Q]", "<a1>"])
def test_brackets_alone_make_no_placeholder(password: str) -> None:
    assert load_settings(database_url=f"postgresql://u:{password}@h/db").database_url is not None


@given(password=PASSWORDS.filter(lambda text: text[0] not in "[<{("))  # a placeholder is refused
def test_no_form_of_a_password_survives_redaction(password: str) -> None:
    from urllib.parse import quote, quote_plus

    quoted = quote(password, safe="")
    settings = Settings(_env_file=None, database_url=SecretStr(f"postgresql://u:{quoted}@h/db"))
    for form in (password, quoted, quote_plus(password), f"postgresql://u:{quoted}@h/db"):
        assert form not in settings.redact(f"before <<{form}>> after")


def test_an_api_key_is_redacted_and_text_without_secrets_is_untouched() -> None:
    settings = load_settings(polymarket_api_key="key-123456")
    assert settings.redact("Bearer key-123456") == "Bearer ***"
    assert settings.redact("nothing here") == "nothing here"


def test_the_password_of_any_address_goes() -> None:
    assert (
        without_passwords("push to http://me:hunter2@push.example/x failed")
        == "push to http://***@push.example/x failed"
    )


def test_an_address_that_is_no_secret_of_ours_loses_its_password_too() -> None:
    assert load_settings().redact("no route to http://me:hunter2@push.example") == (
        "no route to http://***@push.example"
    )


def test_the_public_view_has_no_secret() -> None:
    settings = load_settings(database_url="postgres://u:p-word@h/db", polymarket_api_key="key-123456")
    assert not {name.upper() for name in secret_names()} & settings.public_view().keys()
    assert "p-word" not in str(settings.public_view())
    assert "p-word" not in repr(settings)


def test_what_is_usable_of_wrong_settings_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENVIRONMENT": "production",  # without its database and staging area
        "SUPABASE_DB_URL": "sqlite://u:s3cret-pw@h/x.db",
        "PIPELINE_RUN_AT_UTC": "noon",
        "DB_POOL_MAX_SIZE": "many",
        "NOTIFY_WEBHOOK_URL": "https://hooks.example/T0/B0",
        "NOTIFY_ON_SUCCESS": "perhaps",
        "DEAD_MAN_URL": "ftp://dead.example",
    }.items():
        monkeypatch.setenv(name, value)
    settings = usable_settings()
    assert (settings.environment, settings.supabase_db_url) == ("production", None)
    assert (settings.pipeline_run_at_utc, settings.db_pool_max_size) == (time(7, 0), 2)
    assert settings.notify_webhook_url is not None
    assert (settings.notify_on_success, settings.dead_man_url) == (False, None)
    assert settings.redact("at https://hooks.example/T0/B0") == "at ***"


def test_usable_settings_are_the_settings_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_MARKETS", "7")
    assert usable_settings().model_dump() == load_settings().model_dump()


SHARED = {
    "database_url": "postgresql://writer:s3cret-pw@db.example/predictbench",
    "dagster_postgres_url": "postgresql://dagster:s3cret-pw@db.example/dagster",
    "staging_uri": "s3://bucket/prefix",
}


@pytest.mark.parametrize("name", SHARED)
def test_an_executor_that_leaves_the_machine_requires_by_name_what_its_steps_share(name: str) -> None:
    [problem] = problems(executor="somewhere:executor", **{key: SHARED[key] for key in SHARED.keys() - {name}})
    assert problem.startswith(f"{name.upper()}: required with EXECUTOR=somewhere:executor, ")
    assert load_settings(executor="somewhere:executor", **SHARED).remote_executor


def test_staging_in_a_home_is_not_shared_and_another_folder_may_be(tmp_path: Path) -> None:
    elsewhere = {"executor": "somewhere:executor", "predictbench_home": tmp_path / "home"}
    for uri in (str(tmp_path / "home" / "staging"), (tmp_path / "home" / "staging").as_uri()):
        assert problems(**elsewhere, **SHARED | {"staging_uri": uri})[0].startswith("STAGING_URI: may not be in ")
    assert load_settings(**elsewhere, **SHARED | {"staging_uri": str(tmp_path / "mounted")}).remote_executor


def test_executors_of_this_machine_and_a_dry_run_require_nothing() -> None:
    assert not load_settings(executor="multiprocess").remote_executor
    assert not load_settings(executor="somewhere:executor", predictbench_dry_run=True).remote_executor


def test_of_each_setting_it_is_said_whether_it_decides_rows() -> None:
    assert not DECIDE_ROWS & DECIDE_NO_ROW
    assert sorted(DECIDE_ROWS | DECIDE_NO_ROW) == sorted(Settings.model_fields), "sort a new one into one of the two"
    assert not DECIDE_ROWS & secret_names()


def test_what_decides_rows_is_small_enough_for_a_tag_and_changes_with_files(tmp_path: Path) -> None:
    (declared := tmp_path / "declared.toml").write_text("[a]\n")
    address = "https://user:s3cret-pw@gamma.example"
    given = {"experiments_file": declared, "polymarket_base_url": address, "processing_experiments": ["m:X"] * 99}
    before = load_settings(**given).deciding_rows
    declared.write_text("[b]\n")
    after = load_settings(**given).deciding_rows
    assert {name for name in before if before[name] != after[name]} == {"EXPERIMENTS_FILE"}
    assert "s3cret" not in str(before)
    assert len(str(before)) < 2_000  # Postgres keeps an index of tags
