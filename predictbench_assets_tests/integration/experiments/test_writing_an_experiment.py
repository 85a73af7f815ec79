"""The guide's code is run as a reader would run it."""

import importlib
import json
import re
import shlex
import sys
import threading
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from sqlalchemy import Engine, text

from predictbench_assets.cli.main import main
from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.registry import ENTRY_POINT_GROUP, Registry, load_registry
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import BASELINE, DEFAULT_EXPERIMENTS, load_settings
from predictbench_assets_tests.kit.places import CLONE

GUIDE = CLONE / "docs" / "writing-an-experiment.md"
README = CLONE / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def blocks(language: str, containing: str = "") -> list[str]:
    return [body for kind, body in BLOCKS if kind == language and containing in body]


@pytest.fixture
def my_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The reader's file, with all that the guide puts into it, in the reader's working directory."""
    files: dict[str, str] = {}
    for block in blocks("python"):
        first, _, rest = block.partition("\n")
        files[first.removeprefix("# ")] = files.get(first.removeprefix("# "), "") + rest
    assert set(files) == {"my_experiments.py", "test_my_experiments.py"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()
    load_registry(["my_experiments:Contrarian"], installed=())
    yield sys.modules["my_experiments"]
    for name in ("my_experiments", "test_my_experiments"):
        sys.modules.pop(name, None)


@pytest.fixture
def oracle() -> Iterator[str]:
    """A forecasting service on this machine; answers 503 to questions about the sea."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["question"]
            self.send_response(503 if "sea" in question else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"probability": 0.7, "rationale": question}).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/forecast"
        server.shutdown()
        thread.join()


def run(experiment: Experiment, markets: list[Market]) -> list[Outcome]:
    return run_experiment_sync(
        experiment,
        markets,
        run=make_run(),
        clock=FixedClock(CAPTURED_AT),
        artifacts=lambda path, content: f"memory:{path}",
    )


@pytest.mark.usefixtures("my_experiments")
def test_the_setting_of_the_guide_loads_its_experiment() -> None:
    (line,) = [body.strip() for body in blocks("bash", "PROCESSING_EXPERIMENTS=")]
    registry = load_registry(line.removeprefix("PROCESSING_EXPERIMENTS=").split(","), installed=())
    assert registry.names == ("baseline_snapshot", "uniform", "contrarian")
    skipped, forecast = run(
        registry["contrarian"], [make_market("1", outcomes=("a", "b", "c")), make_market("2", price=0.5)]
    )
    assert (skipped.status, skipped.reason) == ("skipped", "only two-outcome markets with a price")
    assert (forecast.probability, forecast.payload) == (0.5, {"price_seen": 0.5})


@pytest.mark.usefixtures("my_experiments")
def test_the_table_of_the_guide_declares_its_experiment() -> None:
    (table,) = blocks("toml", "kind = ")
    Path("experiments.toml").write_text(table)
    slow = registry_of(load_settings(processing_experiments=(BASELINE,)))["contrarian_slow"]
    assert (slow.version, slow.max_markets, slow.max_concurrency, slow.timeout_seconds) == ("1", 300, 4, 30)


def test_the_class_of_the_readme_forecasts() -> None:
    (block,) = re.findall(r"^```python\n(.*?^class .*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    forecast, skipped = run(names["Contrarian"](), [make_market("1", price=1.0), make_market("2", price=None)])
    assert (forecast.probability, skipped.reason) == (0.9, "no price to move")


def test_the_entry_point_of_the_guide_is_of_the_right_group() -> None:
    (block,) = blocks("toml", "entry-points")
    assert tomllib.loads(block) == {
        "project": {"entry-points": {ENTRY_POINT_GROUP: {"contrarian": "my_package.my_experiments:Contrarian"}}}
    }


def test_the_api_example_forecasts_and_tells_what_may_pass(my_experiments: ModuleType, oracle: str) -> None:
    experiment = type("Local", (my_experiments.AskTheOracle,), {"url": oracle})()
    answered, busy = run(experiment, [make_market("1"), make_market("2", question="Will the sea rise?")])
    assert (answered.probability, answered.payload) == (0.7, {"rationale": "Will thing 1 happen?"})
    assert answered.artifact_uri == f"memory:oracle/1/{sha256(b'1').hexdigest()[:32]}/answer.json"
    assert (busy.status, busy.reason, busy.retriable) == ("failed", "RetriableError: the oracle answered 503", True)


def test_an_oracle_that_is_away_may_come_back(my_experiments: ModuleType) -> None:
    experiment = type("Gone", (my_experiments.AskTheOracle,), {"url": "http://127.0.0.1:9/"})()
    (outcome,) = run(experiment, [make_market()])
    assert (outcome.reason, outcome.retriable) == ("RetriableError: the oracle is away: ConnectError", True)


def test_a_coroutine_is_called_as_the_guide_says(
    my_experiments: ModuleType, oracle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(my_experiments.AskTheOracle, "url", oracle)
    importlib.import_module("test_my_experiments").test_the_oracle_answers()


def test_the_function_of_the_guide_makes_several(my_experiments: ModuleType) -> None:
    registry = load_registry(["my_experiments:tempered"], installed=())
    assert registry.names == ("baseline_snapshot", "tempered_60", "tempered_80", "tempered_90")
    (forecast,) = run(registry["tempered_60"], [make_market("1", price=1.0)])
    assert forecast.probability == pytest.approx(0.8)


def test_the_pools_of_the_guide_load_beside_the_defaults(my_experiments: ModuleType) -> None:
    pools = my_experiments.pools()
    assert [(one.name, one.requires) for one in pools] == [
        ("ensemble", ("favourite_longshot", "recalibrated_market")),
        ("blend", ("baseline_snapshot", "favourite_longshot")),
    ]
    assert len(Registry([*load_registry(installed=()), *pools])) == len(DEFAULT_EXPERIMENTS) + 2


def test_the_event_example_shares_an_event_out(my_experiments: ModuleType) -> None:
    markets = [make_market(str(number), event_id="e", neg_risk=True) for number in range(4)]
    outcomes = run(my_experiments.EqualShares(), [*markets, make_market("alone")])
    assert [outcome.probability for outcome in outcomes] == [0.25, 0.25, 0.25, 0.25, None]


@pytest.mark.usefixtures("my_experiments")
def test_the_test_of_the_guide_passes() -> None:
    importlib.import_module("test_my_experiments").test_contrarian_moves_towards_even()


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash") for line in block.splitlines() if line.startswith("predictbench ")]
)
def test_the_commands_of_the_guide_exist_with_these_options(line: str) -> None:
    _, *arguments = shlex.split(line)
    command: click.Command = main
    while isinstance(command, click.Group) and (arguments or not command.invoke_without_command):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None
        command = found
    command.make_context("predictbench", arguments).close()


def test_the_query_of_the_guide_runs(engine: Engine) -> None:
    command, _ = blocks("bash", "db sql")
    (query,) = re.findall(r'"(select .*)"', command)
    with engine.connect() as connection:
        columns = connection.execute(text(query)).keys()
    assert list(columns) == ["market_id", "status", "probability", "reason"]
