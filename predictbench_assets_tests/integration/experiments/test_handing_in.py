"""A day's questions go out, forecasts come back as files, and each author is on the board under its own name."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import main
from predictbench_assets.database.engine import make_engine
from predictbench_assets.retention.staged_files import prune_journals, prune_staged
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, DailyRun, MakeRun
from predictbench_assets_tests.kit.places import CLONE

LISTED = f"{BASELINE},predictbench_assets_tests.integration.experiments.handed_in:two_forecasters"
RECEIVED = NOW + timedelta(hours=2)
STORED = NOW + timedelta(hours=30)
"""Long after the deadline: what counts is the receipt."""
DAY = ["--run-date", str(KEY.run_date), "--window-days", str(KEY.window_days)]

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def ran(make_run: MakeRun) -> DailyRun:
    """A day that was run before anything was handed in."""
    daily = make_run(PROCESSING_EXPERIMENTS=LISTED)
    assert daily.here().exit_code == 0
    return daily


@pytest.fixture
def command(ran: DailyRun) -> Command:
    """`predictbench` with the settings of the run, two hours after the freeze."""

    def call(*arguments: str | Path, **variables: str) -> Result:
        given = {"PREDICTBENCH_NOW": RECEIVED.isoformat()} | variables
        environment = dict.fromkeys(all_variables()) | ran.environment(ran.folder / "summary.json", given)
        return CliRunner(env=environment).invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def markets(ran: DailyRun) -> list[tuple[str, str]]:
    """Ids and condition ids."""
    return [
        (str(one), str(other))
        for one, other in ran.rows(
            "SELECT market_id, condition_id FROM predictbench.processed_markets ORDER BY market_id"
        )
    ]


def the_receipt(folder: Path) -> Path:
    [found] = folder.glob("*.receipt.json")
    return found


def forecasts_of(daily: DailyRun, name: str) -> list[tuple[Any, ...]]:
    return daily.rows(
        "SELECT market_id, probability, forecast_at, payload FROM predictbench.latest_experiment_results"
        " JOIN predictbench.experiment_results USING (experiment_result_id, probability, forecast_at, status)"
        " WHERE experiment = %s AND status = 'completed' ORDER BY market_id",
        name,
    )


def test_from_the_question_set_to_the_rows_of_the_board(ran: DailyRun, command: Command, tmp_path: Path) -> None:
    exported = command("export", "--format", "forecastbench", *DAY, "--blind", "--to", tmp_path / "out")
    assert exported.exit_code == 0, exported.output
    assert "answers are taken until 2026-03-03T07:00:00Z" in exported.output
    questions = json.loads((tmp_path / "out" / "2026-03-02_w7-blind.json").read_text())
    answer = {
        "organization": "Hermits",
        "model": "h-1",
        "model_organization": "Hermits",
        "question_set": questions["question_set"],
        "forecasts": [
            {"id": one["id"], "source": one["source"], "forecast": 0.25, "resolution_date": None, "reasoning": "<i>"}
            for one in questions["questions"]
        ],
    }
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer))

    checked = command("submit", file, "--as", "hermit", "--dry-run")
    assert checked.exit_code == 0, checked.output
    assert "40 forecasts of 40 markets, 0 without one" in checked.output
    assert not ran.staging.list("submissions")
    received = command("submit", file, "--as", "hermit")
    assert received.exit_code == 0, received.output
    assert "received 2026-03-02T09:00:00Z for hermit, 2026-03-02 window 7" in received.output
    assert "predictbench daily --run-date 2026-03-02 --window-days 7 --experiment hermit" in received.output
    receipt = json.loads(the_receipt(tmp_path).read_text())
    [stored] = ran.staging.list("submissions")
    assert stored == receipt["submission"]
    assert hashlib.sha256(ran.staging.read_bytes(stored)).hexdigest() == receipt["seal"]
    assert receipt["seal"] in received.output

    assert forecasts_of(ran, "hermit") == []
    again = ran.here(PREDICTBENCH_NOW=STORED.isoformat())
    assert again.exit_code == 0
    rows = forecasts_of(ran, "hermit")
    assert len(rows) == 40
    assert {(probability, at) for _, probability, at, _ in rows} == {(0.25, RECEIVED)}
    assert rows[0][3] == {"submission": receipt["seal"], "rationale": "<i>"}
    assert forecasts_of(ran, "crowd") == []
    assert again.said["experiments"]["crowd"]["skipped"] == 40

    verified = command("submit", "--verify", the_receipt(tmp_path), file)
    assert (verified.exit_code, "is the one that was sealed" in verified.output) == (0, True)
    file.write_text("other")
    verified = command("submit", "--verify", the_receipt(tmp_path), file, "--json")
    assert verified.exit_code == 1
    assert json.loads(verified.output)["problems"] == ["the file is not the one that was handed in"]


def test_a_newer_file_replaces_the_one_before(
    make_run: MakeRun, markets: list[tuple[str, str]], tmp_path: Path
) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=LISTED)
    daily.here()

    def hand_in(probability: float, hours: int) -> Result:
        file = tmp_path / "f.csv"
        file.write_text("market_id,probability\n" + "".join(f"{one},{probability}\n" for one, _ in markets))
        given = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=hours)).isoformat()}
        environment = dict.fromkeys(all_variables()) | daily.environment(tmp_path / "summary.json", given)
        arguments = ["submit", str(file), "--as", "crowd", *DAY, "--json"]
        return CliRunner(env=environment).invoke(main, arguments)

    first = json.loads(hand_in(0.1, 1).output)
    daily.here(PREDICTBENCH_NOW=STORED.isoformat())
    assert {row[1:3] for row in forecasts_of(daily, "crowd")} == {(0.1, NOW + timedelta(hours=1))}
    second = json.loads(hand_in(0.9, 3).output)
    assert (first["replaces"], second["replaces"]) == (None, first["seal"])
    daily.here(PREDICTBENCH_NOW=STORED.isoformat())
    assert {row[1:3] for row in forecasts_of(daily, "crowd")} == {(0.9, NOW + timedelta(hours=3))}
    assert "set the clock" in hand_in(0.5, 2).output
    late = hand_in(0.5, 25)
    assert late.exit_code == 1
    assert "too late: forecasts of 2026-03-02|7 were taken until 2026-03-03T07:00:00Z" in late.output
    assert hand_in(0.5, 24).exit_code == 0

    engine, kept = make_engine(daily.database_url, pool_size=0), daily.staging.list("submissions")
    for prune in (prune_staged, prune_journals):
        prune(engine, daily.staging, now=NOW + timedelta(days=400), days=1)
    assert not daily.staging.list("normalized_markets")
    assert daily.staging.list("submissions") == kept
    assert len(kept) == 3


def test_a_bad_line_refuses_the_file_unless_the_others_are_asked_for(
    ran: DailyRun, command: Command, markets: list[tuple[str, str]], tmp_path: Path
) -> None:
    before = ran.staging.list("submissions")
    file = tmp_path / "f.jsonl"
    lines = [
        {"condition_id": markets[0][1], "probability": 0.5, "why": "x"},
        {"market_id": "1\x1b[2J", "probability": 0.5},
        {"market_id": markets[1][0], "probability": 62},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    refused = command("submit", file, "--as", "crowd", *DAY)
    assert refused.exit_code == 1
    assert "\x1b" not in refused.output
    assert r"line 2: '1\x1b[2J' is no market of the cohort" in refused.output
    assert "line 3: its probability is 62, not in [0, 1]" in refused.output
    assert "not read: 1 columns or keys that mean nothing here (why)" in refused.output
    assert "refused: 2 of its 3 lines cannot be taken" in refused.output
    assert ran.staging.list("submissions") == before

    (tmp_path / "elsewhere").mkdir()
    taken = command("submit", file, "--as", "crowd", *DAY, "--partial", "--receipt", tmp_path / "elsewhere")
    assert taken.exit_code == 0
    assert "1 forecasts of 40 markets, 39 without one, 2 lines left out" in taken.output
    assert json.loads(the_receipt(tmp_path / "elsewhere").read_text())["left_out"] == 2


@pytest.mark.long
def test_one_command_puts_a_file_on_the_board(
    ran: DailyRun, command: Command, markets: list[tuple[str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "f.csv"
    file.write_text(f"market_id,probability\n{markets[-1][0]},0.75\n")
    done = command("submit", file, "--as", "crowd", *DAY, "--store", PYTHONPATH=str(CLONE))
    assert done.exit_code == 0, done.output
    assert (markets[-1][0], 0.75, RECEIVED) in [row[:3] for row in forecasts_of(ran, "crowd")]


def test_a_receipt_that_cannot_be_written_is_printed(
    command: Command, markets: list[tuple[str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "f.csv"
    file.write_text(f"market_id,probability\n{markets[0][0]},0.5\n")
    done = command("submit", file, "--as", "crowd", *DAY, "--receipt", tmp_path / "none")
    assert done.exit_code == 0
    assert "its receipt cannot be written" in done.output
    assert re.search('"seal": "[0-9a-f]{64}"', done.output)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name the FILE of forecasts"),
        (["f.csv", "--dry-run", "--store"], 2, "exclude each other"),
        (["f.csv", "--json", "--store"], 2, "leave --store out"),
        (["f.csv", "--verify", "r.json", "--as", "crowd"], 2, "leave out all but FILE"),
        (["--verify", "none.json"], 1, "none.json is no receipt"),
        (["--verify", "f.csv"], 1, "f.csv is no receipt"),
        (["f.csv"], 1, "say by --as who forecasts: one of crowd, hermit"),
        (["f.csv", "--as", "nobody"], 1, 'to experiments.toml a table [nobody] with the line kind = "file"'),
        (["f.csv", "--as", "x\u200by\u202e"], 1, r"no experiment is named 'x\u200by\u202e'"),
        (["f.csv", "--as", "baseline_snapshot"], 1, "baseline_snapshot is an experiment that takes no files"),
        (["f.csv", "--as", " crowd "], 1, "the markets of 2026-03-02|1 are not frozen yet"),
        (["f.csv", "--as", "crowd", "--window-days", "8"], 1, "the markets of 2026-03-02|8 are not frozen yet"),
        (["f.csv", "--as", "crowd", "--window-days", "400"], 2, "not in the grid"),
        (["f.json", "--as", "crowd", "--run-date", "2026-03-01"], 1, "but the file answers to 2026-03-02_w7.json"),
        (["f.json", "--as", "crowd", "--window-days", "1"], 1, "but the file answers to 2026-03-02_w7.json"),
        (["f.json", "--as", "crowd"], 1, "not one of its 1 lines can be taken"),
    ],
)
def test_what_is_refused_says_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.csv").write_text("market_id,probability\n1,0.5\n")
    stated = dict.fromkeys(("organization", "model", "model_organization"), "x") | {
        "question_set": "2026-03-02_w7.json"
    }
    Path("f.json").write_text(json.dumps(stated | {"forecasts": [{}]}))
    done = command("submit", *arguments, TARGET_CLOSE_WINDOW_DAYS="1")
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert "Traceback" not in done.output


def test_a_clock_before_the_freeze_is_told(command: Command, markets: list[tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text(f"market_id,probability\n{markets[0][0]},0.5\n")
    early = (NOW - timedelta(hours=1)).isoformat()
    done = command("submit", file, "--as", "crowd", *DAY, PREDICTBENCH_NOW=early)
    assert (done.exit_code, "set the clock" in done.output) == (1, True)
