"""The workflows as files: pinned, read-only, safe from their inputs, and in step with the code that they call."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from predictbench_assets.cli.main import main
from predictbench_assets.experiments.llm.batched_model import deadline
from predictbench_assets.experiments.testing import make_run
from predictbench_assets.settings import Settings, all_variables
from predictbench_assets_tests.kit.places import CLONE

WORKFLOWS = sorted((CLONE / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((CLONE / ".github" / "actions").glob("*/action.yml"))
FILES = [*WORKFLOWS, *ACTIONS]
DEPLOYED = {"daily-pipeline", "resolution", "backfill", "maintenance", "contract", "publish"}

# The jobs that may write, and what. They install nothing, ours included; one that runs no script at all cannot tell of
# its own failure either, so a job after it does.
WRITERS: dict[tuple[str, str], tuple[dict[str, str], str | None]] = {
    ("publish", "deploy"): ({"pages": "write", "id-token": "write"}, "deployment-failed"),
    ("daily-pipeline", "publish"): ({"contents": "write"}, None),
}

PINNED = re.compile(r"uses: (?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # v\d+\.\d+\.\d+$")
OURS = re.compile(r"uses: \$/\.github/actions/(?P<name>\w+)$")

# What a step of ours is told beside settings of the project.
OWN_VARIABLES = {
    *("RUN_DATE", "WINDOW_DAYS", "LINK", "MISSED", "ON_EXISTING", "DEBUG_ARTIFACTS", "DRY_RUN", "FROM", "TO"),
    *("DAGSTER_STORAGE_IS_SET", "DATABASE_IS_SET", "OUTCOME", "WORKFLOW", "STAGE", "SUMMARY"),
    *("RECONSTRUCT", "AGAIN", "AT_ONCE", "CHECK"),
    *("GH_TOKEN", "GH_REPO"),  # of GitHub's own command
}


PROVIDER_KEYS = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"}


def read(file: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(file.read_text())
    assert isinstance(loaded, dict)
    return loaded


def triggers(workflow: dict[str, Any]) -> dict[str, Any]:
    return workflow[True]  # type: ignore[index]  # YAML takes the word `on` for a boolean


def steps(file: Path) -> Iterator[dict[str, Any]]:
    loaded = read(file)
    for job in loaded.get("jobs", {"": loaded.get("runs")}).values():
        yield from job["steps"]


def environments(file: Path) -> Iterator[dict[str, Any]]:
    loaded = read(file)
    holders = [loaded, *loaded.get("jobs", {}).values(), *steps(file)]
    return (holder["env"] for holder in holders if "env" in holder)


def names(file: Path) -> str:
    return file.parent.name if file.name == "action.yml" else file.stem


every_file = pytest.mark.parametrize("file", FILES, ids=names)
every_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=names)


def test_all_workflows_are_there() -> None:
    assert {file.stem for file in WORKFLOWS} == DEPLOYED | {"ci"}


@every_file
def test_every_action_is_pinned_to_a_commit_or_is_our_own(file: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in file.read_text().splitlines() if "uses:" in line]
    for line in used:
        ours = OURS.match(line)
        assert ours or PINNED.match(line), line
        if ours:
            assert (CLONE / ".github" / "actions" / ours["name"] / "action.yml").is_file()


def test_an_action_has_one_version_everywhere() -> None:
    used = {match.group("action", "commit") for file in FILES for match in map(PINNED.search, lines(file)) if match}
    assert len(used) == len({action for action, _ in used})


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


@every_workflow
def test_permissions_are_read_only_and_checkouts_keep_no_credentials(file: Path) -> None:
    workflow = read(file)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        allowed, teller = WRITERS.get((file.stem, name), (None, None))
        assert job.get("permissions") == allowed
        assert teller is None or all("run" not in step for step in job["steps"])
        assert allowed is None or all("actions/setup" not in step.get("uses", "") for step in job["steps"])
        assert job["timeout-minutes"] <= 360
    for step in steps(file):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@every_file
def test_nothing_is_pasted_into_a_script(file: Path) -> None:
    for step in steps(file):
        assert "${{" not in step.get("run", ""), "an input pasted into a script is a script"


@every_file
def test_every_variable_is_a_setting_or_one_of_the_workflows_own(file: Path) -> None:
    given = {name for environment in environments(file) for name in environment}
    assert given <= all_variables() | OWN_VARIABLES | PROVIDER_KEYS


@pytest.mark.parametrize("name", ["daily-pipeline", "backfill"])
def test_what_forecasts_has_the_declared_experiments_and_their_keys(name: str) -> None:
    file = CLONE / ".github" / "workflows" / f"{name}.yml"
    assert '[ ! -f experiments.toml ] || cp experiments.toml "$run/"' in file.read_text()
    forecasting = [step["env"] for step in steps(file) if "POLYMARKET_API_KEY" in step.get("env", {})]
    assert forecasting
    for given in forecasting:
        assert {key: given.get(key) for key in PROVIDER_KEYS} == {
            key: f"${{{{ secrets.{key} }}}}" for key in PROVIDER_KEYS
        }


def test_who_is_given_a_store_is_given_all_that_leads_to_it() -> None:
    needed = {name.upper() for name in Settings.model_fields if name.startswith("staging_s3_")}
    needed = {"STAGING_URI", "STAGING_TIMEOUT_SECONDS", *needed} - {
        "STAGING_S3_ACCESS_KEY_ID",
        "STAGING_S3_SECRET_ACCESS_KEY",
    }
    compose = read(CLONE / "deploy" / "docker-compose.yml")
    given = [compose["x-instance"], *(environment for file in FILES for environment in environments(file))]
    holders = [environment.keys() for environment in given if "STAGING_S3_ENDPOINT_URL" in environment]
    assert len(holders) == 6
    for names_given in holders:
        assert needed <= names_given


def test_what_runs_on_an_engine_is_given_its_options() -> None:
    """They may hold a token."""
    for name in ("daily-pipeline", "backfill", "resolution"):
        file = CLONE / ".github" / "workflows" / f"{name}.yml"
        assert any("EXECUTOR" in given for given in environments(file))
        running = [given for given in environments(file) if "DAGSTER_POSTGRES_URL" in given]
        assert running
        for given in running:
            assert given["EXECUTOR_OPTIONS"] == "${{ secrets.EXECUTOR_OPTIONS }}"


@pytest.mark.parametrize(
    ("executor", "file"),
    [
        (None, "runtime"),
        ("", "runtime"),
        ("multiprocess", "runtime"),
        ("k8s", "k8s"),
        ("ray", "ray"),
        ("../x; touch pwned", "runtime"),
    ],
)
def test_what_the_executor_needs_is_installed(tmp_path: Path, executor: str | None, file: str) -> None:
    [script] = [one["run"] for one in steps(CLONE / ".github/actions/setup/action.yml") if one.get("name") == "Install"]
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@" >>installed\n')
    (tmp_path / "python").chmod(0o755)
    given = {} if executor is None else {"EXECUTOR": executor}
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", **given},
        check=True,
    )
    pinned, ours = (tmp_path / "installed").read_text().splitlines()
    assert pinned.endswith(f"--require-hashes -r requirements/{file}.txt")
    assert ours.endswith("--no-build-isolation -e .")
    assert (CLONE / "requirements" / f"{file}.txt").is_file()
    assert {one.name for one in tmp_path.iterdir()} == {"python", "installed"}


@every_workflow
def test_the_owners_address_is_seen_by_the_migration_alone(file: Path) -> None:
    for step in steps(file):
        if "SUPABASE_MIGRATION_DB_URL" in step.get("env", {}):
            assert step["run"].strip() == "predictbench db upgrade"
    assert all("secrets" not in str(job.get("env", {})) for job in read(file)["jobs"].values())
    assert "SUPABASE_SERVICE_ROLE_KEY" not in file.read_text()


def test_the_schedule_is_the_settings_default_and_heals_later() -> None:
    crons = [entry["cron"] for entry in triggers(read(CLONE / ".github/workflows/daily-pipeline.yml"))["schedule"]]
    fires = [time(int(hour), int(minute)) for minute, hour, *rest in map(str.split, crons) if rest == ["*"] * 3]
    assert fires[0] == Settings.model_fields["pipeline_run_at_utc"].default
    assert fires[:4] == [time(7, 0), time(7, 37), time(9, 17), time(13, 17)]


def test_the_schedule_comes_twice_after_the_deadline_of_a_batch() -> None:
    crons = [entry["cron"] for entry in triggers(read(CLONE / ".github/workflows/daily-pipeline.yml"))["schedule"]]
    fires = [time(int(hour), int(minute)) for minute, hour, *_ in map(str.split, crons)]
    late = deadline(make_run(), None)
    assert sum(one > late.time() for one in fires) == 2
    assert late.date() == make_run().run_date


@pytest.mark.parametrize("name", sorted(DEPLOYED))
def test_a_schedule_does_nothing_until_it_is_enabled(name: str) -> None:
    workflow = read(CLONE / ".github" / "workflows" / f"{name}.yml")
    if "schedule" not in triggers(workflow):
        return
    first, *others = workflow["jobs"].values()
    assert first["if"] == "github.event_name != 'schedule' || vars.PIPELINE_ENABLED == 'true'"
    assert all("needs" in job for job in others)


@pytest.mark.parametrize("name", sorted(DEPLOYED))
def test_every_job_of_the_deployment_tells_of_its_failure(name: str) -> None:
    jobs = read(CLONE / ".github" / "workflows" / f"{name}.yml")["jobs"]
    tellers = {teller: writer for (file, writer), (_, teller) in WRITERS.items() if file == name and teller}
    for job_name, job in jobs.items():
        assert "environment" in job
        telling = [step for step in job["steps"] if step.get("uses") == "$/.github/actions/notify"]
        if job_name in tellers:
            writer = tellers[job_name]
            assert job["needs"] == writer
            assert job["if"] == f"${{{{ !cancelled() && needs.{writer}.result == 'failure' }}}}"
            assert [step["with"]["outcome"] for step in telling] == ["failure"]
        elif job_name not in tellers.values():
            assert any(step["if"] == "${{ !success() }}" and step["with"]["outcome"] == "failure" for step in telling)


def test_nothing_that_waits_or_runs_is_cancelled() -> None:
    for name in DEPLOYED:
        workflow = read(CLONE / ".github" / "workflows" / f"{name}.yml")
        for holder in (workflow, *workflow["jobs"].values()):
            if "concurrency" in holder:
                assert holder["concurrency"]["cancel-in-progress"] is False
                assert holder["concurrency"]["queue"] == "max"
    group = read(CLONE / ".github/workflows/daily-pipeline.yml")["jobs"]["run"]["concurrency"]["group"]
    for part in ("inputs.environment", "needs.plan.outputs.run_date", "matrix.window"):
        assert part in group


TRIED_TWICE = {"daily-pipeline": "run", "resolution": "resolve"}
"""Workflows that run a Dagster job, and their job that does."""


@pytest.mark.parametrize("name", TRIED_TWICE)
def test_both_tries_of_a_run_end_before_dagster_gives_the_run_up(name: str) -> None:
    job = read(CLONE / f".github/workflows/{name}.yml")["jobs"][TRIED_TWICE[name]]
    tries = [step for step in job["steps"] if "dagster job execute" in step.get("run", "")]
    assert len(tries) == 2
    limit = read(CLONE / "deploy" / "dagster.yaml")["run_monitoring"]["max_runtime_seconds"]
    assert sum(step["timeout-minutes"] for step in tries) < job["timeout-minutes"]
    assert job["timeout-minutes"] * 60 < limit


@pytest.mark.parametrize("name", TRIED_TWICE)
def test_the_second_try_is_the_first_one_again(name: str) -> None:
    job = read(CLONE / f".github/workflows/{name}.yml")["jobs"][TRIED_TWICE[name]]
    first, second = (step for step in job["steps"] if "dagster job execute" in step.get("run", ""))
    for same in ("run", "env", "timeout-minutes"):
        assert first[same] == second[same]
    assert first["continue-on-error"] is True
    assert second["if"] == "steps.first.outcome == 'failure'"
    assert "continue-on-error" not in second


@every_file
def test_every_command_exists_with_the_options_it_is_given(file: Path) -> None:
    for words in predictbench_commands(file):
        command: click.Command = main
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, command.name


def predictbench_commands(file: Path) -> Iterator[list[str]]:
    """The words after `predictbench`; options that a script collects before by `set -- --option` are the command's."""
    for step in steps(file):
        script = step.get("run", "").replace("\\\n", " ")
        collected = [word for line in re.findall(r"set -- (.*)", script) for word in re.findall(r"--[a-z-]+", line)]
        for line in re.findall(r"(?<!cache-)\bpredictbench ([a-z].*?)(?:\||>|\)|$)", script, re.M):
            yield [*shlex.split(line), *collected]


def test_there_are_commands_to_check() -> None:
    called = {words[0] for file in FILES for words in predictbench_commands(file)}
    assert called == {
        *("due", "db", "run-config", "partition", "notify", "report", "backfill", "contract", "prune"),
        "verify",  # what the notes of a published digest tell their reader to type
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["actionlint", "-shellcheck=", "-pyflakes="],
        ["zizmor", "--offline", "--quiet", "--strict-collection", "--persona", "pedantic", ".github"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)],
        ["check-jsonschema", "--builtin-schema", "vendor.github-actions", *map(str, ACTIONS)],
        ["check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"],
        ["python", ".ci/check_actions.py"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_linters_find_nothing(arguments: list[str]) -> None:
    program = Path(sys.executable).with_name(arguments[0])
    if not program.exists():
        pytest.skip(f"{arguments[0]} has no build for this machine")
    done = subprocess.run([program, *arguments[1:]], cwd=CLONE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", 'checkout@v4: runtime "node20"'),
        ("actions/checkout@f43a0e5ff2bd294095638e18286ca9a3d1956744 # v3.6.0", "checkout@v3: the runtime"),
        ("nobody/knows-this@f43a0e5ff2bd294095638e18286ca9a3d1956744 # v9.9.9", "knows-this@v9: unknown"),
    ],
)
@pytest.mark.parametrize("where", ["workflows/ci.yml", "actions/setup/action.yml"])
def test_an_action_on_a_node_that_is_gone_is_found_by_its_pin(
    tmp_path: Path, where: str, action: str, said: str
) -> None:
    if not Path(sys.executable).with_name("actionlint").exists():
        pytest.skip("actionlint has no build for this machine")
    for folder in (".ci", ".github"):
        shutil.copytree(CLONE / folder, tmp_path / folder)
    file = tmp_path / ".github" / where
    file.write_text(re.sub(r"actions/setup-python@.*", action, file.read_text()))
    done = subprocess.run(
        [sys.executable, tmp_path / ".ci" / "check_actions.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert said in line


def test_every_folder_with_pins_is_kept_up_to_date() -> None:
    updates = {one["package-ecosystem"]: one for one in read(CLONE / ".github" / "dependabot.yml")["updates"]}
    assert updates.keys() == {"github-actions", "pip", "docker", "docker-compose"}
    assert updates["github-actions"]["directories"] == ["/", "/.github/actions/*"]
    assert (CLONE / f".{updates['docker']['directory']}" / "Dockerfile").is_file()
    for update in updates.values():
        assert update["schedule"]["interval"] == "weekly"
        assert update["groups"] == {"all": {"patterns": ["*"]}}
