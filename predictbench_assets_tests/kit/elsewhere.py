"""A stand-in for an executor whose steps run on other machines: each in a process with homes of its own.

It is of the class that the executors for Kubernetes and Ray are of. EXECUTOR names it by module and attribute, and
`FOLDER` the folder of the machines, one for each step of a run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster_shared.record import copy

from predictbench_assets_tests.kit.places import CLONE

EXECUTOR = f"{__name__}:elsewhere"
FOLDER = "TEST_ELSEWHERE"
VARIABLES = "TEST_ELSEWHERE_VARIABLES"
"""A JSON object: settings of the machines that are not those of the process which launches the run."""

_OF_THE_LAUNCHER = {
    *("HOME", "PREDICTBENCH_HOME", "DAGSTER_HOME", "PREDICTBENCH_SUMMARY", "ARTIFACTS_DIR"),
    *("PREDICTBENCH_DRY_RUN", "PREDICTBENCH_SCRATCH", "PREDICTBENCH_ENV_FILE"),
}


class Machines(StepHandler):
    """Starts each step by the command that pods and Ray jobs start it by."""

    def __init__(self) -> None:
        self._folder = Path(os.environ[FOLDER])
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def name(self) -> str:
        return "Machines"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        arguments = step_handler_context.execute_step_args
        [step_key] = arguments.step_keys_to_execute or []
        command = copy(arguments, instance_ref=None).get_command_args()  # it has an instance of its own
        # Without brackets: Dagster takes the path of its home for a pattern.
        machine = self._folder / step_key.replace("[", "-").replace("]", "")
        self._processes[step_key] = start(machine, command)
        yield from ()

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        code = self._process(step_handler_context).poll()
        if code in (None, 0):
            return CheckStepHealthResult.healthy()
        return CheckStepHealthResult.unhealthy(f"its process ended with {code}")

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        with suppress(ProcessLookupError):
            self._process(step_handler_context).send_signal(signal.SIGTERM)
        yield from ()

    def _process(self, context: StepHandlerContext) -> "subprocess.Popen[bytes]":
        [step_key] = context.execute_step_args.step_keys_to_execute or []
        return self._processes[step_key]


def start(machine: Path, command: list[str] | tuple[str, ...], **variables: str) -> "subprocess.Popen[bytes]":
    """Start a command on a machine: a folder with homes of its own, and with what it prints."""
    home = machine / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLONE / "deploy" / "dagster.yaml", home)
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_LAUNCHER}
    environment |= {"HOME": str(machine), "PREDICTBENCH_HOME": str(machine / "home"), "DAGSTER_HOME": str(home)}
    environment |= {"PREDICTBENCH_ENV_FILE": "", "LOG_FORMAT": "json", **_given(), **variables}
    (machine / "command.json").write_text(json.dumps(list(command)))
    with (machine / "output").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster", *command[command.index("api") :]],
            cwd=machine,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a machine of its own does not end with the launcher
        )
    (machine / "pid").write_text(str(process.pid))
    return process


def _given() -> Mapping[str, str]:
    given: dict[str, str] = json.loads(os.environ.get(VARIABLES, "{}"))
    return given


@dg.executor(name="elsewhere", requirements=multiple_process_executor_requirements())
def elsewhere(_: dg.InitExecutorContext) -> StepDelegatingExecutor:
    """Steps on machines of their own, two at once, looked after every second."""
    return StepDelegatingExecutor(
        Machines(),
        retries=RetryMode.DISABLED,
        sleep_seconds=0.2,
        check_step_health_interval_seconds=1,
        max_concurrent=2,
        should_verify_step=True,
    )
