"""The manifests: valid by the models of Kubernetes' own client, and of one piece with the image and each other."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster_k8s import K8sRunLauncher

from predictbench_assets.definitions import build_defs
from predictbench_assets.settings import all_variables, load_settings, secret_names, variables
from predictbench_assets_tests.kit.manifests import faults
from predictbench_assets_tests.kit.places import CLONE

FOLDER = CLONE / "deploy" / "kubernetes"
FILES = [*sorted(FOLDER.glob("*.yaml")), FOLDER / "secrets.example"]
SECRETS = {variable for name in secret_names() for variable in variables(name)}


def manifests() -> list[dict[str, Any]]:
    return [one for file in FILES for one in yaml.safe_load_all(file.read_text())]


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Pod specifications by the names of what they belong to."""
    found = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "Deployment"}
    found["daily"] = named("CronJob", "daily")["spec"]["jobTemplate"]["spec"]
    return {name: spec["template"]["spec"] for name, spec in found.items()}


def instance() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(named("ConfigMap", "dagster-instance")["data"]["dagster.yaml"])
    return read


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_manifest_is_one_that_the_server_takes(file: Path) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    assert documents
    for one in documents:
        group, _, version = one["apiVersion"].rpartition("/")
        assert (group, version) in {("", "v1"), ("apps", "v1"), ("batch", "v1"), ("rbac.authorization.k8s.io", "v1")}
        assert not faults(f"V1{one['kind']}", one, one["kind"])
        assert "namespace" not in one["metadata"], "the namespace is that of `kubectl --namespace`"


def test_a_fault_in_a_manifest_is_seen() -> None:
    wrong = named("Deployment", "daemon")
    wrong["spec"]["replicas"] = "1"
    del wrong["spec"]["selector"]
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    found = faults("V1Deployment", wrong, "daemon")
    assert len(found) == 3, found


def test_the_instance_is_a_deployments_but_for_runs_in_pods_of_their_own() -> None:
    of_pods, deployed = instance(), yaml.safe_load((CLONE / "deploy" / "dagster.yaml").read_text())
    launcher = of_pods.pop("run_launcher")
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    assert of_pods == deployed


def test_the_launcher_takes_its_configuration() -> None:
    config = instance()["run_launcher"]["config"]
    checked = process_config(resolve_to_config_type(dict(K8sRunLauncher.config_type())), config)
    assert checked.success, checked.errors
    assert config["run_k8s_config"]["job_spec_config"]["backoff_limit"] == 0
    assert "postgres_password_secret" not in config, "our storage reads DAGSTER_POSTGRES_URL"
    assert named("ServiceAccount", config["service_account_name"])
    assert named("ConfigMap", config["instance_config_map"])
    assert [named("Secret", name)["kind"] for name in config["env_secrets"]] == ["Secret"] * 2
    assert named("ConfigMap", *config["env_config_maps"])


def test_the_example_of_the_executor_is_one_that_it_takes() -> None:
    text = (FOLDER / "config.yaml").read_text().replace("  # EXECUTOR", "  EXECUTOR").replace("  #   ", "    ")
    settings = next(yaml.safe_load_all(text))["data"]
    address = "postgresql://u:p@h/d"
    given = {**settings, "SUPABASE_DB_URL": address, "DAGSTER_POSTGRES_URL": address}
    defs = build_defs(load_settings(**{name.lower(): text for name, text in given.items()}))
    assert isinstance(defs.executor, dg.ExecutorDefinition)
    assert defs.executor.name == "k8s"
    options = json.loads(settings["EXECUTOR_OPTIONS"])
    launcher = instance()["run_launcher"]["config"]
    for name in ("service_account_name", "job_namespace", "env_config_maps", "env_secrets"):
        assert options[name] == launcher[name], "a step is what a run is, whoever launches the run"


def test_every_pod_runs_our_image_as_nobody_in_particular() -> None:
    [user] = re.findall(r"USER (\d+):", (CLONE / "deploy" / "Dockerfile").read_text())
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] == int(user)
        [container] = pod["containers"]
        assert container["image"] == "predictbench:latest"
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"].keys() == {"requests", "limits"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/state", "/tmp"}
    launcher = instance()["run_launcher"]["config"]
    assert launcher["run_k8s_config"]["pod_spec_config"]["security_context"]["run_as_user"] == int(user)
    [image] = [one["value"] for one in pods()["code-location"]["containers"][0]["env"]]
    assert image == "predictbench:latest", "a run has the image of the code location"


def test_the_commands_are_those_of_the_compose_file() -> None:
    services = yaml.safe_load((CLONE / "deploy" / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert pods()[name]["containers"][0]["args"] == service["command"]
    ports = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in manifests() if one["kind"] == "Service"
    }
    [location] = yaml.safe_load((CLONE / "deploy" / "workspace.yaml").read_text())["load_from"]
    assert ports[location["grpc_server"]["host"]] == location["grpc_server"]["port"]


def test_only_what_runs_code_has_the_databases_secrets() -> None:
    for name, pod in pods().items():
        [container] = pod["containers"]
        secrets = [one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one]
        assert secrets[0] == "predictbench-instance"
        assert ("predictbench" in secrets) == (name in ("code-location", "daily")), name
    shared = named("Secret", "predictbench-instance")["stringData"]
    assert shared.keys() == {"DAGSTER_POSTGRES_URL", "STAGING_S3_ACCESS_KEY_ID", "STAGING_S3_SECRET_ACCESS_KEY"}


def test_settings_are_known_and_secrets_are_in_no_config_map() -> None:
    settings = named("ConfigMap", "predictbench")["data"].keys()
    assert settings <= all_variables()
    assert not settings & SECRETS
    for name in ("predictbench", "predictbench-instance"):
        given = named("Secret", name)["stringData"]
        assert given.keys() <= SECRETS
        assert all("<" in text for text in given.values()), "an example holds no secret"
