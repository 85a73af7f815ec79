"""Settings as shells, editors, forms and consoles leave them: cleaned when they are loaded, or refused by name."""

import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from predictbench_assets.settings import (
    Settings,
    SettingsError,
    env_file_texts,
    load_settings,
    usable_settings,
    variables,
)

TEXTS = {
    "past_snapshots": "refuse",
    "environment": "staging",
    "supabase_db_url": "postgresql://u:s3cret@h:5432/db",
    "supabase_migration_db_url": "postgresql://u:s3cret@h:5432/db",
    "supabase_service_role_key": "s3cret-key",
    "supabase_project_ref": "abcdefgh",
    "supabase_api_url": "https://rest.example",
    "database_url": "postgresql://u:s3cret@h:5432/db",
    "dagster_postgres_url": "postgresql://u:s3cret@h:5432/db",
    "executor": "multiprocess",
    "executor_options": '{"env_vars": ["PASSWORD=s3cret"]}',
    "processing_experiments": "some.module:First,some.module:Second",
    "horizons": "30,7",
    "allow_empty_windows": "60,90",
    "polymarket_base_url": "https://gamma.example",
    "polymarket_clob_url": "https://clob.example",
    "polymarket_api_key": "s3cret-key",
    "staging_uri": "s3://bucket/prefix",
    "archive_uri": "s3://bucket/archive",
    "staging_s3_endpoint_url": "https://store.example",
    "staging_s3_region": "eu-west-1",
    "staging_s3_addressing": "path",
    "staging_s3_access_key_id": "s3cret-key",
    "staging_s3_secret_access_key": "s3cret-key",
    "artifacts_dir": "artifacts",
    "predictbench_home": "home",
    "experiments_file": "experiments.toml",
    "model_prices_file": "prices.toml",
    "notify_webhook_url": "https://hooks.example/s3cret",
    "dead_man_url": "https://watch.example/s3cret",
    "github_repository": "owner/name",
    "github_token": "s3cret-key",
    "github_api_url": "https://api.github.example",
    "log_level": "WARNING",
    "log_format": "json",
    "prometheus_textfile": "metrics.prom",
    "prometheus_push_gateway": "gateway.example:9091",
    "predictbench_summary": "summary.json",
    "predictbench_scratch": "scratch",
    "git_sha": "abcdef0",
}
COMMA_SEPARATED = {"horizons", "allow_empty_windows"}
NO_TEXTS = {"pipeline_run_at_utc", "predictbench_now", "model_usd_per_day"}
"""And whatever is a number or a choice of yes and no."""


def loaded(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> object:
    """A setting as a run would have it, given by the environment with what else it needs."""
    given = {"staging_uri": "s3://bucket/other", name: text} if name == "archive_uri" else {name: text}
    if name == "environment":
        given |= {"supabase_db_url": TEXTS["supabase_db_url"], "staging_uri": TEXTS["staging_uri"]}
    if name in (key := ("staging_s3_access_key_id", "staging_s3_secret_access_key")):
        given |= {half: TEXTS[half] for half in key if half != name}
    for field, value in given.items():
        monkeypatch.setenv(variables(field)[0], value)
    found = getattr(load_settings(), name)
    return found.get_secret_value() if isinstance(found, SecretStr) else found


def test_every_text_is_looked_at_here() -> None:
    kinds = {
        name
        for name, field in Settings.model_fields.items()
        if not {int, float, bool} & {field.annotation, *get_args(field.annotation)}
        or name in ("horizons", "allow_empty_windows")
    }
    assert kinds - NO_TEXTS == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("around", ["\ufeff{}\r\n", "' {}'"])
def test_what_is_around_a_setting_goes(monkeypatch: pytest.MonkeyPatch, name: str, around: str) -> None:
    with monkeypatch.context() as plain:
        expected = loaded(plain, name, TEXTS[name])
    assert loaded(monkeypatch, name, around.format(TEXTS[name])) == expected


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("character", ["\n", "\udcff"])
def test_what_is_inside_of_one_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, character: str) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(monkeypatch, name, TEXTS[name][:1] + character + TEXTS[name][1:])
    [problem] = [one for one in caught.value.problems if not one.startswith("STAGING_URI: required")]
    assert problem.startswith(f"{variables(name)[0]}: has "), problem
    assert "s3cret" not in problem


@pytest.mark.parametrize("blank", ["\n", "  ", '""', "\ufeff"])
def test_blanks_are_unset_and_hide_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blank: str) -> None:
    monkeypatch.setenv("MAX_MARKETS", blank)
    monkeypatch.setenv("DEAD_MAN_URL", blank)
    assert load_settings().max_markets is None
    assert load_settings().dead_man_url is None
    (tmp_path / ".env").write_text("MAX_MARKETS=5\n")
    assert load_settings().max_markets == 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notify_webhook_url", "http://[::bad/s3cret"),
        ("notify_webhook_url", "http://a b/s3cret"),
        ("dead_man_url", "https:///s3cret"),
        ("dead_man_url", "https://a..b/s3cret"),
        ("notify_webhook_url", f"https://{'a' * 70}.example/s3cret"),
        ("polymarket_base_url", "https://ex..ample.com"),
        ("prometheus_push_gateway", "ex..ample.com:9091"),
        ("dead_man_url", "watch.example/s3cret"),
        ("polymarket_base_url", "https://gamma.example:99999"),
        ("polymarket_base_url", "https://gamma.example?x=1"),
        ("polymarket_clob_url", "wss://clob.example"),
        ("staging_s3_endpoint_url", "store.example"),
        ("prometheus_push_gateway", "http://:9091"),
        ("polymarket_api_key", "s3cret key"),
        ("github_token", "s3cret-ü"),
        ("github_repository", "https://github.com/owner/name"),
        ("supabase_project_ref", "abc.example/s3cret"),
        ("staging_uri", "s3:/bucket"),
        ("staging_uri", "s3:///prefix"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**{name: text})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [name.upper()]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["münchen.example", "my_store:9000", "127.0.0.1:9", "[::1]:9", "localhost", "rooted.example."]
)
def test_a_host_of_any_kind_is_taken(host: str) -> None:
    assert load_settings(polymarket_base_url=f"http://{host}").polymarket_base_url == f"http://{host}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_env_file_of_another_editor_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes("# Zürich\r\nMAX_MARKETS=5\r\nEXECUTOR='multiprocess'\r\n".encode(encoding))
    settings = load_settings()
    assert (settings.max_markets, settings.executor) == (5, "multiprocess")


def test_an_env_file_that_cannot_be_read_is_named_and_the_environment_still_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(b"MAX_MARKETS=5\n# Z\xfcrich\n")
    monkeypatch.setenv("EXECUTOR", "multiprocess")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.problems == [".env, line 2, is not UTF-8 text: save the file as UTF-8"]
    assert usable_settings().executor == "multiprocess"
    assert usable_settings().max_markets is None


def test_a_folder_in_the_place_of_the_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match="env is a folder, and has to be a file"):
        load_settings()


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ('DEAD_MAN_URL="https://x/s3cret', "line 3 (DEAD_MAN_URL)"),
        ("DEAD_MAN_URL='https://x/s3cret", "line 3 (DEAD_MAN_URL)"),
        ("POLYMARKET_API_KEY: s3cret", "line 3 (POLYMARKET_API_KEY)"),
        ("POLYMARKET_API_KEY:s3cret", "line 3 (POLYMARKET_API_KEY)"),
        ("POLYMARKET_API_KEY:s3cret==", "line 3 (POLYMARKET_API_KEY)"),
        ("export POLYMARKET_API_KEY s3cret", "line 3 (POLYMARKET_API_KEY)"),
        ("POLYMARKET_API_KEY", "line 3 (POLYMARKET_API_KEY)"),
        ('NOTIFY_WEBHOOK_URL="https://h/s3cret"x', "line 3 (NOTIFY_WEBHOOK_URL)"),
        ("s3cret s3cret", "line 3,"),
        ("s3cret", "line 3,"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_by_name_and_the_others_stay_usable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, written: str, named: str
) -> None:
    (tmp_path / ".env").write_text(f"MAX_MARKETS=5\n\n{written}\nEXECUTOR=multiprocess\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    [problem] = caught.value.problems
    assert problem.startswith(f".env, {named}")
    assert "cannot be read: expected NAME=value" in problem
    assert "s3cret" not in problem
    settings = usable_settings()
    assert (settings.max_markets, settings.executor) == (5, "multiprocess")
    assert caplog.text == ""


def test_a_value_is_never_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORD", "other")
    (tmp_path / ".env").write_text("POLYMARKET_API_KEY=a${WORD}b${NONE:-c}$WORD\n")
    key = load_settings().polymarket_api_key
    assert key is not None
    assert key.get_secret_value() == "a${WORD}b${NONE:-c}$WORD"
    assert env_file_texts(tmp_path / ".env") == {"POLYMARKET_API_KEY": "a${WORD}b${NONE:-c}$WORD"}


def test_a_variable_given_twice_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_MARKETS=5\n\n# twice\nmax_markets=6\nEXECUTOR=multiprocess\n")
    settings = load_settings()
    assert settings.max_markets == 6
    assert settings.warnings == ["MAX_MARKETS: .env has it in lines 1 and 4; the last one counts"]


def test_a_link_to_nothing_and_a_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("nowhere")
    with pytest.raises(SettingsError, match=r"\.env is a link to a file that is not there"):
        load_settings()
    (tmp_path / ".env").unlink()
    os.mkfifo(tmp_path / ".env")
    with pytest.raises(SettingsError, match=r"\.env is a pipe or a device, and has to be a file"):
        load_settings()
    assert usable_settings().max_markets is None


@pytest.mark.parametrize(
    ("written", "left_out"),
    [
        ("postgres://u:s3cret@h/db?pgbouncer=true&schema=public&connection_limit=1", "pgbouncer, schema, connection"),
        ("jdbc:postgresql://h/db?user=u&password=s3cret&prepareThreshold=0", "prepareThreshold belongs"),
        ("postgresql+asyncpg://u:s3cret@h/db?prepared_statement_cache_size=0", "prepared_statement_cache_size belongs"),
        ("psql 'postgresql://u:s3cret@h/db?supa=base-pooler'", "supa belongs"),
    ],
)
def test_parameters_of_other_clients_are_left_out_and_told(written: str, left_out: str) -> None:
    settings = load_settings(database_url=written, dagster_postgres_url=written)
    assert settings.writer_url is not None
    assert settings.writer_url.render_as_string(hide_password=False) == "postgresql+psycopg://u:s3cret@h/db"
    assert settings.dagster_postgres_url is not None
    assert settings.dagster_postgres_url.get_secret_value() == "postgresql+psycopg2://u:s3cret@h/db"
    told = settings.warnings
    assert [text.partition(":")[0] for text in told] == ["DATABASE_URL", "DAGSTER_POSTGRES_URL"]
    assert left_out in told[0]
    assert "s3cret" not in str(told)


def test_parameters_of_libpq_stay(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("a certificate")
    query = f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem&options=-c%20lock_timeout%3D1s&connect_timeout=3"
    settings = load_settings(database_url=f"postgresql://u@h/db?{query}")
    assert settings.writer_url is not None
    assert settings.writer_url.query["options"] == "-c lock_timeout=1s"
    assert set(settings.writer_url.query) == {"sslmode", "sslrootcert", "options", "connect_timeout"}
    assert settings.warnings == []


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("db?ssl=true", "has ssl among its parameters.*sslmode=require"),
        ("db?sslaccept=strict", "has sslaccept among its parameters.*sslmode"),
        ("db?sslmode=no-verify", "expected one of disable, allow, prefer, require"),
        ("db?sslrootcert=nowhere.pem", "there is no such file"),
        ("db?connect_timeout=5s", "expected a whole number"),
        ("db?sslmode=require&sslmode=disable", "has sslmode twice"),
        ("db%E9?sslmode=require", "percent signs"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_refused_at_load(rest: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"DATABASE_URL: .*{said}") as caught:
        load_settings(database_url=f"postgresql://u:s3cret@h:5432/{rest}")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("password", ["p%25w", "100%", "a/b?c#d:e", "sp ace", "ü"])
def test_a_password_may_have_any_character_but_an_at_sign(password: str) -> None:
    settings = load_settings(database_url=f"postgresql://u:{password}@h/db")
    assert settings.writer_url is not None
    assert settings.writer_url.password == password.replace("%25", "%")
