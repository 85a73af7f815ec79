"""A small stand-in for GitHub's runner: reads a workflow's YAML and executes its `run:` steps for real.

Jobs run in order, one after the other, each with a folder of its own for `RUNNER_TEMP`. Actions of other people are not
run: what they would leave behind is there already, or is taken note of. Whatever is not understood raises.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from predictbench_assets.settings import all_variables
from predictbench_assets_tests.integration.workflows.expressions import Declared, Open, as_text, evaluated, filled
from predictbench_assets_tests.kit.places import CLONE

OWN_ACTION = "$/"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

_STATUS = re.compile(r"\b(success|failure|always|cancelled)\(")
_TAKEN_FOR_DONE = {
    *("actions/checkout", "actions/setup-python", "actions/deploy-pages"),
    *("actions/upload-artifact", "actions/download-artifact"),
}
_LONGEST_STEP_SECONDS = 240


class NotRunnable(Exception):
    """A part of a workflow that this runner does not know."""


@dataclass(frozen=True)
class Step:
    """A step that was come to."""

    name: str
    outcome: str
    """success, failure, cancelled or skipped: what it came to itself."""
    conclusion: str
    """The same with `continue-on-error` taken into account."""
    output: str = ""


@dataclass
class Job:
    """A job that was come to."""

    name: str
    temp: Path
    conclusion: str = "success"
    steps: list[Step] = field(default_factory=list)
    summary: str = ""
    """What it shows on the run's page."""
    outputs: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    """Files kept, by the artifact's name."""
    environment: str | None = None
    concurrency: str | None = None

    def step(self, name: str) -> Step:
        """The step with this name, those of our own actions included."""
        [found] = [step for step in self.steps if step.name == name]
        return found

    @property
    def log(self) -> str:
        """Everything that was said."""
        return "\n".join(f"== {step.name}: {step.conclusion}\n{step.output}" for step in self.steps)


@dataclass
class Runner:
    """Runs workflows of a clone.

    Args:
        clone: a copy of the project.
        folder: where jobs get their folders.
        machine: variables that every step finds, as if the machine had them.
        install: the script that takes the place of the installation; None installs for real, from the network.
        before: called with nothing before the step of that name, to change the world in between.
    """

    clone: Path
    folder: Path
    machine: Mapping[str, str] = field(default_factory=dict)
    install: str | None = "true"
    before: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    cancelled: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    """When to cancel the workflow during the step of that name: once this is true."""
    runs: int = 0
    kept: dict[str, Path] = field(default_factory=dict)
    """The artifacts of the last run, by name."""

    def run(
        self,
        workflow: str,
        *,
        event: str = "workflow_dispatch",
        inputs: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> dict[str, list[Job]]:
        """Run a workflow's jobs and return them by id, one for each cell of a matrix."""
        self.runs += 1
        self.kept.clear()
        loaded = yaml.safe_load((self.clone / ".github" / "workflows" / f"{workflow}.yml").read_text())
        assert event in loaded[True], f"{workflow} is not started by {event}"
        contexts = {
            "github": Declared(
                event_name=event,
                workflow=loaded["name"],
                server_url="https://github.example",
                repository="someone/predictbench",
                run_id=str(4000 + self.runs),
                run_attempt="1",
                ref="refs/heads/main",
            ),
            "inputs": _inputs((loaded[True].get("workflow_dispatch") or {}).get("inputs", {}), event, inputs or {}),
            "vars": Open(variables or {}),
            "secrets": Open(secrets or {}),
        }
        done: dict[str, list[Job]] = {}
        for name, job in loaded["jobs"].items():
            done[name] = self._job(name, job, loaded, contexts, done)
        return done

    def _job(
        self, name: str, job: Mapping[str, Any], workflow: Mapping[str, Any], shared: Mapping[str, Any], done: Any
    ) -> list[Job]:
        needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        contexts = dict(shared) | {
            "needs": Declared(
                {one: Declared(outputs=Declared(done[one][0].outputs), result=done[one][0].conclusion) for one in needs}
            )
        }
        good = all(one.conclusion == "success" for need in needs for one in done[need])
        if not _wanted(job.get("if"), contexts, "success" if good else "failure"):
            return [Job(name, self.folder, conclusion="skipped", outputs=dict.fromkeys(job.get("outputs", {})))]
        return [
            _JobInHand(self, name, job, workflow, contexts, cell, len(done)).done() for cell in _cells(job, contexts)
        ]


class _JobInHand:
    """A job while its steps are run."""

    def __init__(
        self,
        runner: Runner,
        name: str,
        job: Mapping[str, Any],
        workflow: Mapping[str, Any],
        contexts: Mapping[str, Any],
        cell: Mapping[str, Any],
        number: int,
    ) -> None:
        known = set(job) - {
            "name",
            "if",
            "needs",
            "runs-on",
            "timeout-minutes",
            "environment",
            "strategy",
            "permissions",
        }
        if known - {"concurrency", "env", "steps", "outputs", "permissions"}:
            raise NotRunnable(f"{known} of job {name}")
        place = "-".join(map(str, [runner.runs, number, name, *cell.values()]))
        self.job = Job(name, runner.folder / place / "temp")
        self.job.temp.mkdir(parents=True)
        (self.job.temp.parent / "files").mkdir()
        (self.job.temp.parent / "summary.md").touch()
        self._runner = runner
        self._declared = job
        self._contexts = dict(contexts) | {
            "matrix": Declared(cell),
            "runner": Declared(temp=str(self.job.temp), os="Linux"),
        }
        self._path: list[str] = [str(_system_python(runner.folder))]
        self._exported: dict[str, str] = {}
        defaults = workflow.get("defaults", {}).get("run", {})
        self._shell = defaults.get("shell")
        self._variables = self._filled_all(workflow.get("env", {})) | self._filled_all(job.get("env", {}))
        self.job.environment = self._fill(job.get("environment"))
        group = (job.get("concurrency") or workflow.get("concurrency") or {}).get("group")
        self.job.concurrency = self._fill(group)

    def done(self) -> Job:
        """Run the steps."""
        contexts = self._contexts
        ids = {step["id"] for step in self._declared["steps"] if "id" in step}
        states = Declared({one: Declared(outcome=None, conclusion=None, outputs=Open()) for one in ids})
        contexts["steps"] = states
        for step in self._declared["steps"]:
            contexts["job"] = Declared(status=self.job.conclusion)
            result = self._step(step, contexts, self._variables, self.job.conclusion, states)
            if result in ("failure", "cancelled"):
                self.job.conclusion = result
        # Outputs are read with all steps done.
        self.job.outputs = self._filled_all(self._declared.get("outputs", {}))
        self.job.summary = (self.job.temp.parent / "summary.md").read_text()
        return self.job

    def _step(
        self,
        step: Mapping[str, Any],
        contexts: Mapping[str, Any],
        variables: Mapping[str, str],
        status: str,
        states: Declared,
        action: Path | None = None,
    ) -> str:
        """Run one step, keep what came of it, and return its conclusion."""
        known = {"name", "id", "if", "uses", "with", "run", "shell", "env", "continue-on-error", "timeout-minutes"}
        if set(step) - known:
            raise NotRunnable(f"{set(step) - known} of step {step.get('name')}")
        name = step["name"]
        outputs = Open()
        if not _wanted(step.get("if"), contexts, status):
            outcome, said = "skipped", ""
        else:
            self._runner.before.get(name, lambda: None)()
            environment = dict(variables) | self._filled_all(step.get("env", {}), contexts)
            if "uses" in step:
                outcome, said = self._used(step, contexts, environment)
            else:
                outcome, said = self._scripted(step, environment, outputs, action)
        forgiven = outcome == "failure" and step.get("continue-on-error", False)
        conclusion = "success" if forgiven else outcome
        self.job.steps.append(Step(name, outcome, conclusion, said))
        if "id" in step:
            states[step["id"]] = Declared(outcome=outcome, conclusion=conclusion, outputs=outputs)
        return conclusion

    def _used(
        self, step: Mapping[str, Any], contexts: Mapping[str, Any], environment: Mapping[str, str]
    ) -> tuple[str, str]:
        uses, given = step["uses"], self._filled_all(step.get("with", {}), contexts)
        if uses.startswith(OWN_ACTION):
            return self._own_action(self._runner.clone / uses.removeprefix(OWN_ACTION), given, contexts, environment)
        action = uses.partition("@")[0]
        if action not in _TAKEN_FOR_DONE:
            raise NotRunnable(f"action {action}")
        if action == "actions/upload-artifact":
            kept = Path(given["path"])
            self.job.artifacts[given["name"]] = sorted(
                str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()
            )
            self._runner.kept[given["name"]] = kept
        if action == "actions/download-artifact":
            for name, kept in self._runner.kept.items():
                if fnmatch(name, given["pattern"]):
                    shutil.copytree(kept, Path(given["path"]) / name)
        return "success", ""

    def _own_action(
        self, folder: Path, given: Mapping[str, str], contexts: Mapping[str, Any], environment: Mapping[str, str]
    ) -> tuple[str, str]:
        """The steps of a composite action; it sees its inputs, and neither secrets nor variables."""
        loaded = yaml.safe_load((folder / "action.yml").read_text())
        declared = loaded.get("inputs", {})
        unknown = given.keys() - declared.keys()
        missing = {name for name, one in declared.items() if one.get("required")} - given.keys()
        if unknown or missing or loaded["runs"]["using"] != "composite":
            raise NotRunnable(f"{folder.name}: unknown {unknown}, missing {missing}")
        inputs = Declared({name: given.get(name, one.get("default", "")) for name, one in declared.items()})
        inner = {"github": contexts["github"], "runner": contexts["runner"], "inputs": inputs}
        status, states = "success", Declared()
        for step in loaded["runs"]["steps"]:
            assert "uses" in step or "shell" in step, "a composite action's script names its shell"
            if self._step(step, inner, environment, status, states, folder) == "failure":
                status = "failure"
        return status, ""

    def _scripted(
        self, step: Mapping[str, Any], variables: Mapping[str, str], outputs: Open, action: Path | None
    ) -> tuple[str, str]:
        script = step["run"]
        replaced = action is not None and step["name"] == "Install" and self._runner.install is not None
        if replaced:
            script = self._runner.install
        shell = step.get("shell", self._shell)
        if shell not in (None, "bash"):
            raise NotRunnable(f"shell {shell}")
        files = self.job.temp.parent / "files"
        number = len(list(files.glob("*.sh")))
        file = files / f"{number}.sh"
        file.write_text(script)
        channels = {name: files / f"{number}.{name}" for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
        for channel in channels.values():
            channel.touch()
        options = ["-e"] if shell is None else ["--noprofile", "--norc", "-eo", "pipefail"]
        environment = self._environment() | self._exported | dict(variables)
        environment |= {name: str(channel) for name, channel in channels.items()}
        if action is not None:
            environment["GITHUB_ACTION_PATH"] = str(action)
        outcome, said = self._executed(["bash", *options, str(file)], environment, step["name"])
        if replaced and outcome == "success":
            # Installing takes the network and most of a minute: the present interpreter's folder of commands goes on
            # the path instead, and PYTHONPATH (see `_environment`) makes them those of the clone.
            self._path.insert(0, str(Path(sys.executable).parent))
        outputs.update(_assignments(channels["GITHUB_OUTPUT"]))
        self._exported |= _assignments(channels["GITHUB_ENV"])
        with (self.job.temp.parent / "summary.md").open("a") as summary:
            summary.write(channels["GITHUB_STEP_SUMMARY"].read_text())
        return outcome, said

    def _executed(self, command: list[str], environment: Mapping[str, str], name: str) -> tuple[str, str]:
        """What a command came to, and what it said. A cancelled workflow interrupts it, as GitHub's runner does."""
        cancelled = self._runner.cancelled.get(name)
        with subprocess.Popen(
            command,
            cwd=self._runner.clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        ) as process:
            try:
                if cancelled is not None:
                    deadline = time.monotonic() + _LONGEST_STEP_SECONDS
                    while process.poll() is None and not cancelled() and time.monotonic() < deadline:
                        time.sleep(0.05)
                    process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=_LONGEST_STEP_SECONDS)
            except BaseException:
                process.kill()
                raise
        if cancelled is not None:
            return "cancelled", said
        return "success" if process.returncode == 0 else "failure", said

    def _environment(self) -> dict[str, str]:
        """What a step finds of the machine, which is nothing of this machine's settings."""
        github = self._contexts["github"]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in all_variables() and not name.startswith(("GITHUB_", "PYTHON", "VIRTUAL_ENV"))
        }
        ours = str(Path(sys.executable).parent)
        path = [one for one in inherited["PATH"].split(os.pathsep) if one != ours]
        return {
            **inherited,
            **({} if self._runner.install is None else {"PYTHONPATH": str(self._runner.clone)}),
            "PATH": os.pathsep.join([*self._path, *path]),
            "HOME": str(self.job.temp.parent),
            "NO_PROXY": "127.0.0.1,localhost",
            "RUNNER_TEMP": str(self.job.temp),
            "GITHUB_WORKSPACE": str(self._runner.clone),
            "GITHUB_EVENT_NAME": github["event_name"],
            "GITHUB_REPOSITORY": github["repository"],
            "GITHUB_SHA": COMMIT,
            "GITHUB_ACTIONS": "true",
            **self._runner.machine,
        }

    def _fill(self, value: Any, contexts: Mapping[str, Any] | None = None) -> Any:
        return filled(value, contexts or self._contexts, {"fromJSON": json.loads} | _status(self.job.conclusion))

    def _filled_all(self, values: Mapping[str, Any], contexts: Mapping[str, Any] | None = None) -> dict[str, str]:
        return {name: as_text(self._fill(value, contexts)) for name, value in values.items()}


def copy_of_the_project(folder: Path) -> Path:
    """What a checkout would have: every file that git knows or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CLONE,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CLONE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CLONE / name, folder / name)
    return folder


def _system_python(folder: Path) -> Path:
    """A folder with a Python that has nothing installed, as a runner has."""
    commands = folder / "bin"
    if not commands.is_dir():
        commands.mkdir()
        base = Path(sys._base_executable)  # type: ignore[attr-defined]
        for name in ("python", "python3"):
            (commands / name).symlink_to(base)
    return commands


def _inputs(declared: Mapping[str, Any], event: str, given: Mapping[str, Any]) -> Declared:
    """All inputs of a dispatch, as given or by default; a schedule has none, which reads as null."""
    unknown = given.keys() - declared.keys()
    assert not unknown, f"the workflow has no inputs {unknown}"
    if event != "workflow_dispatch":
        return Declared(dict.fromkeys(declared))
    values = {name: given.get(name, one.get("default", "")) for name, one in declared.items()}
    for name, one in declared.items():
        assert values[name] or not one.get("required"), f"{name} is required"
        assert one.get("type") != "choice" or values[name] in one["options"], f"{name} has no choice {values[name]}"
    return Declared(values)


def _cells(job: Mapping[str, Any], contexts: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    matrix = job.get("strategy", {}).get("matrix")
    if matrix is None:
        return [{}]
    [(name, values)] = matrix.items()
    return [{name: value} for value in filled(values, contexts, {"fromJSON": json.loads})]


def _wanted(condition: str | None, contexts: Mapping[str, Any], status: str) -> bool:
    """Whether an `if:` lets a step or job run; without a status function it wants success, too."""
    text = "success()" if condition is None else str(condition).strip()
    if text.startswith("${{") and text.endswith("}}"):
        text = text[3:-2].strip()
    if _STATUS.search(text) is None:
        text = f"success() && ({text})"
    return bool(evaluated(text, contexts, _status(status)))


def _status(status: str) -> dict[str, Callable[..., Any]]:
    return {
        "success": lambda: status == "success",
        "failure": lambda: status == "failure",
        "always": lambda: True,
        "cancelled": lambda: status == "cancelled",
    }


def _assignments(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines()
    if any("=" not in line for line in lines):
        raise NotRunnable(f"{file.name}: {lines}")
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
