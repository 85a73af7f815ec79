"""`predictbench cost`: each dollar by experiment and day, settled and reserved apart, and what is left of today."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from predictbench_assets.cli.main import main
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW
from predictbench_assets_tests.kit.planted_calls import pay

Predictbench = Callable[..., Result]

EARLIER = RunKey(date(2026, 2, 1), 7)
DECLARED = """\
[mini]
kind = "predictbench_assets.experiments.builtin.controls:UniformExperiment"
[mini.limits]
usd_per_day = 0.20
"""


@pytest.fixture
def predictbench(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Predictbench:
    """The command in this process, an hour after the run, in a folder of its own."""
    for name, value in (
        ("DATABASE_URL", database_url),
        ("PREDICTBENCH_NOW", (NOW + timedelta(hours=1)).isoformat()),
        ("PREDICTBENCH_ENV_FILE", ""),
        ("COLUMNS", "160"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="predictbench")


def told(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_empty_database_says_so(predictbench: Predictbench) -> None:
    done = predictbench("cost")
    assert done.exit_code == 0, done.output
    assert "Since 2026-01-03 no paid call is stored" in done.stdout
    assert told(predictbench("cost", "--json"))["days"] == []


def test_dollars_calls_and_tokens_by_day_and_in_all(predictbench: Predictbench, engine: Engine) -> None:
    pay(engine, times=20, key=EARLIER, asked_at=NOW - timedelta(days=1))
    pay(engine, times=10)
    pay(engine, "refused", times=2)
    pay(engine, "failed", times=3)
    pay(engine, "unknown", times=2)
    pay(engine, times=1, experiment="other", cost=Decimal("0.0000012"))
    found = told(predictbench("cost", "--json"))
    # 12 x $0.005, and 2 x $0.02 reserved.
    today, other = (one for one in found["days"] if one["run_date"] == str(KEY.run_date))
    assert today == {
        "run_date": "2026-02-02",
        "experiment": "mini",
        "version": "1",
        "forecasts": 0,
        "requests": 17,
        "calls": {"answered": 10, "failed": 3, "refused": 2, "unknown": 2},
        "settled": {"USD": 0.06},
        "reserved_usd": 0.04,
        "unpriced": 0,
        "tokens": {"input": 12_000, "cached": 4_800, "output": 2_400, "reasoning": 600},
    }
    assert other["settled"] == {"USD": 0.0000012}
    assert [(one["experiment"], one["settled"]["USD"]) for one in found["experiments"]] == [
        ("mini", 0.16),
        ("other", 0.0000012),
    ]
    assert found["total"]["settled"] == {"USD": 0.1600012}
    assert found["total"]["reserved_usd"] == 0.04
    assert [one["experiment"] for one in told(predictbench("cost", "--experiment", "other", "--json"))["days"]] == [
        "other"
    ]
    assert len(told(predictbench("cost", "--since", "2026-02-02", "--json"))["days"]) == 2
    said = " ".join(predictbench("cost").stdout.split())
    for words in (
        "2026-02-01 mini 1 $0.10 20: answered 20 20,000 8,000 4,000 1,000",
        "2026-02-02 mini 1 $0.060 $0.040 17: answered 10, failed 3, refused 2, unknown 2 12,000 4,800 2,400 600",
        "other 1 $0.0000012 1: answered 1",
        "all $0.16 $0.040 38:",
    ):
        assert words in said, said


def test_todays_budgets_with_what_is_spent_of_them(
    predictbench: Predictbench, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("experiments.toml").write_text(DECLARED)
    monkeypatch.setenv("MODEL_USD_PER_DAY", "1.00")
    pay(engine, times=20, key=EARLIER, asked_at=NOW - timedelta(days=1))
    pay(engine, times=12)
    pay(engine, "unknown", times=2)
    pay(engine, times=20, experiment="other")
    # 12 x $0.005 and 2 x $0.02 of mini's $0.20, another $0.10 of the dollar of all; yesterday's are yesterday's.
    assert told(predictbench("cost", "--json"))["today"] == [
        {"experiment": "mini", "usd": 0.1, "limit": 0.2, "share": 0.5},
        {"experiment": None, "usd": 0.2, "limit": 1, "share": 0.2},
    ]
    said = " ".join(predictbench("cost").stdout.split())
    assert "mini $0.10 $0.20 50%" in said
    assert "all (MODEL_USD_PER_DAY) $0.20 $1.00 20%" in said


def test_experiments_that_cannot_be_loaded_hide_no_costs(predictbench: Predictbench, engine: Engine) -> None:
    Path("experiments.toml").write_text("[mini]\nkind = 'nothing_of_the_kind'\n")
    pay(engine)
    done = predictbench("cost")
    assert done.exit_code == 0, done.output
    assert "$0.0050" in done.stdout
    assert "Budgets of experiments are not known:" in done.stdout
    assert "nothing_of_the_kind" in done.stdout
