"""The container file and the compose files: that they fit each other, the code, and the settings; and keep secrets."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from predictbench_assets.settings import EXPERIMENTS_FILE, Settings, all_variables, secret_names, variables
from predictbench_assets_tests.kit.places import CLONE

REQUIREMENTS = "requirements/${REQUIREMENTS}.txt"
BUILDS = {f"requirements/{name}.txt" for name in ("runtime", "k8s", "ray")}
"""What the image can be built with."""
OPTIONAL = "experiments.tom[l]"
"""A pattern, which may match nothing, where a file's own name would have to be there."""

DOCKERFILE = (CLONE / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
DEPLOYED = "deploy/docker-compose.yml"
LOCAL = "docker-compose.dev.yml"
SECRETS = {variable for name in secret_names() for variable in variables(name)}


def services(file: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CLONE / file).read_text())["services"]
    return read


def words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else command


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("name", ["code-location", "webserver", "daemon"])
def test_both_compose_files_run_the_same_commands(name: str) -> None:
    local = [word.removeprefix("/app/.venv/bin/") for word in words(services(LOCAL)[name]["command"])]
    assert local == words(services(DEPLOYED)[name]["command"])
    assert local[-2:] == ["--log-format", "json"]


def test_a_deployments_instance_is_a_clones_but_for_what_must_survive_the_machine() -> None:
    local, deployed = (yaml.safe_load((CLONE / name).read_text()) for name in ("dagster.yaml", "deploy/dagster.yaml"))
    assert "storage" not in local
    assert deployed.pop("storage")["custom"]["config"] == {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    assert local.pop("compute_logs")["class"] == "NoOpComputeLogManager"
    assert deployed.pop("compute_logs")["class"] == "StagingComputeLogManager"
    assert deployed == local
    monitoring = local["run_monitoring"]
    assert (monitoring["enabled"], set(monitoring)) == (
        True,
        {"enabled", "start_timeout_seconds", "max_runtime_seconds"},
    )
    assert local["telemetry"] == {"enabled": False}


def test_the_image_runs_the_web_server_unless_told_otherwise() -> None:
    [command] = instructions("CMD")
    assert yaml.safe_load(command) == services(DEPLOYED)["webserver"]["command"]


def test_every_program_of_the_files_exists() -> None:
    commands = [service["command"] for service in services(DEPLOYED).values()]
    commands += [
        service["healthcheck"]["test"][1:] for service in services(DEPLOYED).values() if "healthcheck" in service
    ]
    programs = {words(command)[0] for command in commands}
    assert programs == {"dagster", "dagster-webserver", "dagster-daemon"}
    assert all(Path(sys.executable).with_name(program).exists() for program in programs)


def test_only_the_code_location_has_the_databases_secrets() -> None:
    deployed = services(DEPLOYED)
    assert [name for name, service in deployed.items() if "env_file" in service] == ["code-location"]
    for name in ("webserver", "daemon"):
        given = set(deployed[name]["environment"])
        assert given <= all_variables()
        assert given & SECRETS == {"DAGSTER_POSTGRES_URL", "STAGING_S3_ACCESS_KEY_ID", "STAGING_S3_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("file", [DEPLOYED, LOCAL])
def test_nothing_is_open_to_other_machines(file: str) -> None:
    ports = [port for service in services(file).values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_compose_file_holds_a_secret() -> None:
    for service in services(DEPLOYED).values():
        for name, value in service.get("environment", {}).items():
            assert re.fullmatch(rf"\$\{{{name}:[-?][^}}]*\}}", value), name
    assert not re.search(r"://[^/\s{]+:[^/\s{]+@", (CLONE / DEPLOYED).read_text())


def test_the_image_has_no_secret_and_runs_as_nobody_in_particular() -> None:
    given = {name for line in instructions("ARG") + instructions("ENV") for name in re.findall(r"(\w+)=", line)}
    assert not given & SECRETS
    assert given & set(all_variables()) <= {"PREDICTBENCH_HOME", "PREDICTBENCH_ENV_FILE", "LOG_FORMAT", "GIT_SHA"}
    user, group = instructions("USER")[-1].split(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert instructions("HEALTHCHECK")


def test_the_image_copies_by_name_what_exists_and_its_context_leaves_out_the_rest() -> None:
    copied = [source for line in instructions("COPY") if not line.startswith("--from=") for source in line.split()[:-1]]
    assert copied
    for source in copied:
        assert source.strip("./"), "a whole folder would bring whatever lies in it"
        assert (CLONE / source).exists() or source in (OPTIONAL, REQUIREMENTS), source
    assert all((CLONE / file).exists() for file in BUILDS)
    ignored = (CLONE / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    wanted = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert OPTIONAL in copied, "the declared experiments, where a clone has some"
    copied = [source if source != OPTIONAL else EXPERIMENTS_FILE for source in copied]
    assert "*" in ignored
    assert wanted == {source.rstrip("/") for source in copied if source != REQUIREMENTS} | BUILDS


def test_the_image_installs_pinned_requirements_alone() -> None:
    installs = [part for line in instructions("RUN") for part in line.split("&&") if "pip install" in part]
    assert installs
    assert all("--no-deps" in install for install in installs)
    assert "--require-hashes" in installs[0]
    assert all("-e ." in install for install in installs[1:])


def test_the_settings_that_the_deployment_asks_for_are_known() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (CLONE / DEPLOYED).read_text())) - {"GIT_SHA"}
    assert {name.lower() for name in asked} <= set(Settings.model_fields)


def test_the_local_compose_file_serves_the_database_of_the_example() -> None:
    example = "postgresql://predictbench:predictbench@localhost:5432/predictbench"
    assert f"such as {example}" in (CLONE / ".env.example").read_text()
    assert example in (CLONE / LOCAL).read_text()
    given = services(LOCAL)["code-location"]["environment"]
    inside = example.replace("localhost", "postgres")
    assert given["DATABASE_URL"].replace("+psycopg", "") == inside
    assert given["DAGSTER_POSTGRES_URL"].replace("+psycopg2", "") == inside
