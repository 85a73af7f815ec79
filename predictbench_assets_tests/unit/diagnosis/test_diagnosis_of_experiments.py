"""What doctor says of experiments: those that cannot run together, and what each needs from outside."""

from pathlib import Path

import pytest

from predictbench_assets.diagnosis.checks import Finding
from predictbench_assets.diagnosis.experiments import experiment_findings
from predictbench_assets.experiments import Experiment, ExperimentResult, Market, PipelineContext
from predictbench_assets.experiments.registry import RegistryError
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.settings import Settings, load_settings

NOBODY = "http://127.0.0.1:9/v1"
MODEL = '[{}]\nkind = "language_model"\noutput = "tool"\nmodel = "{}"\n'


def found(folder: Path, text: str, **variables: str) -> dict[str, Finding]:
    """The findings by the experiment's name."""
    (folder / "experiments.toml").write_text(text)
    told = list(experiment_findings(load_settings(experiments_file=folder / "experiments.toml", **variables)))
    by_name = {one.name.removeprefix("experiment "): one for one in told}
    assert len(by_name) == len(told), "an experiment's trouble is one finding"
    return by_name


def test_experiments_are_named_or_refused() -> None:
    [finding] = experiment_findings(Settings())
    assert "baseline_snapshot" in finding.found
    with pytest.raises(RegistryError, match="PROCESSING_EXPERIMENTS"):
        list(experiment_findings(Settings(processing_experiments=("no.such:Thing",))))


def test_what_a_model_needs_is_looked_at_and_nothing_is_paid(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2-hunter2")
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodel = "openai:priced"\nbase_url = "*"\ninput = 1\n')
    monkeypatch.setenv("MODEL_PRICES_FILE", str(prices))
    here, away = f'base_url = "{stand_in.base_url}"\n', f'base_url = "{NOBODY}"\n'
    told = found(
        tmp_path,
        MODEL.format("good", "openai:priced")
        + here
        + MODEL.format("unpriced", "openai:mine")
        + here
        + MODEL.format("away", "openai:priced")
        + away
        + MODEL.format("public", "openai:gpt-5-mini")
        + MODEL.format("keyless", "anthropic:claude-sonnet-4-5")
        + MODEL.format("gone", "nobody:gpt"),
    )
    assert {name: one.level for name, one in told.items()} == {
        "experiments": "ok",
        "good": "ok",
        "unpriced": "warn",
        "away": "fail",
        "public": "ok",
        "keyless": "fail",
        "gone": "fail",
    }
    assert f"{stand_in.base_url} answers" in told["good"].found
    assert f"no price is known of openai:mine at {stand_in.base_url}" in told["unpriced"].found
    assert "MODEL_PRICES_FILE" in told["unpriced"].fix
    assert told["away"].found.startswith(f"{NOBODY} does not answer")
    assert "base_url" in told["away"].fix
    assert "OPENAI_API_KEY is set; its price is that of genai-prices" in told["public"].found
    assert (told["keyless"].found.split()[0], told["keyless"].fix) == ("ANTHROPIC_API_KEY", "set ANTHROPIC_API_KEY")
    assert "'nobody'" in told["gone"].found
    assert "nobody:gpt" in told["gone"].fix
    assert "hunter2" not in str(told)
    assert set(stand_in.counts["by_route"]) == {"GET /"}


def test_a_mistaken_table_is_one_finding_and_hides_no_other(tmp_path: Path) -> None:
    text = MODEL.format("dear", "openai:mine") + "[dear.limits]\nusd_per_day = 1.0\n"
    text += MODEL.format("keyless", "openai:gpt-5-mini")
    told = found(tmp_path, text)
    assert told["experiments"].level == told["keyless"].level == "fail"
    assert "experiments.toml:1: [dear] no price is known" in told["experiments"].found
    assert "MODEL_PRICES_FILE" in told["experiments"].found
    assert "OPENAI_API_KEY" in told["keyless"].found


class Odd(Experiment):
    """A stranger's class, with a name for another thing."""

    name, version, description = "odd", "1", "Says one half."
    prerequisites = 3  # type: ignore[assignment]

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(0.5)


def test_a_strangers_class_breaks_no_check(tmp_path: Path) -> None:
    told = found(tmp_path, f'[odd]\nkind = "{__name__}:Odd"\n[news]\nkind = "research"\nservice = "exa"\n')
    assert (told["odd"].level, told["news"].level) == ("warn", "fail")
    assert "TypeError" in told["odd"].found


def test_services_forecasters_and_the_inbox_are_looked_at(tmp_path: Path, stand_in: StandIn) -> None:
    http = '[{}]\nkind = "http"\nurl = "{}"\n'
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "submissions").write_text("no folder")
    told = found(
        tmp_path,
        '[news]\nkind = "research"\nservice = "exa"\nusd_per_search = 0.01\n'
        f'[mirror]\nkind = "research"\nservice = "tavily"\nusd_per_search = 0.01\nbase_url = "{stand_in.url}"\n'
        + http.format("private", "https://localhost:9/f?key=hunter2")
        + http.format("here", f"{stand_in.url}/f")
        + 'allow_private = true\nheader = "Authorization"\nsecret = "CROWD_TOKEN"\n'
        + '[crowd]\nkind = "file"\n',
        staging_uri=str(staging),
    )
    assert [told[name].level for name in ("news", "mirror", "private", "here", "crowd")] == [
        "fail",
        "ok",
        "fail",
        "fail",
        "fail",
    ]
    assert "EXA_API_KEY" in told["news"].fix
    assert f"{stand_in.url} answers" in told["mirror"].found
    assert "is an address of this machine" in told["private"].found
    assert "allow_private" in told["private"].fix
    assert told["here"].found == "CROWD_TOKEN is not set"
    assert "submissions cannot be read" in told["crowd"].found
    assert "STAGING_URI" in told["crowd"].fix
    assert "hunter2" not in str(told)
