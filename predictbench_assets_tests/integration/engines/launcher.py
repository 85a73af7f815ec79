"""`predictbench daily` on a machine of its own, whose steps an engine makes: one of the four, by its name."""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.integration.engines.experiments import CALLS, FREE, HALT, OP_TAGS, SHARDS
from predictbench_assets_tests.integration.instance.services import postgres_instance
from predictbench_assets_tests.kit import elsewhere
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import DailyRun
from predictbench_assets_tests.kit.places import CLONE
from predictbench_assets_tests.kit.ray_cluster import RayCluster

ENGINES = ("in_process", "multiprocess", "elsewhere", "ray")
HALTING = "predictbench_assets_tests.integration.engines.experiments:Halting"
STEP = "experiment_results__halting"

HANDED = (
    *("DATABASE_URL", "DAGSTER_POSTGRES_URL", "STAGING_URI", "STAGING_S3_ENDPOINT_URL", "STAGING_S3_REGION"),
    *("STAGING_S3_ACCESS_KEY_ID", "STAGING_S3_SECRET_ACCESS_KEY"),
    *("PREDICTBENCH_NOW", "POLYMARKET_BASE_URL", "POLYMARKET_CLOB_URL", "POLYMARKET_REQUESTS_PER_SECOND"),
    *("GIT_SHA", "PROCESSING_EXPERIMENTS", CALLS, HALT, SHARDS, OP_TAGS),
)
"""What the workers of a Ray cluster are told by the run; everything else they have of their node."""


@dataclass
class Launcher:
    """The machine that launches runs; `daily` has what they share."""

    daily: DailyRun
    engine: str
    cluster: RayCluster | None
    workers: dict[str, str] = field(default_factory=dict)
    """Variables of the workers that the launcher does not have."""

    shards: int = 1
    op_tags: dict[str, Any] = field(default_factory=dict)
    """Both of the experiment."""

    @property
    def gate(self) -> Path:
        return self.daily.folder / "gate"

    def variables(self) -> dict[str, str]:
        """All variables of the command."""
        options: dict[str, Any] = {}
        executor = self.engine
        if self.engine == "ray":
            assert self.cluster is not None
            told = [*HANDED, *(f"{name}={value}" for name, value in self.workers.items())]
            options = {"ray": {"address": self.cluster.address, "env_vars": told}}
        if self.engine == "elsewhere":
            executor = elsewhere.EXECUTOR
        ours = {
            **self.daily.environment(self.daily.folder / "unused.json", {}),
            "PREDICTBENCH_HOME": str(self.daily.folder / "launcher" / "state"),
            "HOME": str(self.daily.folder / "launcher"),
            "EXECUTOR": executor,
            SHARDS: str(self.shards),
            OP_TAGS: json.dumps(self.op_tags),
            "PROCESSING_EXPERIMENTS": HALTING,
            "LOG_FORMAT": "json",
            "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.2",
            CALLS: str(self.daily.folder / "calls"),
            elsewhere.FOLDER: str(self.machines),
            elsewhere.VARIABLES: json.dumps(self.workers),
            **({"EXECUTOR_OPTIONS": json.dumps(options)} if options else {}),
            **(self.workers if self.engine in ("in_process", "multiprocess") else {}),
        }
        ours.pop("PREDICTBENCH_SUMMARY")
        return {**os.environ, **ours, "PYTHONPATH": str(CLONE)}

    @property
    def machines(self) -> Path:
        return self.daily.folder / "machines"

    @contextmanager
    def launched(self, *arguments: str, halts: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
        """`predictbench daily` under way; what is left of it is killed when the block is left."""
        summary = self.daily.folder / "summary.json"
        summary.unlink(missing_ok=True)
        shutil.rmtree(self.machines, ignore_errors=True)
        (self.daily.folder / "launcher").mkdir(exist_ok=True)
        variables = self.variables() | ({HALT: str(self.gate)} if halts else {})
        with (self.daily.folder / "shown").open("wb") as shown:
            process = subprocess.Popen(
                command("daily", "--summary", str(summary), *arguments),
                cwd=self.daily.folder / "launcher",
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=shown,
            )
        try:
            yield process
        finally:
            for one in family(process.pid):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()

    def run(self, *arguments: str) -> int:
        """Run it to its end."""
        with self.launched(*arguments) as process:
            return process.wait(timeout=900)

    @property
    def shown(self) -> str:
        """What the command has printed."""
        return (self.daily.folder / "shown").read_text(errors="replace")

    @property
    def said(self) -> Mapping[str, Any]:
        """The summary."""
        return json.loads((self.daily.folder / "summary.json").read_text())  # type: ignore[no-any-return]

    def calls(self) -> Counter[str]:
        """The calls so far, by market."""
        file = self.daily.folder / "calls"
        return Counter(file.read_text().split()) if file.exists() else Counter()

    def durable(self) -> set[str]:
        """The markets whose answers are in the journal."""
        given = self.daily.variables
        options = {
            "client_kwargs": {"endpoint_url": given["STAGING_S3_ENDPOINT_URL"], "region_name": "us-east-1"},
            "key": given["STAGING_S3_ACCESS_KEY_ID"],
            "secret": given["STAGING_S3_SECRET_ACCESS_KEY"],
            "time_limit": 60,
        }
        area = StagingArea(given["STAGING_URI"], options)
        lines = [
            line for name in area.list("journals") if "/halting/" in name for line in area.read_bytes(name).splitlines()
        ]
        return {outcome["market_id"] for line in lines for outcome in json.loads(line)}

    def halted(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until ten answers are durable and two calls are under way."""
        self.wait_for(process, lambda: self.calls().total() >= FREE + 2)

    def wait_for(
        self, process: "subprocess.Popen[bytes]", reached: Callable[[], object], within: float = 600.0
    ) -> None:
        """Wait for something that happens while the command runs."""
        deadline = time.monotonic() + within
        while not reached():
            assert process.poll() is None, f"it ended:\n{self.shown}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.shown}"
            time.sleep(0.1)

    def step(self, process: "subprocess.Popen[bytes]", key: str = STEP) -> psutil.Process:
        """The process that the step under way is made in."""
        if self.engine == "ray":
            assert self.cluster is not None
            return next(one for node in self.cluster.nodes.values() if (one := node.step(key)) is not None)
        if self.engine == "elsewhere":
            return psutil.Process(int((self.machines / key / "pid").read_text()))
        children = psutil.Process(process.pid).children(recursive=True)
        if self.engine == "in_process":
            return next(one for one in children if "execute" in one.cmdline())
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())][-1]

    def row(self, *columns: str) -> Any:
        """Columns of the only run."""
        return self.daily.run_row(*columns)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The Dagster instance that all share."""
        with postgres_instance(self.daily.variables["DAGSTER_POSTGRES_URL"]) as instance:
            yield instance


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    return []


MakeLauncher = Callable[[str], Launcher]
