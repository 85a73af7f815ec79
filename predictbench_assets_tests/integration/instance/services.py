"""Dagster's own services on Postgres, started as a deployment starts them, and their GraphQL API."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
from sqlalchemy.engine import make_url

from predictbench_assets.database.urls import DAGSTER_DRIVER
from predictbench_assets.settings import all_variables

CLONE = Path(__file__).resolve().parents[3]


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
