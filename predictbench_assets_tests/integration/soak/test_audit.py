"""The audit of the soak names each kind of damage, and nothing where there is none."""

import ast
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.engine import make_url

from predictbench_assets.database.engine import make_engine
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.sandbox.poison import REJECTABLE
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets.settings import Settings
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, MakeRun
from predictbench_assets_tests.kit.places import CLONE
from soak.audit import Found, Ledger, Source, looked_through

UNIFORM = "predictbench_assets.experiments.builtin.controls:UniformExperiment"
END = NOW + timedelta(days=14)
TODAY = "daily 7"


@dataclass
class Lived:
    """A day that was run, swept and scored, and a ledger that is true of it."""

    connection: psycopg.Connection[dict[str, object]]
    ledger: Ledger

    def found(self, *damage: str, ledger: Callable[[Ledger], object] | None = None) -> Found:
        """What the audit finds after some damage, which is undone."""
        record = copy.deepcopy(self.ledger)
        if ledger is not None:
            ledger(record)
        try:
            for statement in damage:
                assert self.connection.execute(statement.encode()).rowcount != 0, "nothing was damaged"
            return looked_through(Source(self.connection, record))
        finally:
            self.connection.rollback()
            self.connection.execute("SET search_path = predictbench")

    def problems(self, *damage: str, ledger: Callable[[Ledger], object] | None = None) -> dict[str, list[str]]:
        """The problems by the check that found them."""
        found = self.found(*damage, ledger=ledger)
        return {check.name: check.problems for check in found.checks if check.problems}


@pytest.fixture(scope="module")
def world(make_run: MakeRun) -> Iterator[Lived]:
    daily = make_run(
        World(3, 40, poison=0.1, poisons=tuple(REJECTABLE)), PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}",
        MIN_VOLUME="500",
    )  # fmt: skip
    ledger = Ledger()
    app = daily.sandbox.app

    def offered() -> dict[str, dict[str, object]]:
        listed = app.view.exchange.listed(app.view.at, int(KEY.start.timestamp()), int(KEY.end.timestamp()) - 1)
        at = app.view.at
        return {
            one.market_id: {"volume": one.volume(at)} for one in listed if one.created <= at and not one.is_closed(at)
        }

    ledger.offered[str(KEY.run_date), 7, NOW] = [offered()]
    assert daily.here().exit_code == 0
    daily.sandbox.set_time(END)
    engine = make_engine(daily.database_url, pool_size=2)
    environment = daily.environment(Path("unused"), {"PREDICTBENCH_NOW": END.isoformat()})
    settings = Settings.model_validate({name.lower(): value for name, value in environment.items()})
    run_sweep(settings, engine)
    score_settled(engine, END)
    engine.dispose()
    address = make_url(daily.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, row_factory=dict_row, autocommit=False) as connection:
        connection.execute("SET search_path = predictbench")
        for row in connection.execute("SELECT market_id FROM processed_markets").fetchall():
            market = app.view.find(market_id=str(row["market_id"]))
            assert isinstance(market, Market)
            ledger.settled[market.market_id] = market.settlement.closed, market.settlement.payout[0]
        ledger.end = {"now": END.isoformat(), "days": 1, "windows": [7], "first": str(KEY.run_date), "min_volume": 500}
        ledger.commands = [_command(TODAY, number) for number in range(20)]
        ledger.days = [_day(number) for number in range(60)]
        ledger.model = {"requests": 0, "billed": 0, "distinct_prompts": 0, "billed_again": 0}
        connection.commit()
        yield Lived(connection, ledger)


def _command(name: str, number: int) -> dict[str, object]:
    now = NOW + timedelta(days=number)
    return {"name": name, "now": now.isoformat(), "code": 0, "seconds": 8.0, "peak_mb": 240.0, "files": 50,
            "hung": False, "struck": False, "tail": ""}  # fmt: skip


def _day(number: int) -> dict[str, object]:
    tables = {"experiment_results": {"live": 1000 * number, "dead": 10, "bytes": 300_000 * number}}
    return {"day": str(NOW.date() + timedelta(days=number)), "sessions": 0, "connections": 0, "temporary": [],
            "home_files": 100, "working_objects": 500, "dagster_runs": 30, "dagster_events": 3000,
            "tables": tables}  # fmt: skip


def test_a_day_as_it_should_be_has_no_problem_and_everything_was_looked_at(world: Lived) -> None:
    found = world.found()

    assert {check.name: check.problems for check in found.checks if check.problems} == {}
    assert found.passed
    looked_at = {check.name: check.looked_at for check in found.checks}
    assert looked_at.pop("nothing is paid for twice") == 0
    assert all(looked_at.values())
    facts = {name: value for check in found.checks for name, value in check.facts.items()}
    assert facts["rejected or failed"] > 0
    assert facts["excluded"] > 0


ONE_MARKET = "(SELECT min(market_id) FROM processed_markets)"
ONE_SCORE = "(SELECT experiment_result_id FROM experiment_scores WHERE edge <> 0 ORDER BY 1 LIMIT 1)"
A_CALL = """
    INSERT INTO model_calls (call_id, run_date, window_days, experiment, version, config_hash, snapshot_hash, unit,
        unit_id, sample, attempt, provider, model_asked, prompt_hash, status, asked_at, expires_at, owner)
    SELECT gen_random_uuid(), '2026-03-02', 7, 'asked', '1', 'c', 's', 'market', '1', 0, attempt, 'p', 'm', 'h',
        'answered', now(), now(), 'o' FROM generate_series(1, {0}) attempt"""

DAMAGES: list[tuple[str, str, list[str]]] = [
    ("is left running", "every day is stored, nothing is left running",
     ["UPDATE processing_attempts SET status = 'running'"]),
    ("is failed", "every day is stored, nothing is left running", ["UPDATE processing_runs SET status = 'failed'"]),
    ("is nowhere", "every market offered is in exactly one place",
     [f"DELETE FROM processed_markets WHERE market_id = {ONE_MARKET}"]),
    ("is nowhere", "every market offered is in exactly one place",
     ["DELETE FROM processing_failures WHERE market_id IS NOT NULL"]),
    ("was not offered", "every market offered is in exactly one place",
     [f"UPDATE processed_markets SET market_id = 'another' WHERE market_id = {ONE_MARKET}"]),
    ("is in 2 places", "every market offered is in exactly one place",
     [("INSERT INTO processing_failures (failure_id, run_id, attempt, market_id, stage, reason, retriable, logged_at)"
      f" SELECT gen_random_uuid(), run_id, attempt, {ONE_MARKET}, 'persisted_run', 'why', false, now()"
      " FROM processing_runs")]),
    ("without a reason", "every market offered is in exactly one place",
     ["UPDATE processing_failures SET reason = ''"]),
    ("are excluded by its counts", "every market offered is in exactly one place",
     ["UPDATE processing_runs SET excluded_by_reason = '{}'"]),
    ("offered are not", "counts add up",
     ["ALTER TABLE processing_runs DROP CONSTRAINT ck_processing_runs_counts_add_up",
      "UPDATE processing_runs SET offered_markets = offered_markets + 1"]),
    ("rejected by its row", "counts add up",
     ["UPDATE processing_runs SET rejected_markets = rejected_markets + 1, excluded_markets = excluded_markets - 1"]),
    ("completed by its row", "counts add up", ["UPDATE experiment_runs SET completed = completed - 1"]),
    ("results for", "counts add up", [f"DELETE FROM experiment_results WHERE experiment_result_id = {ONE_SCORE}"]),
    ("scores by scored_runs", "counts add up", ["UPDATE scored_runs SET scores = scores - 1"]),
    ("brier is", "every score recomputes",
     [f"UPDATE experiment_scores SET brier = brier + 1e-8 WHERE experiment_result_id = {ONE_SCORE}"]),
    ("log_loss is", "every score recomputes",
     [f"UPDATE experiment_scores SET log_loss = log_loss * 1.0001 WHERE experiment_result_id = {ONE_SCORE}"]),
    ("edge is", "every score recomputes",
     [f"UPDATE experiment_scores SET edge = -edge WHERE experiment_result_id = {ONE_SCORE}"]),
    ("disagreement is None", "every score recomputes",
     [f"UPDATE experiment_scores SET disagreement = NULL WHERE experiment_result_id = {ONE_SCORE}"]),
    ("settled and without a score", "every score recomputes",
     [f"DELETE FROM experiment_scores WHERE experiment_result_id = {ONE_SCORE}"]),
    ("another observation", "every score recomputes",
     [("INSERT INTO resolution_observations (market_id, observed_at, source, state, payout, outcome)"
      " SELECT market_id, observed_at + interval '1 hour', source, state, payout, 1 - outcome"
      " FROM resolution_observations WHERE state = 'final' LIMIT 1")]),
    ("scored and not settled", "every score recomputes",
     [("INSERT INTO resolution_observations (market_id, observed_at, source, state)"
      " SELECT market_id, observed_at + interval '1 hour', source, 'open'"
      " FROM resolution_observations WHERE state = 'final' LIMIT 1")]),
    ("is known to pay", "every settlement is known",
     ["UPDATE resolution_observations SET outcome = 1 - outcome WHERE outcome IN (0, 1)"]),
    ("does not hold", "every digest holds",
     [f"UPDATE experiment_results SET probability = probability * 0.999999 WHERE experiment_result_id = {ONE_SCORE}"]),
    ("is not kept", "every digest holds",
     ["UPDATE processing_runs SET summary = jsonb_set(summary, '{forecast_digest,digest}', '\"0\"')"]),
    ("has no digest", "every digest holds", ["DELETE FROM forecast_digests"]),
    ("made at", "no forecast after its market closed",
     [(f"UPDATE experiment_results r SET forecast_at = m.close_time FROM processed_markets m"
      f" WHERE r.processed_market_id = m.processed_market_id AND r.experiment_result_id = {ONE_SCORE}")]),
    ("2 answers were paid for", "nothing is paid for twice", [A_CALL.format(2)]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "check", "damage"), DAMAGES, ids=[words for words, *_ in DAMAGES])
def test_damage_to_the_tables_is_named(world: Lived, words: str, check: str, damage: list[str]) -> None:
    problems = world.problems(*damage)

    assert any(words in problem for problem in problems.get(check, [])), problems


def _last(ledger: Ledger, **facts: object) -> None:
    ledger.days[-1] |= facts


def _growing(name: str, by_day: float) -> Callable[[Ledger], None]:
    def grow(ledger: Ledger) -> None:
        for number, day in enumerate(ledger.days):
            day[name] += by_day * number

    return grow


def _memory(ledger: Ledger) -> None:
    for number, command in enumerate(ledger.commands):
        command["peak_mb"] += 10.0 * number


LIES: list[tuple[str, str, Callable[[Ledger], object]]] = [
    ("is absent", "every day is stored, nothing is left running", lambda ledger: ledger.end.update(windows=[1, 7])),
    ("nobody knows", "every market offered is in exactly one place", lambda ledger: ledger.offered.clear()),
    ("is open", "every settlement is known", lambda ledger: None),
    ("requests, 0 are written down", "nothing is paid for twice", lambda ledger: ledger.model.update(requests=3)),
    ("has answered 3 times", "nothing is paid for twice", lambda ledger: ledger.model.update(billed=3)),
    ("did not end", "each command went well in the end", lambda ledger: ledger.commands[3].update(hung=True)),
    ("ended with 1", "each command went well in the end", lambda ledger: ledger.commands[3].update(code=1)),
    ("peak_mb of daily 7", "nothing grows that should not", _memory),
    ("sessions were left", "nothing grows that should not", lambda ledger: _last(ledger, sessions=1)),
    ("connections were left", "nothing grows that should not", lambda ledger: _last(ledger, connections=2)),
    ("temporary files", "nothing grows that should not", lambda ledger: _last(ledger, temporary=["a", "b", "c"])),
    ("home_files grow", "nothing grows that should not", _growing("home_files", 8)),
    ("working_objects grow", "nothing grows that should not", _growing("working_objects", 1)),
    ("dagster_runs grow", "nothing grows that should not", _growing("dagster_runs", 1)),
    ("dagster_events grow", "nothing grows that should not", _growing("dagster_events", 30)),
    ("dead rows", "nothing grows that should not",
     lambda ledger: _last(ledger, tables={"scores_due": {"live": 0, "dead": 3000, "bytes": 1}})),
    ("bytes a row", "nothing grows that should not",
     lambda ledger: _last(ledger, tables={"experiment_results": {"live": 59_000, "dead": 0, "bytes": 59_000 * 500}})),
]  # fmt: skip


@pytest.mark.parametrize(("words", "check", "lie"), LIES, ids=[words for words, *_ in LIES])
def test_what_the_ledger_shows_is_named(world: Lived, words: str, check: str, lie: Callable[[Ledger], object]) -> None:
    damage = ["UPDATE resolution_observations SET state = 'open'"] if words == "is open" else []
    problems = world.problems(*damage, ledger=lie)

    assert any(words in problem for problem in problems.get(check, [])), problems


def test_a_failure_that_was_run_again_on_its_day_is_no_problem(world: Lived) -> None:
    def again(ledger: Ledger) -> None:
        ledger.commands.insert(3, ledger.commands[3] | {"code": 1})

    found = world.found(ledger=again)

    assert found.passed
    assert {"failed and run again": 1}.items() <= next(
        check.facts for check in found.checks if "went well" in check.name
    ).items()


def test_the_audit_knows_nothing_of_the_product() -> None:
    tree = ast.parse((CLONE / "soak" / "audit.py").read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip

    assert imported - set(sys.stdlib_module_names) == {"psycopg"}


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_text(
        '{"kind": "offered", "run_date": "2026-03-02", "window": 7, "at": "2026-03-02 07:00:00+00:00", "markets": {}}\n'
        '{"kind": "command", "name": "due", "code": 0}\n{"kind": "day", "day": "2026-03-02"}\n'
        '{"kind": "settled", "markets": {"1": [5, 1.0]}}\n{"kind": "model", "billed": 2}\n{"kind": "end", "days": 1}\n'
    )

    read = Ledger.read(file)

    assert read.offered == {("2026-03-02", 7, datetime.fromisoformat("2026-03-02T07:00:00Z")): [{}]}
    assert (read.settled, read.model, read.end) == ({"1": (5, 1.0)}, {"billed": 2}, {"days": 1})
    assert len(read.commands) == len(read.days) == 1
