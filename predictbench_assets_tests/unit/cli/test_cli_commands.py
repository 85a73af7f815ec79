"""The commands: help everywhere, clear refusals before anything runs, masked secrets."""

import json
import os
import socket
import subprocess
import sys
import time
import tomllib
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import Commands, main
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids
from predictbench_assets.failures import PermanentError
from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.kit.commands import command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="predictbench")


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found, context = [path], click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    done = invoke(*path, "--help")
    assert done.exit_code == 0
    assert f"Usage: {' '.join(['predictbench', *path])}" in done.output


def test_help_answers_at_once_without_dagster() -> None:
    code = (
        "import sys\nfrom predictbench_assets.cli.main import main\nmain(['--help'], standalone_mode=False)\n"
        "slow = ('dagster', 'sqlalchemy', 'httpx', 'rich', 'alembic', 'numpy')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - began < 5


def test_names_of_commands_are_completed_without_loading_one() -> None:
    code = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom predictbench_assets.cli.main import main\n"
        "found = ShellComplete(main, {}, 'predictbench', '_X').get_completions([], 'd')\n"
        "loaded = {name for name in sys.modules if name.startswith('predictbench_assets.cli.')}\n"
        "print(*(item.value for item in found), *loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["daily", "db", "demo", "doctor", "due", "predictbench_assets.cli.main"]


def test_version() -> None:
    assert invoke("--version").output == "predictbench, version 0.1.0\n"


def test_partition_prints_one_line_for_tags() -> None:
    done = invoke("partition", "--run-date", "2026-11-20", "--window-days", "14")
    assert done.exit_code == 0
    assert json.loads(done.output) == {
        "dagster/partition": "2026-11-20|14",
        "dagster/partition/run_date": "2026-11-20",
        "dagster/partition/window_days": "14",
    }


def test_the_default_partition_is_today_in_utc_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_NOW", "2026-02-02T23:30:00-05:00")
    monkeypatch.setenv("TARGET_CLOSE_WINDOW_DAYS", "30")
    assert json.loads(invoke("partition").output)["dagster/partition"] == "2026-02-03|30"


TOMORROW = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()


@pytest.mark.parametrize("command", ["partition", "daily"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run-date", "2026-02-30"], "'2026-02-30' is no day of the calendar"),
        (["--run-date", "2025-12-31"], "first day"),
        (["--run-date", TOMORROW], "future"),
        (["--window-days", "15"], "not in the grid"),
        (["--window-days", "0"], "not in the grid"),
        (["--window-days", "x"], "'x'"),
    ],
)
def test_an_impossible_date_or_window_is_refused(command: str, arguments: list[str], said: str) -> None:
    done = invoke(command, *arguments)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "unifrom"], "uniform"),
        (["--refresh", "--run-date", "2026-11-01"], "--refresh is for today"),
        (["--refresh", "--experiment", "uniform"], "leave --experiment out"),
        (["--limit", "0"], "0"),
        (["--on-existing", "replace"], "replace"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = invoke("daily", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_run_configuration_has_what_was_asked_for() -> None:
    printed = invoke("run-config", "--on-existing", "skip", "--limit", "5", "--experiment", "uniform", "--allow-empty")
    assert printed.exit_code == 0, printed.output
    ops = {name: told["config"] for name, told in json.loads(printed.output)["ops"].items()}
    assert ops.pop("target_window") == {"on_existing": "skip"}
    assert ops.pop("raw_markets") == {"refresh": False, "allow_empty": True}
    assert ops.pop("normalized_markets") == {"limit": 5, "debug_artifacts": False}
    selected = {name.removeprefix("experiment_results__"): told["selected"] for name, told in ops.items()}
    assert {name for name, chosen in selected.items() if chosen} == {"baseline_snapshot", "uniform"}
    assert len(selected) == len(DEFAULT_EXPERIMENTS)
    assert invoke("run-config", "--experiment", "unifrom").exit_code == 2


@pytest.mark.parametrize("command", ["daily", "run-config"])
def test_a_limit_is_refused_in_production(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SUPABASE_DB_URL", "postgres://u:hunter22@127.0.0.1:9/db")
    monkeypatch.setenv("STAGING_URI", "s3://bucket/x")
    done = invoke(command, "--limit", "5")
    assert done.exit_code == 2
    assert "--dry-run" in done.output


@pytest.mark.parametrize("command", ["daily", "run-config"])
def test_forgetting_answers_is_refused_in_production(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SUPABASE_DB_URL", "postgres://u:hunter22@127.0.0.1:9/db")
    monkeypatch.setenv("STAGING_URI", "s3://bucket/x")
    done = invoke(command, "--forget", "uniform")
    assert done.exit_code == 2
    assert "change the version instead" in done.output


def test_what_requires_a_forgotten_experiment_is_asked_again_too() -> None:
    """Its answers were made of answers that are thrown away."""
    ops = json.loads(invoke("run-config", "--forget", "baseline_snapshot").output)["ops"]
    forgotten = {name for name, told in ops.items() if told["config"].get("forget")}
    made_of_it = {"baseline_snapshot", "shrunk_market", "favourite_longshot", "recalibrated_market"}
    assert forgotten == {f"experiment_results__{name}" for name in made_of_it}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--forget", "unifrom"), "Did you mean 'uniform'?"),
        (("--forget", "uniform", "--experiment", "base_rate"), "--forget uniform: it is not run"),
    ],
)
def test_what_cannot_be_forgotten_is_named(options: tuple[str, ...], said: str) -> None:
    done = invoke("run-config", *options)
    assert done.exit_code == 2
    assert said in done.output


def test_wrong_settings_are_one_message_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "sqlite://u:hunter22@h/x.db")
    done = invoke("daily")
    assert done.exit_code == 1
    assert "DATABASE_URL" in done.output
    assert "Traceback" not in done.output
    assert "hunter22" not in done.output


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="wants a folder that not even root may write into")
def test_a_demo_where_nothing_can_be_written_is_one_message() -> None:
    command = [sys.executable, "-m", "predictbench_assets.cli.main", "demo"]
    done = subprocess.run(command, cwd="/sys/kernel", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: /sys/kernel/.predictbench/demo cannot be written to ")
    assert "run it from a folder of your own" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_cannot_be_reached_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter22@127.0.0.1:9/db")
    done = invoke("daily")
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert "hunter22" not in done.output


def test_config_shows_every_setting_and_masks_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_MARKETS=5\nMAX_MARKET=5\n")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter22@h/db")
    done = invoke("config")
    assert done.exit_code == 0
    assert "hunter22" not in done.output
    assert "MAX_MARKET in .env is not a setting" in done.output
    read = json.loads(CliRunner().invoke(main, ["config", "--json"]).stdout)
    assert read["settings"]["DATABASE_URL"] == {"value": "***", "source": "environment"}
    assert read["settings"]["MAX_MARKETS"] == {"value": "5", "source": ".env"}


def test_config_lists_all_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    done = invoke("config")
    assert done.exit_code == 1
    assert "problem: SUPABASE_DB_URL" in done.output
    assert "problem: STAGING_URI" in done.output


def test_experiments_lists_what_is_registered() -> None:
    read = json.loads(invoke("experiments", "--json").output)
    assert [one["name"] for one in read if one["mandatory"]] == ["baseline_snapshot"]
    assert "shrunk_market" in invoke("experiments").output


def test_an_experiment_that_cannot_be_loaded_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSING_EXPERIMENTS", "nowhere:Nothing")
    done = invoke("experiments")
    assert done.exit_code == 1
    assert "PROCESSING_EXPERIMENTS" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "http600=1"], "http600"),
        (["--now", "yesterday"], "expected an instant"),
        (["--now", "2026-02-02T07:00:00"], "time zone"),
        (["--markets", "99999999"], "markets"),
        (["--histories", "none"], "half-batched"),
        (["--changes", "0.1", "--replay", __file__], "leave it out"),
    ],
)
def test_a_sandbox_that_cannot_be_is_refused(arguments: list[str], said: str) -> None:
    done = invoke("sandbox", "serve", *arguments)
    assert done.exit_code in (1, 2)
    assert said in done.output


def served(*options: str) -> tuple[dict[str, str], int, set[str]]:
    """Questions of a past day, points of the histories of its tokens, and the prices in them, of a sandbox."""
    now = ("--now", "2026-03-10T00:00:00Z", "--markets", "30", "--port", "0")
    with (
        subprocess.Popen(command("sandbox", "serve", *now, *options), stdout=subprocess.PIPE, text=True) as process,
        httpx.Client(timeout=10) as client,
    ):
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().split()[2]
            day = {"end_date_min": "2026-03-05T00:00:00Z", "end_date_max": "2026-03-05T23:59:59Z", "closed": "true"}
            rows = client.get(f"{base_url}/markets/keyset", params={**day, "limit": 100}).json()["markets"]
            tokens = [ids[0] for ids in map(outcome_ids, rows) if ids]
            span = {"start_ts": 1772000000, "end_ts": 1773000000, "fidelity": 60}
            answer = client.post(f"{base_url}/clob/batch-prices-history", json={"markets": tokens[:20], **span})
            histories = answer.json().get("history", {})
        finally:
            process.terminate()
    return (
        {row["id"]: row["question"] for row in rows},
        len(histories),
        {str(point["p"]) for points in histories.values() for point in points},
    )


def test_a_sandbox_has_later_changes_and_histories_as_it_is_told() -> None:
    questions, tokens, prices = served()
    assert (tokens, prices & {"0", "1"}) == (20, set())
    changed, _, rough = served("--changes", "0.9", "--histories", "rough")
    assert {"0", "1"} <= rough
    assert changed.keys() != questions.keys()
    assert any(text.endswith("(clarified)") for text in changed.values())
    assert 0 < served("--histories", "half-batched")[1] < 20
    assert served("--histories", "gone")[1] == 0


def test_the_stand_in_model_is_served_with_a_table_to_use_it() -> None:
    with subprocess.Popen(
        command("sandbox", "models", "--port", "0", "--seconds", "0.01"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[-1]
        asked = {"model": "stand-in", "messages": [{"role": "user", "content": "Will it rain?"}]}
        answer = httpx.post(f"{base_url}/chat/completions", json=asked, timeout=10).json()
        process.terminate()
        table = tomllib.loads(process.stdout.read())
    assert answer["choices"][0]["finish_reason"] == "stop"
    expected = {"kind": "language_model", "model": "openai:stand-in", "base_url": base_url}
    assert table["stand_in"] == expected
    assert table["stand_in_decides"]["base_url"] == base_url


def test_a_port_that_is_taken_is_one_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = invoke("sandbox", "models", "--port", str(taken.getsockname()[1]))
    assert done.exit_code == 1
    assert "choose another --port" in done.output


def test_stop_with_nothing_running_leaves_nothing(tmp_path: Path) -> None:
    assert invoke("stop").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_an_env_file_and_variables_of_the_users_do_not_reach_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:

    from predictbench_assets.experiments.declared.file import registry_of
    from predictbench_assets.launch.demo import enter_demo
    from predictbench_assets.settings import load_settings

    (tmp_path / ".env").write_text("MAX_MARKETS=5\nDATABASE_URL=postgres://u:p@h/db\n")
    for name in ("DATABASE_URL", "supabase_db_url", "DAGSTER_HOME", "ENVIRONMENT"):
        monkeypatch.setenv(name, "something")
    for name in ("PREDICTBENCH_HOME", "POLYMARKET_BASE_URL", "POLYMARKET_CLOB_URL", "PREDICTBENCH_ENV_FILE"):
        monkeypatch.setenv(name, "")  # put back after the test
    (tmp_path / "experiments.toml").write_text("[paid]\nkind = 'language_model'\n")
    for name in ("POLYMARKET_REQUESTS_PER_SECOND", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "1")
    for name in ("EXPERIMENTS_FILE", "MODEL_PRICES_FILE", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "1")
    folder = enter_demo()
    settings = load_settings()
    assert folder == tmp_path / ".predictbench" / "demo" == settings.home
    assert (settings.writer_url, settings.max_markets, settings.exchange) == (None, None, "localhost")
    assert not {"DAGSTER_HOME", "DATABASE_URL", "supabase_db_url", "ANTHROPIC_API_KEY"} & os.environ.keys()
    assert "paid" not in registry_of(settings)
    assert settings.redact("openai:stand-in") == "openai:stand-in"


@pytest.mark.parametrize("error", [PermanentError, ValueError], ids=["expected", "unexpected"])
def test_an_error_that_keeps_its_traceback_has_no_secret(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    secret = "-".join(("hunter", "key", "4711"))  # the traceback quotes these lines
    monkeypatch.setenv("POLYMARKET_API_KEY", secret)

    @click.command()
    def fails() -> None:
        try:
            raise KeyError(f"the header was {secret}")
        except KeyError as cause:
            raise error(f"refused: {secret}") from cause

    done = CliRunner().invoke(Commands(commands={"fails": fails}), ["fails"])
    assert done.exception is not None
    told = "".join(traceback.format_exception(done.exception))
    assert secret not in told
    assert "refused: ***" in told
    assert "the header was ***" in told
