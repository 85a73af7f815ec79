"""Dagster's own services on Postgres, started as a deployment starts them, and their GraphQL API."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import yaml
from sqlalchemy.engine import make_url

from predictbench_assets.addresses import DAGSTER_DRIVER
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.kit.places import CLONE

DEPLOYED = CLONE / "deploy" / "docker-compose.yml"


def dagster_url(database_url: str) -> str:
    """A database's address as Dagster's storage takes it."""
    return make_url(database_url).set(drivername=DAGSTER_DRIVER).render_as_string(hide_password=False)


def deployed_home(home: Path) -> Path:
    """Make a DAGSTER_HOME as deployments do."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLONE / "deploy" / "dagster.yaml", home)
    return home


@contextmanager
def postgres_instance(database_url: str) -> Iterator[dg.DagsterInstance]:
    """The deployed instance in this process, on a home of its own that is thrown away; the address goes in as it is."""
    before = os.environ.get("DAGSTER_POSTGRES_URL")
    os.environ["DAGSTER_POSTGRES_URL"] = database_url
    try:
        with (
            tempfile.TemporaryDirectory() as home,
            dg.DagsterInstance.from_config(str(deployed_home(Path(home)))) as instance,
        ):
            yield instance
    finally:
        if before is None:
            del os.environ["DAGSTER_POSTGRES_URL"]
        else:
            os.environ["DAGSTER_POSTGRES_URL"] = before


def inherited() -> dict[str, str]:
    """The environment of this process without any setting that its user may have."""
    ours = all_variables() | {"DAGSTER_HOME", "PREDICTBENCH_ENV_FILE"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(frozen=True)
class Service:
    """A process that goes on until it is ended."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_until(self, reached: Callable[[], object], within: float = 60.0) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + within
        while not reached():
            assert self.process.poll() is None, f"it ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"it did not come up:\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")


@contextmanager
def service(arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> Iterator[Service]:
    """Run a command until the block is left; it and the processes it started are ended then."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            list(arguments),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Service(process, log)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started, or it
    process.wait()


@dataclass(frozen=True)
class Webserver:
    """The API that the UI speaks."""

    address: str
    location: str = "predictbench"

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """The data of a query or mutation."""
        answer = httpx.post(f"{self.address}/graphql", json={"query": text, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def ready(self) -> bool:
        """Whether it answers and has loaded the code location."""
        try:
            found = self.query(_LOCATIONS)["workspaceOrError"]
        except (httpx.TransportError, ValueError):
            return False
        entries = [entry["locationOrLoadError"] or {} for entry in found["locationEntries"]]
        broken = [entry["message"] for entry in entries if "message" in entry]
        assert not broken, broken
        return bool(entries) and all(entry.get("__typename") == "RepositoryLocation" for entry in entries)

    def launch(
        self, selector: Mapping[str, Any], tags: Mapping[str, str], config: Mapping[str, Any] | None = None
    ) -> str:
        """Launch a run as the UI does; returns its id."""
        parameters = {
            "selector": {"repositoryLocationName": self.location, "repositoryName": "__repository__", **selector},
            "runConfigData": dict(config or {}),
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.query(_LAUNCH, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def materialize(self, assets: Sequence[str], tags: Mapping[str, str]) -> str:
        """Materialize assets for a partition as their pages do; returns the run's id."""
        keys = [{"path": asset.split("/")} for asset in assets]
        return self.launch({"jobName": "__ASSET_JOB", "assetSelection": keys}, tags)

    def printed(self, run_id: str) -> dict[str, str]:
        """What the steps of a run printed: the text, and where it can be downloaded."""
        events = self.query(_CAPTURED, id=run_id)["logsForRun"]["events"]
        [file_key] = [event["fileKey"] for event in events if event["__typename"] == "LogsCapturedEvent"]
        found = self.query(_PRINTED, key=[run_id, "compute_logs", file_key])
        return {"stderr": found["capturedLogs"]["stderr"], "url": found["capturedLogsMetadata"]["stderrDownloadUrl"]}

    def status(self, run_id: str) -> str:
        """The status of a run."""
        found = self.query("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
        status: str = found["runOrError"]["status"]
        return status

    def finished(self, run_id: str, within: float = 90.0) -> str:
        """Wait for the end of a run; returns its status."""
        deadline = time.monotonic() + within
        while (status := self.status(run_id)) not in ("SUCCESS", "FAILURE", "CANCELED"):
            assert time.monotonic() < deadline, f"the run is still {status}"
            time.sleep(0.1)
        return status

    def partitions(self, asset: str) -> set[str]:
        """The materialized partitions of an asset, as the asset's page counts them."""
        found = self.query(_PARTITIONS, key={"path": asset.split("/")})["assetNodeOrError"]
        statuses = found["assetPartitionStatuses"]
        ranges = [
            (outer["primaryDimStartKey"], outer["primaryDimEndKey"], inner)
            for outer in statuses["ranges"]
            for inner in outer["secondaryDim"]["materializedPartitions"]
        ]
        assert all(start == end for start, end, _ in ranges)
        keys = {f"{start}|{window}" for start, _, window in ranges}
        assert found["partitionStats"]["numMaterialized"] == len(keys)
        return keys

    def materializations(self, asset: str, partition: str) -> list[dict[str, Any]]:
        """An asset's materializations of a partition, the newest first: run id, and metadata by label."""
        found = self.query(_MATERIALIZATIONS, key={"path": asset.split("/")}, partition=partition)["assetNodeOrError"]
        return [
            {
                "run_id": one["runId"],
                "metadata": {
                    entry["label"]: next((entry[name] for name in _VALUES if name in entry), None)
                    for entry in one["metadataEntries"]
                },
            }
            for one in found["assetMaterializations"]
        ]


_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
  __typename ... on PythonError { message } } } } } }
"""
_LAUNCH = """
mutation($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
  __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } }
} }
"""
_CAPTURED = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  __typename ... on LogsCapturedEvent { fileKey }
} } } }
"""
_PRINTED = """
query($key: [String!]!) {
  capturedLogs(logKey: $key) { stderr }
  capturedLogsMetadata(logKey: $key) { stderrDownloadUrl }
}
"""
_PARTITIONS = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionStats { numMaterialized }
  assetPartitionStatuses { ... on MultiPartitionStatuses { ranges {
    primaryDimStartKey primaryDimEndKey
    secondaryDim { ... on DefaultPartitionStatuses { materializedPartitions } }
  } } }
} } }
"""
_VALUES = ("intValue", "floatValue", "text", "mdStr", "path", "jsonString")
_MATERIALIZATIONS = """
query($key: AssetKeyInput!, $partition: String!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetMaterializations(partitions: [$partition]) {
    runId
    metadataEntries {
      label
      ... on IntMetadataEntry { intValue }
      ... on FloatMetadataEntry { floatValue }
      ... on TextMetadataEntry { text }
      ... on MarkdownMetadataEntry { mdStr }
      ... on PathMetadataEntry { path }
      ... on JsonMetadataEntry { jsonString }
    }
  }
} } }
"""


@dataclass(frozen=True)
class ComposeFile:
    """The commands of a compose file's services, as they are run here: without containers, on ports of this machine."""

    file: Path
    code_port: int
    web_port: int

    def command(self, name: str) -> list[str]:
        """The arguments of a service, with this machine's paths, addresses and ports for the container's."""
        return [self._here(argument) for argument in self._given(self._service(name)["command"])]

    def healthcheck(self, name: str) -> list[str]:
        """The command that asks a service whether it is well."""
        kind, *arguments = self._service(name)["healthcheck"]["test"]
        assert kind == "CMD"
        return [self._here(argument) for argument in arguments]

    def workspace(self, folder: Path) -> Path:
        """The workspace file that the services name, adapted likewise."""
        read = yaml.safe_load((CLONE / "deploy" / "workspace.yaml").read_text())
        [entry] = read["load_from"]
        server = entry["grpc_server"]
        assert server == {"host": "code-location", "port": 4000, "location_name": "predictbench"}
        server |= {"host": "127.0.0.1", "port": self.code_port}
        file = folder / "workspace.yaml"
        file.write_text(json.dumps(read))
        return file

    def _service(self, name: str) -> dict[str, Any]:
        service: dict[str, Any] = yaml.safe_load(self.file.read_text())["services"][name]
        return service

    @staticmethod
    def _given(command: str | list[str]) -> list[str]:
        return shlex.split(command) if isinstance(command, str) else command

    def _here(self, argument: str) -> str:
        programs = {"dagster", "dagster-webserver", "dagster-daemon", "python"}
        name = argument.removeprefix("/app/.venv/bin/")
        if name in programs:
            return str(Path(sys.executable).with_name(name))
        replaced = {"0.0.0.0": "127.0.0.1", "4000": str(self.code_port), "3000": str(self.web_port)}
        if argument == "/app/deploy/workspace.yaml":
            return "workspace.yaml"
        return replaced.get(argument, argument)


@contextmanager
def deployment(compose: Path, *, home: Path, environment: Mapping[str, str]) -> Iterator[tuple[Webserver, ComposeFile]]:
    """Code location, web server and daemon of a compose file, up and well.

    Args:
        compose: the compose file.
        home: the DAGSTER_HOME of all three, and the folder that they run in.
        environment: the settings. Those that `deploy/docker-compose.yml` keeps to the code location are kept to it.
    """
    services = ComposeFile(compose, free_port(), free_port())
    services.workspace(home)
    common = inherited() | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(CLONE), "PREDICTBENCH_ENV_FILE": ""}

    def started(name: str) -> AbstractContextManager[Service]:
        given = yaml.safe_load(DEPLOYED.read_text())["services"][name].get("environment", environment)
        variables = common | {key: environment[key] for key in given if key in environment}
        return service(services.command(name), folder=home, environment=variables, log=home / f"{name}.log")

    web = Webserver(f"http://127.0.0.1:{services.web_port}")
    with started("code-location") as code:
        code.wait_until(lambda: _listens(services.code_port))
        with started("webserver") as server, started("daemon"):
            server.wait_until(web.ready)
            yield web, services


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
