"""The examples are run as a newcomer runs them: the server, the package, the adapters."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import Experiment
from predictbench_assets.experiments.declared.file import read_declarations
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.registry import Registry, RegistryError, load_registry
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.places import CLONE

EXAMPLES = CLONE / "examples"
MARKETS = [
    make_market("1", question="Will it be done by May?", event_id="e"),
    make_market("2", question="Will it rain?", event_id="e"),
    make_market("3", outcomes=("Home", "Draw", "Away")),
]


def outcomes(experiment: Experiment, *markets: Market) -> list[Outcome]:
    """Outcomes of as many calls at once as the setting allows."""
    clock = FixedClock(CAPTURED_AT)
    return run_experiment_sync(experiment, markets or MARKETS, run=make_run(), clock=clock, max_concurrency=64)


def declared(file: Path) -> Registry:
    settings = load_settings(experiments_file=file)
    return load_registry([], installed=(), declared=read_declarations(settings))


@contextmanager
def example_server(**environment: str) -> Iterator[str]:
    """The server of the examples at a free port; its address."""
    command = [sys.executable, EXAMPLES / "http-forecaster" / "server.py", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def test_the_server_forecasts_by_the_lines_of_its_file(tmp_path: Path) -> None:
    lines = (EXAMPLES / "http-forecaster" / "experiments.toml").read_text()
    with example_server() as url:
        assert url.startswith("http://127.0.0.1:")
        (tmp_path / "experiments.toml").write_text(lines.replace("http://127.0.0.1:8123/forecast", url))
        registry = declared(tmp_path / "experiments.toml")
        alone, whole = outcomes(registry["my_server"]), outcomes(registry["my_server_events"])
        many = outcomes(registry["my_server"], *(make_market(str(number)) for number in range(200)))
    assert [one.probability for one in alone] == pytest.approx([0.2, 0.5, 1 / 3])
    assert [one.probabilities for one in alone] == [one.probabilities for one in whole]
    assert {one.status for one in many} == {"completed"}
    assert alone[0].payload == {"rationale": "A deadline; most of them pass."}


def test_the_lines_for_a_server_with_a_secret_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, commented = (EXAMPLES / "http-forecaster" / "experiments.toml").read_text().partition("# [my_team]")
    lines = "".join(line.removeprefix("# ") for line in f"# [my_team]{commented}".splitlines(keepends=True))
    monkeypatch.setenv("MY_TEAM_TOKEN", "let-us-in-0123456789")
    with example_server(FORECASTER_TOKEN="let-us-in-0123456789") as url:
        here = lines.replace('"https://forecaster.example/forecast"', f'"{url}"\nallow_private = true')
        (tmp_path / "experiments.toml").write_text(here)
        (one,) = outcomes(declared(tmp_path / "experiments.toml")["my_team"], MARKETS[0])
        assert one.probability == 0.2
        monkeypatch.setenv("MY_TEAM_TOKEN", "another-0123456789")
        (one,) = outcomes(declared(tmp_path / "experiments.toml")["my_team"], MARKETS[0])
    assert "refuses the secret of MY_TEAM_TOKEN: it answered 401" in str(one.reason)


ASK = """
from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
one = load_registry([])["deadlines"]
markets = [make_market("1", question="Will it be done by May?"), make_market("2")]
found = run_experiment_sync(one, markets, run=make_run(), clock=FixedClock(CAPTURED_AT))
print([(outcome.status, outcome.probability) for outcome in found])
"""


def test_the_package_is_found_once_it_is_installed(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "package", tmp_path / "package")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(tmp_path / "installed"),
        str(tmp_path / "package"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'installed'}{os.pathsep}{CLONE}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stdout.strip() == "[('completed', 0.2), ('skipped', None)]", asked.stderr


@dataclass(frozen=True)
class Event:
    """An event as agents of the arena know it."""

    slug: str
    title: str
    category: str
    criteria: str
    close_at: Any
    outcomes: list[Any]
    crowd: Mapping[str, float]
    mutually_exclusive: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcomes", [SimpleNamespace(**one) for one in self.outcomes])


@dataclass
class Coin:
    """An agent of the arena: equal shares, with its hooks."""

    notes: list[str] = field(default_factory=list)

    def setup(self) -> None:
        self.notes.append("setup")

    def teardown(self) -> None:
        self.notes.append("teardown")

    def on_error(self, event: Event, error: Exception) -> None:
        self.notes.append(f"{event.title} {error}")

    def forecast(self, event: Event) -> Any:
        if "rain" in event.title:
            raise RuntimeError("no umbrella")
        shares = {one.name.upper(): 1 / len(event.outcomes) for one in event.outcomes}
        return SimpleNamespace(probabilities=shares, rationale=f"seen: {dict(event.crowd)}")


class Later:
    """An agent with a coroutine, whose answer is a plain dictionary; its shares of two outcomes do not sum to 1."""

    async def forecast_async(self, event: Event) -> dict[str, float]:
        return {one.name: 0.4 for one in event.outcomes}


@dataclass(frozen=True)
class Question:
    """A question as bots of Metaculus know it."""

    question_text: str
    background_info: str
    resolution_criteria: str
    fine_print: str
    close_time: Any
    scheduled_resolution_time: Any
    options: list[str] | None = None


@dataclass
class Bot:
    """A bot: a quarter for yes, and the first option of several."""

    publish_reports_to_metaculus: bool = False

    async def forecast_question(self, question: Question) -> Any:
        prediction: Any = 0.25
        if question.options:
            shares = [0.5, *([0.5 / (len(question.options) - 1)] * (len(question.options) - 1))]
            options = [
                SimpleNamespace(option_name=name, probability=share)
                for name, share in zip(question.options, shares, strict=True)
            ]
            prediction = SimpleNamespace(predicted_options=options)
        return SimpleNamespace(prediction=prediction, explanation="# Summary", price_estimate=0.05)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the adapters in it; what they adapt, and the packages that it is made of, can be imported."""
    for file in (EXAMPLES / "adapters").glob("*.py"):
        shutil.copy(file, tmp_path)
    modules: dict[str, dict[str, Any]] = {
        "arena": {"Event": Event},
        "my_agents": {"Coin": Coin, "Later": Later},
        "my_module": {"predict": lambda event: {"p_yes": 0.3, "rationale": f"of {event['title']}"}},
        "forecasting_tools": {"BinaryQuestion": Question, "MultipleChoiceQuestion": Question},
        "my_bots": {"make_bot": Bot, "loud": Bot(publish_reports_to_metaculus=True)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("prophet_agent", "metaculus_bot"):
        sys.modules.pop(name, None)


def of_lines(folder: Path, lines: str) -> Registry:
    (folder / "experiments.toml").write_text(lines)
    return declared(folder / "experiments.toml")


def test_the_lines_of_the_guide_declare_an_agent_and_a_bot(beside: Path) -> None:
    guide = (CLONE / "docs" / "writing-an-experiment.md").read_text()
    (lines,) = re.findall(r"^```toml\n(\[my_agent\]\n.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    assert {"my_agent", "my_bot"} < set(of_lines(beside, lines).names)


def test_an_agent_of_the_arena_is_an_experiment(beside: Path) -> None:
    lines = '[one]\nkind = "prophet_agent:ProphetAgent"\nagent = "my_agents:Coin"\nprices = true'
    one: Any = of_lines(beside, lines)["one"]
    done, failed, three = outcomes(one)
    assert done.probabilities == (0.5, 0.5)
    assert three.probabilities == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert done.payload == {"rationale": "seen: {'Yes': 0.62, 'No': 0.38}"}
    assert failed.reason == "RuntimeError: no umbrella"
    assert sorted(one._agent.notes) == ["Will it rain? no umbrella", "setup", "teardown"]


def test_an_agent_that_is_not_shown_prices_has_no_crowd(beside: Path) -> None:
    lines = '[one]\nkind = "prophet_agent:ProphetAgent"\nagent = "my_agents:Coin"'
    one = of_lines(beside, lines)["one"]
    assert one.information == "search_blind"
    assert outcomes(one)[0].payload == {"rationale": "seen: {}"}


def test_an_agent_with_a_coroutine_is_awaited_and_nothing_normalised(beside: Path) -> None:
    lines = '[one]\nkind = "prophet_agent:ProphetAgent"\nagent = "my_agents:Later"'
    (refused,) = outcomes(of_lines(beside, lines)["one"], MARKETS[0])
    assert "probabilities must sum to 1, these sum to 0.8" in str(refused.reason)


def test_a_module_with_predict_is_an_experiment(beside: Path) -> None:
    lines = '[one]\nkind = "prophet_agent:ProphetAgent"\nagent = "my_module"'
    done, _, three = outcomes(of_lines(beside, lines)["one"])
    assert (done.probability, done.payload) == (0.3, {"rationale": "of Will it be done by May?"})
    assert three.reason == "p_yes is of two outcomes"


def test_a_bot_of_metaculus_is_an_experiment(beside: Path) -> None:
    lines = '[one]\nkind = "metaculus_bot:MetaculusBot"\nbot = "my_bots:make_bot"\n[one.limits]\ntimeout_seconds = 30'
    one = of_lines(beside, lines)["one"]
    assert one.timeout_seconds == 30
    done, _, three = outcomes(one)
    assert (done.probability, three.probabilities) == (0.25, (0.5, 0.25, 0.25))
    assert done.payload == {"rationale": "# Summary"}
    assert done.usage is not None
    assert done.usage.cost == Decimal("0.05")


def test_a_bot_that_publishes_is_refused(beside: Path) -> None:
    lines = '[one]\nkind = "metaculus_bot:MetaculusBot"\nbot = "my_bots:loud"'
    with pytest.raises(RegistryError, match="make it with publish_reports_to_metaculus=False"):
        of_lines(beside, lines)
