"""A Ray cluster on this machine: each node has its processes, its folder and its environment, and knows no other's."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from predictbench_assets_tests.integration.instance.services import free_port

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
_SMALL = ["--object-store-memory=100000000", "--dashboard-agent-listen-port=0"]
_HEAD = "127.0.0.2"
"""Ray takes 127.0.0.1 for a word, and puts another address of this machine in its place."""


@dataclass
class Node:
    """One node: a process that is the parent of all others of it."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    """Its working folder, with its homes."""

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        processes = [psutil.Process(self.process.pid)]
        processes += processes[0].children(recursive=True)
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def step(self, key: str) -> psutil.Process | None:
        """The process of a step, if it is under way on this node."""
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "execute_step" in one.cmdline() and one.environ().get("DAGSTER_RUN_STEP_KEY") == key:
                    return one
        return None


@dataclass
class RayCluster:
    """A head and its other nodes."""

    folder: Path
    port: int
    address: str
    """Of the job server."""
    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, name: str, arguments: list[str], variables: Mapping[str, str]) -> Node:
        """Start a node in a folder of its own, with nothing in its environment but these variables and its homes."""
        folder = self.folder / name
        folder.mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "PREDICTBENCH_HOME": str(folder / "state"),
            "DAGSTER_HOME": str(folder / "dagster"),
            "PREDICTBENCH_ENV_FILE": "",
            "RAY_USAGE_STATS_ENABLED": "0",
            # A machine that runs other things too takes its time.
            "RAY_raylet_start_wait_time_s": "300",
            "RAY_worker_register_timeout_seconds": "300",
            **variables,
        }
        for home in ("HOME", "DAGSTER_HOME"):
            Path(environment[home]).mkdir()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*RAY, *_SMALL, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.nodes[name] = Node(process, folder)
        return self.nodes[name]

    @contextmanager
    def node(self, name: str, *, cpus: int = 2, **variables: str) -> Iterator[Node]:
        """A further node until the block is left, with a resource of its own name, `cpus` times."""
        node = self.add(
            name,
            [
                f"--address={_HEAD}:{self.port}",
                f"--node-ip-address=127.0.0.{2 + len(self.nodes)}",
                f"--num-cpus={cpus}",
                f'--resources={{"{name}": {cpus}}}',
            ],
            variables,
        )
        try:
            self.wait_for(lambda: name in _resources(self.address), node)
            yield node
        finally:
            _end(node)

    def wait_for(self, reached: Callable[[], object], node: Node, within: float = 300.0) -> None:
        """Wait until something is there."""
        deadline = time.monotonic() + within
        while True:
            with suppress(httpx.HTTPError):
                if reached():
                    return
            said = (node.folder / "log").read_text(errors="replace")
            assert node.process.poll() is None, f"the node ended:\n{said}"
            assert time.monotonic() < deadline, f"the node did not come up:\n{said}"
            time.sleep(0.1)


@contextmanager
def ray_cluster(*, cpus: int = 4) -> Iterator[RayCluster]:
    """A cluster of a head alone, which runs steps too, in a folder with a short path: its sockets are there."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    port, dashboard = free_port(), free_port()
    cluster = RayCluster(folder, port, f"http://{_HEAD}:{dashboard}")
    arguments = [
        *("--head", f"--port={port}", f"--node-ip-address={_HEAD}", f"--num-cpus={cpus}"),
        *(f"--dashboard-host={_HEAD}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"),
        f"--temp-dir={folder / 'ray'}",
    ]
    head = cluster.add("head", arguments, {})
    try:
        cluster.wait_for(lambda: _resources(cluster.address), head)
        yield cluster
    finally:
        _end(head)
        shutil.rmtree(folder)


def _resources(address: str) -> set[str]:
    """Names of what the nodes that are alive have."""
    answer = httpx.get(f"{address}/api/v0/nodes", timeout=10).raise_for_status().json()
    nodes = answer["data"]["result"]["result"]
    return {name for node in nodes if node["state"] == "ALIVE" for name in node["resources_total"]}


def _end(node: Node) -> None:
    if node.process.poll() is None:
        node.process.send_signal(signal.SIGTERM)
        try:
            node.process.wait(20)
        except subprocess.TimeoutExpired:
            node.kill()
