"""Executors by their names and options, and what two of them ask a cluster for: a job server and an API over HTTP."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.context.system import PlanData, PlanOrchestrationContext
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.step_delegating import StepDelegatingExecutor, StepHandler, StepHandlerContext
from dagster._core.log_manager import DagsterLogManager
from dagster._grpc.types import ExecuteStepArgs

from predictbench_assets.definitions import build_defs
from predictbench_assets.launch.commands import prepare_home
from predictbench_assets.settings import Settings, SettingsError, load_settings
from predictbench_assets_tests.kit.http_services import Answer, Request, serving
from predictbench_assets_tests.kit.manifests import faults
from predictbench_assets_tests.kit.places import CLONE

SHARED = {
    "database_url": "postgresql://u:p@h/d",
    "dagster_postgres_url": "postgresql://u:p@h/d",
    "staging_uri": "s3://bucket/prefix",
}


def with_executor(name: str, options: Any = None, **rest: Any) -> Settings:
    text = {} if options is None else {"executor_options": json.dumps(options)}
    return load_settings(executor=name, **text, **rest, **SHARED)


def executor(settings: Settings) -> dg.ExecutorDefinition:
    made = build_defs(settings).executor
    assert isinstance(made, dg.ExecutorDefinition)
    return made


def taken(settings: Settings) -> Mapping[str, Any]:
    """The configuration that an executor begins with."""
    resolved = executor(settings).apply_config_mapping({"config": {}})
    assert resolved.success, resolved.errors
    return resolved.value["config"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["multiprocess", "k8s", "ray"])
def test_steps_at_once_are_limited_wherever_they_can_be(name: str) -> None:
    assert taken(with_executor(name, executor_max_concurrent=3))["max_concurrent"] == 3


def test_options_are_the_executors_own() -> None:
    config = taken(with_executor("k8s", {"job_namespace": "forecasts"}))
    assert config["job_namespace"] == "forecasts"


def test_steps_on_other_machines_are_told_that_limits_are_shared() -> None:
    told = "PREDICTBENCH_SHARED_BY=2"
    shared = {"predictbench_shared_by": 2}
    assert taken(with_executor("k8s", **shared))["env_vars"] == [told]
    assert taken(with_executor("k8s", {"env_vars": ["TOKEN"]}, **shared))["env_vars"] == ["TOKEN", told]
    ray = {"ray": {"address": "http://h:8265", "env_vars": ["TOKEN"]}}
    assert taken(with_executor("ray", ray, **shared))["ray"]["env_vars"] == ["TOKEN", told]
    assert taken(with_executor("ray", ray))["ray"]["env_vars"] == ["TOKEN"]
    with pytest.raises(SettingsError, match="takes no env_vars, so its steps cannot be told to share limits"):
        executor(with_executor("predictbench_assets_tests.kit.elsewhere:elsewhere", **shared))


@pytest.mark.parametrize("name", ["k8s", "ray"])
def test_an_extra_that_is_not_installed_is_named_with_its_cure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [
        one for one in sys.modules if one.startswith(("dagster_k8s", "dagster_ray", "predictbench_assets.ray"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    with pytest.raises(SettingsError, match=rf"EXECUTOR: {name} needs .* pip install 'predictbench\[{name}\]'"):
        executor(with_executor(name))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ray", {"adress": "http://h:8265"}, 'unexpected config entry "adress"'),
        ("k8s", {"job_namespace": 3}, "job_namespace"),
        ("in_process", {"job_namespace": "forecasts"}, "job_namespace"),
        ("k8s", {"max_concurrent": 3}, "set EXECUTOR_MAX_CONCURRENT instead"),
    ],
)
def test_options_that_an_executor_does_not_take_are_refused(name: str, options: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        executor(with_executor(name, options))
    assert all(problem.startswith("EXECUTOR_OPTIONS: ") for problem in caught.value.problems)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "{'a': 1}", "[" * 100_000])
def test_options_that_are_no_object_are_refused_where_they_enter(text: str) -> None:
    with pytest.raises(SettingsError, match="EXECUTOR_OPTIONS: expected a JSON object"):
        load_settings(executor_options=text)


def test_secrets_in_options_are_shown_nowhere_and_names_are() -> None:
    ray = {
        "env_vars": ["DATABASE_URL", "TOKEN=s3cret-of-a-list"],
        "headers": {"Authorization": "Bearer s3cret-of-a-header"},
        "runtime_env": {"env_vars": {"KEY": "s3cret-of-a-mapping"}},
    }
    env = [{"name": "FEATURE", "value": "s3cret-of-a-pod"}]
    settings = load_settings(executor_options=json.dumps({"ray": ray, "step": {"env": env}}))
    shown = settings.redact(f"DATABASE_URL FEATURE {ray} {env}")
    assert "s3cret" not in shown
    assert "DATABASE_URL FEATURE" in shown
    assert "EXECUTOR_OPTIONS" not in settings.public_view()
    with pytest.raises(SettingsError) as caught:
        executor(with_executor("ray", {"ray": {"headers": "Bearer s3cret"}}))
    assert "s3cret" not in str(caught.value)


def test_a_dry_run_stays_in_its_process() -> None:
    settings = with_executor("ray", {"ray": {"address": "http://h"}}, predictbench_dry_run=True)
    assert executor(settings) is dg.in_process_executor


@dataclass
class Cluster:
    """Ray's job server and the API of Kubernetes: notes the jobs that it is sent, and says what it is told of them."""

    address: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    status: str = "RUNNING"
    code: int = 200

    def answer(self, asked: Request) -> Answer:
        """What either would say."""
        if asked.method == "POST":
            self.jobs.append(asked.content)
        content: Any = {"submission_id": "x", "job_id": "x"} if "/api/jobs" in asked.path else asked.content
        if asked.path == "/api/version":
            content = {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}
        elif asked.method == "GET":
            content = {
                "type": "SUBMISSION",
                "entrypoint": "x",
                "status": self.status,
                "message": "as it was told, last available logs: s3cret",
            }
        return self.code, {"content-type": "application/json"}, json.dumps(content).encode()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    with serving(made.answer) as made.address:
        yield made


@dg.op(tags={"dagster-ray/config": {"num_cpus": 4, "resources": {"gpu_host": 1}}})
def greedy() -> None:
    """Asks for more."""


@dg.op(tags={"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}})
def plain() -> None:
    """Asks a Ray cluster for nothing."""


@dg.job
def two_steps() -> None:
    """A job of both."""
    greedy()
    plain()


class Delivery:
    """What an executor hands its steps with, and each step as it is handed."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self._job = dg.reconstructable(two_steps)
        self._instance = instance
        self._run = instance.create_run_for_job(two_steps)
        made = executor(settings)
        config = made.apply_config_mapping({"config": {}}).value["config"]
        assert made.executor_creation_fn is not None
        self._executor = made.executor_creation_fn(InitExecutorContext(self._job, made, config, instance))
        assert isinstance(self._executor, StepDelegatingExecutor)
        self.handler: StepHandler = self._executor._step_handler
        self.at_once = self._executor._max_concurrent

    def step(self, key: str) -> StepHandlerContext:
        """The step as it is handed."""
        plan = create_execution_plan(self._job)
        data = PlanData(self._job, self._run, self._instance, plan)
        log = DagsterLogManager.create(loggers=[], dagster_run=self._run)
        context = PlanOrchestrationContext(data, log, self._executor, None)
        arguments = ExecuteStepArgs(self._job.get_python_origin(), self._run.run_id, [key], self._instance.get_ref())
        return StepHandlerContext(self._instance, context, plan.steps, arguments, self._run)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def on_ray(cluster: Cluster, instance: dg.DagsterInstance, **ray: Any) -> Delivery:
    return Delivery(with_executor("ray", {"ray": {"address": cluster.address, **ray}}), instance)


def test_what_a_step_asks_for_wins_and_no_other_step_gets_it(cluster: Cluster, instance: dg.DagsterInstance) -> None:
    delivery = on_ray(cluster, instance, num_cpus=2, resources={"zone": 1})

    for key in ("greedy", "plain"):
        list(delivery.handler.launch_step(delivery.step(key)))

    asked = [(job["entrypoint_num_cpus"], job["entrypoint_resources"]) for job in cluster.jobs]
    assert asked == [(4, {"zone": 1, "gpu_host": 1}), (2, {"zone": 1})]
    assert delivery.at_once == 8


def test_a_step_that_asks_for_nothing_gets_a_cpu_of_any_node(cluster: Cluster, instance: dg.DagsterInstance) -> None:
    delivery = on_ray(cluster, instance)
    list(delivery.handler.launch_step(delivery.step("plain")))
    assert cluster.jobs[0]["entrypoint_num_cpus"] == 1, "without one Ray puts it on the head node"


@pytest.mark.parametrize(
    ("status", "healthy"), [("RUNNING", True), ("FAILED", False), ("STOPPED", False), ("SUCCEEDED", False)]
)
def test_a_job_that_is_over_without_the_steps_end_is_seen(
    cluster: Cluster, instance: dg.DagsterInstance, status: str, healthy: bool
) -> None:
    delivery = on_ray(cluster, instance)
    cluster.status = status

    found = delivery.handler.check_step_health(delivery.step("plain"))

    assert found.is_healthy == healthy
    told = found.unhealthy_reason or ""
    assert healthy or told.endswith(f"is {status} without the step's end: as it was told")


def test_a_cluster_that_is_gone_is_waited_for_a_while(
    cluster: Cluster, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = on_ray(cluster, instance)
    step = delivery.step("plain")
    cluster.code = 500
    assert delivery.handler.check_step_health(step).is_healthy, "one error says nothing about the step"
    monkeypatch.setattr("predictbench_assets.ray_executor._PATIENCE_S", 0.0)

    found = delivery.handler.check_step_health(step)

    assert not found.is_healthy
    assert "Ray has not told of job" in (found.unhealthy_reason or "")


def test_a_step_is_a_job_that_kubernetes_takes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = next(
        yaml.safe_load_all(
            (CLONE / "deploy/kubernetes/config.yaml")
            .read_text()
            .replace("  # EXEC", "  EXEC")
            .replace("  #   ", "    ")
        )
    )
    options = json.loads(pods["data"]["EXECUTOR_OPTIONS"])
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "unused")
    settings = with_executor("k8s", {**options, **in_cluster(cluster, tmp_path)})
    home = prepare_home(settings, tmp_path / "home")
    launcher = yaml.safe_load((home / "dagster.yaml").read_text())["run_launcher"]
    launcher["config"] |= in_cluster(cluster, tmp_path)
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"run_launcher": launcher}) as instance:
        delivery = Delivery(settings, instance)
        list(delivery.handler.launch_step(delivery.step("plain")))

    [job] = cluster.jobs
    assert not faults("V1Job", job, "job")
    assert job["spec"]["backoffLimit"] == 0
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert (pod["serviceAccountName"], container["image"]) == ("predictbench", "predictbench:latest")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["args"][:3] == ["dagster", "api", "execute_step"]
    assert {"name": "DAGSTER_HOME", "value": "/dagster"} in container["env"]
    assert [one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one] == options["env_secrets"]


def in_cluster(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """How a client outside of a cluster finds it."""
    file = folder / "kubeconfig"
    named = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [{"name": "c", "cluster": {"server": cluster.address}}], "contexts": [named]}
    file.write_text(json.dumps({**config, "users": [{"name": "u", "user": {}}], "current-context": "c"}))
    return {"load_incluster_config": False, "kubeconfig_file": str(file)}
