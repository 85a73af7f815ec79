"""Runs that were stored at times of the test's choosing, to be released and verified."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from predictbench_assets.cli.main import main
from predictbench_assets.experiments.digest import ForecastDigest
from predictbench_assets.persistence.digests import run_digest
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.kit.builders import KEY, attempt, observe, open_run, record, result
from predictbench_assets_tests.kit.database import Database

CLOSE = KEY.start + timedelta(hours=12)
AS_OF = datetime(2026, 2, 20, 12, tzinfo=UTC)


def morning(key: RunKey = KEY) -> datetime:
    """The instant at which a run is made."""
    return datetime(key.run_date.year, key.run_date.month, key.run_date.day, 7, tzinfo=UTC)


@dataclass
class Benchmark(Database):
    """A database with runs in it, and the command line on it."""

    folder: Path
    now: datetime = AS_OF

    def run(
        self,
        *markets: int,
        key: RunKey = KEY,
        at: datetime | None = None,
        probability: float = 0.4,
        status: Any = "completed",
        ended: bool = True,
    ) -> ForecastDigest | None:
        """Store markets as a run of their own, or as a further attempt of it."""
        at = at or morning(key)
        lease = open_run(self.engine, key, at)
        writer = RunWriter(self.engine, lease, lease.clock)
        close = key.start + timedelta(hours=12)
        records = [
            record(
                one,
                result(probability=probability, forecast_at=at),
                result("coin", 0.5, forecast_at=at),
                close_time=close,
                captured_at=morning(key),
            )
            for one in markets
        ]
        content = f"{probability}-{at}"
        attempts = [attempt(content=content), replace(attempt("coin", content=content), control=True)]
        writer.write(records, attempts)
        if not ended:
            return None
        count = len(markets)
        digest = run_digest(self.engine, key, at)
        summary = {"forecast_digest": {"digest": digest.digest}}
        writer.finish(RunCounts(count, 0, 0, 0, count), status, (), summary, digest)
        return digest

    def settle(self, *markets: int, outcome: float = 1.0, at: datetime = CLOSE + timedelta(days=1)) -> None:
        """Observe that markets have settled."""
        for one in markets:
            observe(self.engine, f"m{one}", "final", outcome, at=at)

    def command(self, *arguments: str) -> Result:
        """Run `predictbench` in this process."""
        url = self.engine.url.render_as_string(hide_password=False)
        nothing = dict.fromkeys(all_variables())
        environment = nothing | {
            "PREDICTBENCH_ENV_FILE": "",
            "PREDICTBENCH_HOME": str(self.folder / "home"),
            "PREDICTBENCH_NOW": self.now.isoformat(),
            "DATABASE_URL": url,
            "GIT_SHA": "0123abc",
        }
        return CliRunner(env=environment).invoke(main, list(arguments))

    def verify(self, *arguments: str) -> Result:
        """`predictbench verify`."""
        return self.command("verify", *arguments)

    def release(self, name: str, *arguments: str, code: int = 0) -> Path:
        """`predictbench release` into a folder of that name."""
        folder = self.folder / name
        done = self.command("release", "--output", str(folder), "--version", name, *arguments)
        assert done.exit_code == code, done.output
        return folder


MakeKey = Callable[[int], RunKey]
