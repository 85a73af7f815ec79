"""What a person sees of models that are paid: the summary, the asset, the page and the command tell the same."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.database.engine import make_engine
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.sandbox.world import World
from predictbench_assets.site.build import write_report
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, MakeRun, Ran

MARKETS = 12
DECLARED = """\
[scribe]
kind = "language_model"
model = "openai:stand-in-scripts"
base_url = "{address}"
prices = "hidden"
samples = 2

[shy]
kind = "language_model"
model = "openai:stand-in-refusal"
base_url = "{address}"
prices = "hidden"
"""
PRICE = '[[price]]\nmodel = "openai:{}"\nbase_url = "{}"\ninput = 1\ncached_input = 0.1\noutput = 2\n'


@pytest.fixture(scope="module")
def daily(make_run: MakeRun, stand_in_server: StandIn, tmp_path_factory: pytest.TempPathFactory) -> DailyRun:
    """A day with a model that writes scripts, and one that refuses."""
    folder = tmp_path_factory.mktemp("declared")
    address = stand_in_server.base_url
    (folder / "experiments.toml").write_text(DECLARED.format(address=address))
    prices = "".join(PRICE.format(model, address) for model in ("stand-in-scripts", "stand-in-refusal"))
    (folder / "prices.toml").write_text(prices)
    return make_run(
        World(markets_per_day=MARKETS),
        PROCESSING_EXPERIMENTS=BASELINE,
        EXPERIMENTS_FILE=str(folder / "experiments.toml"),
        MODEL_PRICES_FILE=str(folder / "prices.toml"),
        OPENAI_API_KEY="sk-planted-key-of-the-tests",
    )


@pytest.fixture(scope="module")
def ran(daily: DailyRun) -> Ran:
    """Its run."""
    return daily.here()


def test_the_summary_the_asset_and_the_ledger_agree_on_calls_and_dollars(daily: DailyRun, ran: Ran) -> None:
    assert ran.exit_code == 0
    [(calls, cost)] = daily.rows(
        "SELECT count(*), sum(cost) FROM predictbench.model_calls WHERE experiment = 'scribe' AND status = 'answered'"
    )
    assert calls == 2 * MARKETS
    assert cost > 0
    paid = ran.said["experiments"]["scribe"]["paid"]
    assert (paid["calls"], paid["unknown"], paid["cost"]) == (calls, 0, {"USD": pytest.approx(float(cost))})
    shown = ran.metadata("experiment_results/scribe")
    assert (shown["calls"], shown["calls_by_status"]) == (calls, {"answered": calls})
    assert shown["cost_USD"] == pytest.approx(float(cost))
    assert 0 < shown["spread_of_samples"] <= shown["largest_spread_of_samples"] <= 0.5
    assert ran.metadata("experiment_results/shy")["calls_by_status"] == {"refused": MARKETS}
    assert ran.said["experiments"]["shy"]["paid"]["cost"]["USD"] > 0, "refusals are paid for"
    assert "paid" in ran.said["experiments"]["baseline_snapshot"]
    assert ran.said["experiments"]["baseline_snapshot"]["paid"] is None
    assert re.search(
        rf"Paid: scribe {calls} calls for \$0\.\d+; shy {MARKETS} calls for", ran.metadata("persisted_run")["summary"]
    )


def test_reasons_on_the_asset_are_words_and_no_markup(ran: Ran) -> None:
    shown = ran.metadata("experiment_results/scribe")["rationales"]
    assert len(shown.splitlines()) == 2 + 5
    assert "script" in shown
    assert "<" not in shown
    assert "rationales" not in ran.metadata("experiment_results/shy")


def test_the_page_has_their_reasons_and_the_command_their_costs(daily: DailyRun, ran: Ran, tmp_path: Path) -> None:
    assert ran.exit_code == 0
    engine = make_engine(daily.database_url)
    folder = write_report(engine, tmp_path / "page", now=NOW + timedelta(hours=1)).folder
    engine.dispose()
    pages = [path.read_text(encoding="utf-8") for path in (folder / "markets").iterdir()]
    assert pages
    for page in pages:
        assert page.count("Why <bdi>scribe</bdi> says so") == 1
        assert page.count("<script") == 1, "our own"
        assert "&lt;script" in page
    scribe = next((folder / "experiments").glob("scribe*")).read_text(encoding="utf-8")
    assert f'<th scope="row">answered</th><td class="n">{2 * MARKETS}</td>' in scribe
    done = CliRunner(env=daily.environment(tmp_path / "none", {})).invoke(main, ["cost", "--json"])
    assert done.exit_code == 0, done.output
    paid = ran.said["experiments"]["scribe"]["paid"]["cost"]["USD"]
    costs = {one["experiment"]: one for one in json.loads(done.stdout)["experiments"]}
    assert costs["scribe"]["forecasts"] == MARKETS
    assert costs["scribe"]["settled"] == {"USD": pytest.approx(paid)}
    assert (costs["shy"]["forecasts"], costs["shy"]["calls"]) == (0, {"refused": MARKETS})
