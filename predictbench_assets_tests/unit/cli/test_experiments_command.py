"""`predictbench experiments`: the listing with its costs, a beginning that works, and a try that keeps nothing."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import main
from predictbench_assets.experiments.declared.kinds import KINDS
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.ingestion.cohort import COHORT
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import load_settings
from predictbench_assets.staging import StagingArea

KEY = "sk-proj-0123456789abcdef"

MODULE = '''
import os
from decimal import Decimal

from predictbench_assets.experiments import Experiment, ExperimentResult, ExperimentSkip, Usage
from predictbench_assets.experiments.protocol import Estimate


class Paid(Experiment):
    """Costs a cent a market."""

    version = "1"
    description = "Costs a cent a market."
    information = "blind"

    def __init__(self, cents: int = 1):
        self.cents = cents

    @property
    def config(self):
        return {"model": "openai:some-model"}

    def estimate(self, markets):
        return Estimate(self.cents * Decimal("0.01") * len(markets), self.cents * Decimal("0.03") * len(markets))

    def run(self, market, context):
        if market.market_id == "1002":
            raise ExperimentSkip("too hard")
        if market.market_id == "1003":
            raise ZeroDivisionError("no " + os.environ["SOME_API_KEY"])
        uri = context.artifact("answer.txt", f"said: 25 % with {os.environ['SOME_API_KEY']}".encode())
        return ExperimentResult.binary(
            0.25,
            payload={"rationale": "Because \\x1b[31m of it.", "seen": [s.market_id for s in context.siblings]},
            artifact_uri=uri,
            usage=Usage(requests=1, input_tokens=1200, output_tokens=50, cost=Decimal("0.01"), model="some-model-1"),
        )


class After(Experiment):
    version = "1"
    description = "Says what the other one says."
    requires = ("paid",)
    information = "search"

    def run(self, market, context):
        return context.required["paid"]


class ForEvents(Paid):
    unit = "event"

    def run_event(self, markets, contexts):
        return {market.market_id: ExperimentResult.binary(0.5, payload={"asked": len(markets)}) for market in markets}
'''


def invoke(*arguments: str) -> Result:
    environment = {"COLUMNS": "300"}
    return CliRunner().invoke(main, ["experiments", *arguments], prog_name="predictbench", env=environment)


@pytest.fixture
def folder(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of its own, called as the test is, and a staged day of eight markets."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SOME_API_KEY", KEY)
    name = module_name(own_environment)
    (own_environment / f"{name}.py").write_text(MODULE)
    (own_environment / "experiments.toml").write_text(
        f"[paid]\nkind = '{name}:Paid'\nlimits = {{markets = 6, usd_per_day = 2}}\n"
        f"[after]\nkind = '{name}:After'\nshards = 3\n[for_events]\nkind = '{name}:ForEvents'\ncents = 0\n"
    )
    stage([make_market(str(1000 + n), core=n < 4, event_id="e" if n in (0, 6, 7) else None) for n in range(8)])
    return own_environment


def module_name(folder: Path) -> str:
    return "module_of_" + re.sub(r"\W", "_", folder.name)


def stage(markets: list[Market]) -> None:
    header = CohortHeader(
        snapshot_hash="0" * 64,
        captured_at=CAPTURED_AT,
        limit=None,
        offered=len(markets),
        excluded={},
        rejected=0,
        markets=len(markets),
        contracts=2 * len(markets),
        core=sum(market.core for market in markets),
        clusters=len(markets),
        price_quality={},
        price_source={},
        category={},
    )
    lines = [b'{"market":' + market.model_dump_json().encode() + b"}" for market in markets]
    area = StagingArea(load_settings().staging)
    for day in ("2026-03-01", "2026-03-02"):
        area.publish(f"normalized_markets/{day}/7.jsonl.zst", COHORT, header, lines)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in str(file)
    }


def test_the_listing_tells_kind_model_limits_and_cost(folder: Path) -> None:
    rows = {row["name"]: row for row in json.loads(invoke("--json").output)}
    paid = rows["paid"]
    assert paid["kind"] == f"{module_name(folder)}:Paid"
    assert paid["model"] == "openai:some-model"
    assert paid["limits"] == {"usd_per_day": "2", "markets": 6}
    assert paid["estimated_usd"] == {
        "core": {"expected": "0.04", "at_most": "0.12"},
        "day": {"expected": "0.06", "at_most": "0.18"},  # of 6 markets, its limit
    }
    assert (rows["after"]["shards"], paid["shards"]) == (3, 1)
    assert "3 shards" in invoke().output
    assert rows["uniform"]["kind"] == "code"
    assert rows["uniform"]["estimated_usd"] == {"core": None, "day": None}
    lines = invoke().output.splitlines()
    line = next(line for line in lines if line.startswith("paid 1"))
    assert "openai:some-model" in line
    assert "$2.00 a day, 6 markets" in line
    assert re.search(r"\$0\.040 \(at most \$0\.120\)\s+\$0\.060 \(at most \$0\.180\)", line)
    assert next(line for line in lines if line.startswith("for_events 1")).count(" free ") == 2
    assert re.search(r" -\s+-\s+The same probability", next(line for line in lines if line.startswith("uniform 1")))
    assert lines[-1] == "core and day: estimated for the 8 markets of 2026-03-02|7"


def test_without_a_declared_experiment_the_listing_is_short(own_environment: Path) -> None:
    assert invoke().output.splitlines()[0].split() == ["experiment", "information", "needs", "description"]


def test_a_try_shows_everything_and_keeps_nothing(folder: Path) -> None:
    before = everything_in(folder)
    done = invoke("try", "paid", "--market", "1000")
    assert done.exit_code == 0, done.output
    lines = [line.strip() for line in done.output.splitlines()]
    assert lines[:3] == [
        "Will thing 1000 happen?",
        "market     1000, other, of the core",
        "price      0.620 (not shown to it)",
    ]
    assert lines[3].startswith("forecast   0.250 in ")
    assert lines[4:8] == [
        "took       1 requests, 1,200 tokens in, 50 tokens out, 0.01 USD, by some-model-1",
        r"rationale  Because \x1b[31m of it.",
        'seen       ["1006", "1007"]',
        "artifact   said: 25 % with ***",
    ]
    assert lines[-1] == "1 completed of 2026-03-02|7, 0.01 USD; no forecast was stored."
    assert everything_in(folder) == before


def test_a_try_tells_skips_and_failures_with_their_place(folder: Path) -> None:
    said = invoke("try", "paid", "--limit", "4", "--run-date", "2026-03-01").output
    assert "forecast   none, skipped: too hard" in said
    number = 1 + next(n for n, line in enumerate(MODULE.splitlines()) if "ZeroDivisionError" in line)
    place = f"({module_name(folder)}.py:{number} in run)"
    assert f"forecast   none, failed: ZeroDivisionError: no *** {place}" in said
    assert KEY not in said
    assert "2 completed, 1 skipped, 1 failed of 2026-03-01|7, 0.02 USD; no forecast was stored." in said
    failed = invoke("try", "paid", "--market", "0x1003", "--json")
    assert failed.exit_code == 1
    assert [one["status"] for one in json.loads(failed.output)] == ["failed"]


def test_what_it_requires_is_asked_too_where_none_is_staged(folder: Path) -> None:
    done = invoke("try", "after", "--market", "1001")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].endswith("no forecast was stored. Asked as well: paid.")


def test_an_event_is_tried_as_a_whole(folder: Path) -> None:
    tried = json.loads(invoke("try", "for_events", "--market", "1007", "--json").output)
    assert sorted(one["market_id"] for one in tried) == ["1000", "1006", "1007"]
    assert [one["shown"] for one in tried] == [[["asked", "3"]]] * 3


def test_what_cannot_be_tried_says_what_helps(folder: Path) -> None:
    assert "no market '77' among the 8 of 2026-03-02|7" in invoke("try", "paid", "--market", "77").output
    assert "Did you mean 'paid'?" in invoke("try", "piad").output
    done = invoke("try", "paid", "--window-days", "1")
    assert done.exit_code == 1
    assert "`predictbench daily --window-days 1 --experiment baseline_snapshot`" in done.output
    assert "2026-02-27 is not staged" in invoke("try", "paid", "--run-date", "2026-02-27").output


def test_a_new_class_passes_its_test_and_is_declared_as_told(own_environment: Path) -> None:
    name = "begun_" + re.sub(r"\W", "_", own_environment.name)
    done = invoke("new", name)
    assert done.exit_code == 0, done.output
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(own_environment)},
    )
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout
    table = next(part for part in done.output.split("\n\n") if part.startswith("["))
    (own_environment / "experiments.toml").write_text(table)
    stage([make_market("1")])
    tried = json.loads(invoke("try", name, "--json").output)
    assert [one["probability"] for one in tried] == [0.62]


def test_a_new_one_overwrites_nothing(own_environment: Path) -> None:
    (own_environment / "test_mine.py").write_text("mine")
    done = invoke("new", "mine")
    assert done.exit_code == 1
    assert "test_mine.py is there already" in done.output
    assert [file.name for file in own_environment.iterdir()] == ["test_mine.py"]


@pytest.mark.parametrize("name", ["json", "numpy", "Mine", "class", "my-model", "x" * 49])
def test_a_name_that_would_not_work_is_refused(own_environment: Path, name: str) -> None:
    done = invoke("new", name)
    assert done.exit_code != 0
    assert "name" in done.output
    assert list(own_environment.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_table_goes_to_the_end_of_the_file(own_environment: Path, kind: str) -> None:
    file = own_environment / "experiments.toml"
    file.write_text("# mine\n[first]\nkind = 'a:B'")
    done = invoke("new", "second", "--kind", kind)
    assert done.exit_code == 0, done.output
    text = file.read_text()
    assert text.startswith("# mine\n[first]\nkind = 'a:B'\n\n[second]\n")
    assert tomllib.loads(text)["second"]["kind"] == kind
    again = invoke("new", "second", "--kind", kind)
    assert again.exit_code == 1
    assert "has a table [second] already" in again.output
    assert file.read_text() == text


def test_a_table_is_not_added_to_a_file_with_mistakes(own_environment: Path) -> None:
    (own_environment / "experiments.toml").write_text("[a]\nkind =")
    done = invoke("new", "second", "--kind", "language_model")
    assert done.exit_code == 1
    assert "experiments.toml:2" in done.output
