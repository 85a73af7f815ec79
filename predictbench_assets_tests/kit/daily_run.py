"""The daily job against a sandbox exchange and a database of its own, here or in a process that can be killed."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
from dagster._core.definitions.job_base import InMemoryJob  # not exported
from dagster._core.execution.api import execute_run
from sqlalchemy.engine import make_url

from predictbench_assets.definitions import build_defs
from predictbench_assets.launch.commands import DAILY_RUN, DEFINITIONS
from predictbench_assets.partitions import partition_key
from predictbench_assets.runs import RunKey, partition_tags
from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets.settings import all_variables, load_settings
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit import killing
from predictbench_assets_tests.kit.places import CLONE

KEY = RunKey(date(2026, 3, 2), 7)
NOW = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
EXPERIMENT = "predictbench_assets_tests.integration.daily_run.experiments"
BASELINE = "predictbench_assets.experiments.builtin.baseline:BaselineSnapshotExperiment"

VOLATILE = {
    # Which attempt, by whom and when: two runs with the same forecasts may differ in it.
    *("attempt", "holder", "dagster_run_id", "git_sha", "summary", "uri"),
    # What the walk cost; which slice is walked twice is chosen at random.
    *("api", "bytes"),
    *("started_at", "finished_at", "heartbeat_at", "logged_at", "failure_id"),
}
BOOKKEEPING = {"processing_attempts", "predictbench_alembic_version", "resolutions_due", "scores_due"}

_BUILTIN = "predictbench_assets.experiments.builtin"
_PRELOADED = [
    *("dagster._cli", "PIL.ImageFont", "predictbench_assets.definitions"),
    *(f"{_BUILTIN}.baseline", f"{_BUILTIN}.pricing"),
]
"""The modules of a run, which the server has loaded that runs are forked from; one that is missing is ignored."""

Row = tuple[tuple[str, str], ...]
Tables = dict[str, Counter[Row]]


@dataclass(frozen=True)
class Ran:
    """A run that ended."""

    exit_code: int
    summary: dict[str, Any] | None
    output: str = ""
    """Standard output and error of a process."""
    result: dg.ExecuteInProcessResult | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The summary, which must be there."""
        assert self.summary is not None, f"no summary was written:\n{self.output}"
        return self.summary

    def metadata(self, asset: str) -> dict[str, Any]:
        """Metadata of an asset's materialization, as plain values."""
        assert self.result is not None
        [event] = [
            one
            for one in self.result.get_asset_materialization_events()
            if one.asset_key == dg.AssetKey(asset.split("/"))
        ]
        return {name: value.value for name, value in event.materialization.metadata.items()}

    def checks(self) -> dict[str, bool]:
        """Asset checks by name: True for those that passed."""
        assert self.result is not None
        return {one.check_name: one.passed for one in self.result.get_asset_check_evaluations()}


@dataclass
class DailyRun:
    """One database, one staging area, one Dagster home: everything that outlives a run."""

    folder: Path
    database_url: str
    sandbox: SandboxServer
    variables: dict[str, str] = field(default_factory=dict)
    """Settings of every run from here on, on top of the usual ones."""

    @property
    def home(self) -> Path:
        """The DAGSTER_HOME."""
        home = self.folder / "dagster"
        if not home.is_dir():
            home.mkdir(parents=True)
            shutil.copy(CLONE / "dagster.yaml", home)
        return home

    @property
    def staging(self) -> StagingArea:
        """The staging area of its runs."""
        return StagingArea(str(self.folder / "home" / "staging"))

    def environment(self, summary: Path, variables: Mapping[str, str]) -> dict[str, str]:
        """Every setting of a run, and nothing that the user of this machine has set."""
        return {
            "PREDICTBENCH_ENV_FILE": "",
            "PREDICTBENCH_HOME": str(self.folder / "home"),
            "PREDICTBENCH_NOW": NOW.isoformat(),
            "PREDICTBENCH_SUMMARY": str(summary),
            "DATABASE_URL": self.database_url,
            "POLYMARKET_BASE_URL": self.sandbox.base_url,
            "POLYMARKET_CLOB_URL": self.sandbox.clob_url,
            "POLYMARKET_REQUESTS_PER_SECOND": "1000",
            "GIT_SHA": "0123abc",
            **self.variables,
            **variables,
        }

    def here(
        self,
        key: RunKey = KEY,
        ops: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        selection: Sequence[dg.AssetKey] | None = None,
        instance: dg.DagsterInstance | None = None,
        run: dg.DagsterRun | None = None,
        **variables: str,
    ) -> Ran:
        """Run the job, or some of its assets, in this process.

        Args:
            instance: Dagster's instance; by default one of its own.
            run: a run that the instance has, which is begun only now; see `waiting`.
        """
        summary = self.folder / "summary.json"
        summary.unlink(missing_ok=True)
        with _only(self.environment(summary, variables)):
            definitions = build_defs(load_settings())
            assert definitions.resources is not None
            try:
                with nullcontext(instance) if instance else dg.DagsterInstance.ephemeral() as used:
                    job = definitions.resolve_job_def(DAILY_RUN)
                    if run is not None:
                        result: Any = execute_run(InMemoryJob(job), run, used)
                    else:
                        result = job.execute_in_process(
                            partition_key=partition_key(key),
                            instance=used,
                            asset_selection=selection,
                            raise_on_error=False,
                            run_config={
                                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                                "ops": {name: {"config": dict(values)} for name, values in (ops or {}).items()},
                            },
                        )
            finally:
                definitions.resources["database"].engine.dispose()
        broken = [event for event in result.all_events if event.event_type is dg.DagsterEventType.HOOK_ERRORED]
        assert not broken, f"a hook failed, which Dagster passes over: {broken}"
        return Ran(0 if result.success else 1, _read(summary), result=result)

    def waiting(self, instance: dg.DagsterInstance, key: RunKey = KEY, **variables: str) -> dg.DagsterRun:
        """Make a run that waits to begin, as in a queue; its config is the usual one."""
        with _only(self.environment(self.folder / "summary.json", variables)):
            job = build_defs(load_settings()).resolve_job_def(DAILY_RUN)
            return instance.create_run_for_job(job, tags={**job.run_tags, **partition_tags(key)})

    @contextmanager
    def started(
        self,
        key: RunKey = KEY,
        ops: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        name: str = "run",
        **variables: str,
    ) -> Iterator["Started"]:
        """Begin `dagster job execute` as a process; it is ended when the block is left.

        Args:
            tags: of the run, instead of those of the partition.
            name: of its files.
        """
        arguments = self._arguments(key, ops, tags, name)
        summary = self.folder / f"{name}.summary.json"
        summary.unlink(missing_ok=True)
        output = self.folder / f"{name}.log"
        environment = self._child_environment(summary, variables)
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "dagster", *arguments],
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Started(process, output, summary)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def process(self, key: RunKey = KEY, ops: Mapping[str, Mapping[str, Any]] | None = None, **rest: Any) -> Ran:
        """Run `dagster job execute` to its end."""
        with self.started(key, ops, **rest) as started:
            return started.ended()

    def forked(
        self,
        key: RunKey = KEY,
        *,
        tags: Mapping[str, str] | None = None,
        killed_at: str = killing.NOWHERE,
        killed_after: float | None = None,
        run: Callable[..., None] = killing.run,
        **variables: str,
    ) -> Ran:
        """Run `dagster job execute` in a process that is forked from one with the libraries loaded: that is quicker.

        Args:
            tags: of the run, instead of those of the partition.
            killed_at: where the process kills itself, see `killing.py`.
            killed_after: seconds after which it is killed from outside, wherever it is.
            run: runs it in that process; one that a test gives may look at what the run has left there.
        """
        summary, output = self.folder / "forked.summary.json", self.folder / "forked.log"
        summary.unlink(missing_ok=True)
        environment = self._child_environment(summary, variables)
        arguments = self._arguments(key, None, tags, "forked")
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(_PRELOADED)
        process = processes.Process(target=run, args=(killed_at, arguments, self.home, environment, output))
        process.start()
        process.join(90 if killed_after is None else killed_after)
        in_time = process.exitcode is not None
        if not in_time:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        assert code is not None
        assert in_time or killed_after is not None, f"the run did not end:\n{output.read_text(errors='replace')}"
        return Ran(code, _read(summary), output=output.read_text(errors="replace"))

    def _arguments(
        self,
        key: RunKey,
        ops: Mapping[str, Mapping[str, Any]] | None,
        tags: Mapping[str, str] | None,
        name: str,
    ) -> list[str]:
        arguments = ["job", "execute", "-m", DEFINITIONS, "-j", DAILY_RUN]
        chosen = partition_tags(key) if tags is None else dict(tags)
        arguments += ["--tags", json.dumps(chosen)] if chosen else []
        if ops:
            config = self.folder / f"{name}.yaml"
            config.write_text(json.dumps({"ops": {op: {"config": dict(values)} for op, values in ops.items()}}))
            arguments += ["-c", str(config)]
        return arguments

    def _child_environment(self, summary: Path, variables: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in all_variables()}
        ours = {"DAGSTER_HOME": str(self.home), "PYTHONPATH": str(CLONE), "LOG_FORMAT": "json"}
        return inherited | self.environment(summary, variables) | ours

    def tables(self) -> Tables:
        """All rows of all tables, without columns in which two equal runs may differ."""
        return dump(self.database_url)

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with _connected(self.database_url) as connection:
            return connection.execute(query, parameters).fetchall()

    def run_row(self, *columns: str) -> Any:
        """Columns of the only run; the value itself where one is asked for."""
        [row] = self.rows(f"SELECT {', '.join(columns)} FROM predictbench.processing_runs")
        return row[0] if len(columns) == 1 else row

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        [(count,)] = self.rows(f"SELECT count(*) FROM predictbench.{table}")
        return int(count)


@dataclass(frozen=True)
class Started:
    """A run under way."""

    process: "subprocess.Popen[bytes]"
    log: Path
    summary: Path

    def ended(self, within: float = 90.0) -> Ran:
        """Wait for its end."""
        code = self.process.wait(timeout=within)
        return Ran(code, _read(self.summary), output=self.log.read_text(errors="replace"))

    def wait_for(self, reached: Callable[[], bool], within: float = 60.0) -> None:
        """Wait until something has happened, while the run goes on."""
        deadline = time.monotonic() + within
        while not reached():
            assert self.process.poll() is None, f"the run ended too early:\n{self.log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"it did not happen:\n{self.log.read_text(errors='replace')}"
            time.sleep(0.02)


def dump(database_url: str) -> Tables:
    """All rows of all tables of a database, without volatile columns."""
    with _connected(database_url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'predictbench' AND table_type = 'BASE TABLE'"
        ).fetchall()
        found: Tables = {}
        for (table,) in tables:
            if table in BOOKKEEPING:
                continue
            cursor = connection.execute(
                f"SELECT to_jsonb(t) - %s::text[] FROM predictbench.{table} t", [list(VOLATILE)]
            )
            found[table] = Counter(
                tuple(sorted((name, json.dumps(value, sort_keys=True)) for name, value in row.items()))
                for (row,) in cursor
            )
    return found


def differences(one: Tables, other: Tables) -> dict[str, tuple[list[Row], list[Row]]]:
    """Rows by table that only one of the two has; empty where they are equal."""
    return {
        table: (list((one.get(table, Counter()) - other.get(table, Counter())).elements()),
                list((other.get(table, Counter()) - one.get(table, Counter())).elements()))
        for table in sorted({*one, *other})
        if one.get(table) != other.get(table)
    }  # fmt: skip


@contextmanager
def _connected(database_url: str) -> Iterator[psycopg.Connection]:
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    """These settings and no others in this process's environment."""
    before = dict(os.environ)
    try:
        for name in all_variables():
            os.environ.pop(name, None)
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _read(summary: Path) -> dict[str, Any] | None:
    return json.loads(summary.read_text()) if summary.exists() else None


MakeRun = Callable[..., DailyRun]
MakeSandbox = Callable[..., SandboxServer]
