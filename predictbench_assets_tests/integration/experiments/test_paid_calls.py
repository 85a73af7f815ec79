"""Paid calls against a server that counts: none is made twice, none is lost, and budgets hold."""

import asyncio
import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, PoolProxiedConnection, event

from predictbench_assets.clock import SystemClock
from predictbench_assets.database.engine import make_engine
from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.forecast import ExperimentForecasts, ForecastCohort, forecast
from predictbench_assets.experiments.model_calls import desk
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.desk import CIRCUIT, CallFailed, Desk, Ledger, Send
from predictbench_assets.experiments.model_calls.records import CallRequest, Reply, Settled
from predictbench_assets.experiments.model_calls.store import NOT_ASKED, AnsweredCalls, PaidCalls
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.registry import config_hash
from predictbench_assets.experiments.testing import make_market, make_run
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.settings import load_settings
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.paid import DEAD, KEY, Paid, scope_of

COMPLETED = {"completed"}


@pytest.fixture
def paid(tmp_path: Path, engine: Engine, stand_in: StandIn) -> Paid:
    return Paid(tmp_path, engine, stand_in.base_url)


def test_an_answer_is_a_row_with_all_that_it_cost_and_a_transcript(paid: Paid, stand_in: StandIn) -> None:
    [outcome] = paid.run(paid.model(limits={"usd_per_day": "1"}), 1)
    [row] = paid.rows()
    [call] = stand_in.calls
    assert outcome.status == "completed"
    assert (row.status, row.unit, row.unit_id, row.sample, row.attempt) == ("answered", "market", "1000", 0, 0)
    assert (row.model_asked, row.model_returned) == ("openai:stand-in", "stand-in-2026-11-01")
    assert (row.input_tokens, row.output_tokens) == (call.usage.input, call.usage.output)
    assert row.cost == Decimal(row.input_tokens - row.cached_tokens + 2 * row.output_tokens) / 10**6 + (
        Decimal(row.cached_tokens) / 10**7
    )
    assert row.cost < row.reserved_cost
    assert row.price_table.startswith("prices.toml ")
    assert row.finish_reason == "stop"
    assert outcome.usage is not None
    assert (outcome.usage.requests, outcome.usage.cost) == (1, row.cost)
    assert (outcome.usage.input_tokens, outcome.usage.model) == (row.input_tokens, row.model_returned)
    [line] = paid.transcripts()
    assert row.transcript_uri.endswith(".jsonl")
    assert row.transcript_line == 0
    assert line["call_id"] == str(row.call_id)
    assert "Will thing 1000 happen?" in line["request"]["prompt"]
    assert line["reply"]["response"]["model_name"] == "stand-in-2026-11-01"


@pytest.mark.parametrize(
    ("model", "status", "reason", "asked"),
    [
        ("refusal", "refused", "refused: I cannot help with this question", 1),
        ("truncated", "truncated", "truncated after", 1),
        ("prose", "invalid", "invalid: no JSON: 'Weighing", 1),
        ("empty", "invalid", "invalid: empty", 1),
        ("html", "invalid", "invalid: no answer of a model", 1),
        ("nan", "invalid", "invalid: no JSON", 1),
        ("62", "invalid", "invalid: the probability is 62, not from 0 to 1", 1),
        ("text", "invalid", "no number", 1),
        ("10mb", "invalid", "invalid: the answer has more than 8,388,608 bytes", 1),
        ("bomb", "invalid", "invalid: the answer is packed, and was asked for plain", 1),
        ("redirect", "failed", "rejected: ", 1),
        ("other", "invalid", "invalid: a key that was not asked for: 'market_id'", 1),
        ("invisible", "invalid", "invalid: no JSON", 1),
        ("context", "failed", "rejected: ", 1),
        ("reset", "unknown", "unknown: 2 requests gave no answer and may have been paid for", 2),
        ("cut", "unknown", "unknown: 2 requests gave no answer and may have been paid for", 2),
        ("hang", "unknown", "unknown: 2 requests gave no answer and may have been paid for", 2),
    ],
)
def test_what_is_no_forecast_fails_for_good_with_its_own_word_and_its_cost(
    paid: Paid, stand_in: StandIn, model: str, status: str, reason: str, asked: int
) -> None:
    limits = {"timeout_seconds": 0.5 if model == "hang" else 10}
    experiment = paid.model(model=f"openai:stand-in-{model}", limits=limits)
    [outcome] = paid.run(experiment, 1)
    assert (outcome.status, outcome.retriable) == ("failed", False)
    assert reason in (outcome.reason or "")
    rows = paid.rows()
    assert [row.status for row in rows] == [status] * asked
    assert stand_in.counts["requests"] == asked
    assert outcome.usage is not None
    counted = {"failed": Decimal(0), "unknown": sum(row.reserved_cost for row in rows)}
    assert outcome.usage.cost == counted.get(status, rows[0].cost)
    assert outcome.usage.cost or status == "failed"
    # A second look asks nothing more.
    assert paid.run(experiment, 1)[0].status == "failed"
    assert stand_in.counts["requests"] == (asked if status != "failed" else 2)


@pytest.mark.parametrize("model", ["429-once", "500-once", "503-once", "529-once"])
def test_what_was_not_paid_is_asked_again(paid: Paid, stand_in: StandIn, model: str) -> None:
    [outcome] = paid.run(paid.model(model=f"openai:stand-in-{model}"), 1)
    assert outcome.status == "completed"
    assert [(row.status, row.attempt) for row in paid.rows()] == [("failed", 0), ("answered", 1)]
    assert paid.rows()[0].cost == 0
    assert stand_in.counts["billed"] == 1


@pytest.mark.parametrize("model", ["401", "quota", "404"])
def test_a_refused_key_stops_the_experiment_and_nothing_else(paid: Paid, stand_in: StandIn, model: str) -> None:
    experiment = paid.model(model=f"openai:stand-in-{model}", limits={"concurrency": 2})
    outcomes = paid.run(experiment, 40)
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert all(outcome.retriable for outcome in outcomes)
    assert "the provider refuses this experiment" in (outcomes[-1].reason or "")
    assert stand_in.counts["requests"] <= 2


def test_an_outage_is_not_waited_for_market_by_market(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model(model="openai:stand-in-hang", limits={"concurrency": 8, "timeout_seconds": 0.2})
    outcomes = paid.run(experiment, 200)
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert "not asked: 10 calls in a row have failed" in (outcomes[-1].reason or "")
    assert outcomes[-1].retriable
    assert stand_in.counts["requests"] <= CIRCUIT + 8


def test_a_server_that_is_not_there_costs_nothing(tmp_path: Path, engine: Engine) -> None:
    paid = Paid(tmp_path, engine, "http://127.0.0.1:9/v1")
    outcomes = paid.run(paid.model(), 12)
    assert all(outcome.retriable for outcome in outcomes)
    assert {row.status for row in paid.rows()} == {"failed"}
    assert {row.cost for row in paid.rows()} == {0}


def test_a_repeated_run_takes_every_answer_from_the_ledger(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model(samples=3)
    first = paid.run(experiment, 6)
    assert stand_in.counts["requests"] == 18
    again = paid.run(experiment, 6)
    assert stand_in.counts["requests"] == 18
    assert [one.payload for one in again] == [one.payload for one in first]
    assert [one.usage and one.usage.cost for one in again] == [one.usage and one.usage.cost for one in first]
    assert first[0].payload is not None
    assert len(set(first[0].payload["samples"])) == 3


def test_where_only_answers_count_nothing_is_asked_and_no_row_changes(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model()
    first = paid.run(experiment, 3)
    paid.change("UPDATE predictbench.model_calls SET status = 'unknown', transcript_uri = NULL WHERE unit_id = '1002'")
    before = paid.rows("*, xmin::text"), paid.transcripts()
    again = paid.run(experiment, 4, kept_in=AnsweredCalls)
    assert stand_in.counts["requests"] == 3
    assert (paid.rows("*, xmin::text"), paid.transcripts()) == before
    assert [one.probability for one in again[:3]] == [one.probability for one in first]
    assert again[3].status == "skipped"
    assert NOT_ASKED in (again[3].reason or "")


def test_another_version_or_prompt_is_asked_anew(paid: Paid, stand_in: StandIn) -> None:
    paid.run(paid.model(), 2)
    paid.run(paid.model(version="2"), 2)
    paid.run(paid.model(prices="shown"), 2)
    assert stand_in.counts["requests"] == 6


def test_an_event_is_one_call_and_its_cost_is_shared_to_the_cent(paid: Paid, stand_in: StandIn) -> None:
    from predictbench_assets.experiments.testing import make_market

    markets = [make_market(str(number), event_id="E") for number in range(3)]
    outcomes = paid.run(paid.model(unit="event", samples=2), markets)
    rows = paid.rows()
    assert [(row.unit, row.unit_id) for row in rows] == [("event", "E")] * 2
    assert stand_in.counts["requests"] == 2
    assert [outcome.status for outcome in outcomes] == ["completed"] * 3
    costs = [outcome.usage.cost or Decimal(0) for outcome in outcomes if outcome.usage is not None]
    assert sum(costs) == sum(row.cost for row in rows)
    assert len({outcome.probability for outcome in outcomes}) == 3


def test_an_answer_whose_process_died_before_its_row_was_settled_is_used(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model()
    [before] = paid.run(experiment, 1)
    paid.change(
        "UPDATE predictbench.model_calls SET status = 'unknown', cost = NULL, answered_at = NULL, input_tokens = NULL,"
        f" transcript_uri = NULL, transcript_line = NULL, owner = '{DEAD}', expires_at = now() + interval '1 hour'"
    )
    [after] = paid.run(experiment, 1)
    [row] = paid.rows()
    assert stand_in.counts["requests"] == 1
    assert after.payload == before.payload
    assert (row.status, row.transcript_line) == ("answered", 0)
    assert before.usage is not None
    assert row.cost == before.usage.cost


def test_an_answer_whose_transcript_is_lost_is_asked_for_again(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model()
    paid.run(experiment, 1)
    paid.run(experiment, 1, area=StagingArea(str(paid.folder / "elsewhere")))
    assert stand_in.counts["requests"] == 2
    assert [row.attempt for row in paid.rows()] == [0, 1]


def test_a_request_without_an_outcome_counts_and_is_asked_once_more(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model()
    paid.run(experiment, 1)
    for number in (0, 1):
        paid.change(
            f"UPDATE predictbench.model_calls SET status = 'unknown', cost = NULL, owner = '{DEAD}' "
            f"WHERE attempt = {number}"
        )
        elsewhere = StagingArea(str(paid.folder / f"elsewhere-{number}"))
        [outcome] = paid.run(experiment, 1, area=elsewhere)
    assert stand_in.counts["requests"] == 2
    assert "unknown: 2 requests gave no answer" in (outcome.reason or "")
    assert outcome.usage is not None
    assert outcome.usage.cost == sum(row.reserved_cost for row in paid.rows())


def test_a_budget_is_kept_and_more_of_it_goes_on(paid: Paid, stand_in: StandIn) -> None:
    [probe] = paid.run(paid.model("probe"), 1)
    reserved = paid.rows()[0].reserved_cost
    assert probe.usage is not None
    assert probe.usage.cost is not None
    stand_in.reset()
    # Of 40 calls: room for 8 of them as they are reserved.
    budget = reserved * 8
    first = paid.run(paid.model(limits={"usd_per_day": str(budget), "concurrency": 4}), 400, journal=True)
    status = Counter(outcome.status for outcome in first)
    spent = sum(row.cost for row in paid.rows() if row.experiment == "mini")
    assert spent <= budget < spent + reserved
    assert status["completed"] == stand_in.counts["requests"] < 400
    assert status["skipped"] == 400 - status["completed"]
    assert [outcome.status for outcome in first[:10]] == ["completed"] * 10, "the core comes first"
    skipped = next(outcome for outcome in first if outcome.status == "skipped")
    assert (skipped.reason or "").startswith("budget: usd_per_day of mini = ")
    more = paid.run(paid.model(limits={"usd_per_day": str(budget * 2), "concurrency": 4}), 400, journal=True)
    assert Counter(outcome.status for outcome in more)["completed"] > status["completed"]
    assert stand_in.counts["duplicates"] == 0


@pytest.mark.parametrize(("limit", "value", "asked"), [("calls_per_day", 7, 7), ("tokens_per_day", 20_000, 1)])
def test_calls_and_tokens_have_budgets_too(paid: Paid, stand_in: StandIn, limit: str, value: int, asked: int) -> None:
    outcomes = paid.run(paid.model(limits={limit: value, "concurrency": 1}, max_tokens=12_000), 30)
    done = Counter(outcome.status for outcome in outcomes)["completed"]
    assert stand_in.counts["requests"] == done
    assert done == 7 if limit == "calls_per_day" else asked <= done < 30
    assert {outcome.status for outcome in outcomes} == {"completed", "skipped"}


def test_a_budget_holds_for_all_shards_together(paid: Paid, stand_in: StandIn) -> None:
    # One for each process.
    experiments = [paid.model(shards=3, limits={"calls_per_day": 7, "concurrency": 4}) for _ in range(4)]
    cohort = ForecastCohort(make_run(), [make_market(str(1000 + number)) for number in range(30)], "cohort")
    settings = paid.settings

    def made(experiment: Experiment, **call: Any) -> ExperimentForecasts:
        return forecast(
            experiment,
            cohort,
            config_hash=config_hash(experiment),
            required={},
            history=lambda _: (),
            history_counts=lambda _: {},
            area=StagingArea(str(paid.folder / "staging")),
            writer_id="dagster",
            settings=settings,
            engine=lambda: paid.engine,
            **call,
        )

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda shard: made(experiments[shard], shard=shard), (1, 2, 3)))
    counts = made(experiments[0], sharded_s=0.0).counts

    assert counts == {"completed": 7, "skipped": 23, "failed": 0}
    assert stand_in.counts["requests"] == 7
    assert len({row.unit_id for row in paid.rows()}) == 7


def test_a_budget_of_all_experiments_is_shared(tmp_path: Path, engine: Engine, stand_in: StandIn) -> None:
    paid = Paid(tmp_path, engine, stand_in.base_url)
    paid.run(paid.model("one"), 3)
    other = paid.model("two")
    assert other.allowance is not None
    import msgspec

    spent = sum(row.cost for row in paid.rows())
    other.allowance = msgspec.structs.replace(other.allowance, usd_per_day_of_all=spent)
    outcomes = paid.run(other, 3)
    assert {outcome.status for outcome in outcomes} == {"skipped"}
    assert "MODEL_USD_PER_DAY" in (outcomes[0].reason or "")


def test_requests_are_spaced_over_all_experiments(paid: Paid, stand_in: StandIn) -> None:
    began = time.monotonic()
    limits = {"requests_per_minute": 120}  # 20 in ten seconds
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(paid.run, paid.model(name, limits=limits), 12) for name in ("one", "two")]
        assert all(outcome.status == "completed" for each in done for outcome in each.result())
    assert time.monotonic() - began > 8
    assert stand_in.counts["requests"] == 24


def test_no_key_is_kept_anywhere(paid: Paid, stand_in: StandIn) -> None:
    outcomes = paid.run(paid.model(model="openai:stand-in-secret"), 2)
    assert stand_in.counts["requests"] >= 1
    kept = [repr(outcomes), repr(paid.rows()), repr(paid.transcripts())]
    kept += [file.read_text(errors="replace") for file in paid.folder.rglob("*") if file.is_file()]
    assert not [text for text in kept if KEY in text]
    assert "***" in repr(paid.rows())


def test_a_process_that_crashed_before_makes_its_calls_apart_and_over_the_same_ledger(
    paid: Paid, stand_in: StandIn
) -> None:
    experiment = paid.model()
    mark = CrashMark(paid.folder, "2026-03-02_w7", "mini", "1")
    mark.set()
    assert {outcome.status for outcome in paid.run(experiment, 3, crash_mark=mark)} == COMPLETED
    assert {outcome.status for outcome in paid.run(experiment, 3)} == COMPLETED
    assert stand_in.counts["requests"] == 3


def test_transcripts_are_kept_and_found_in_an_object_store(
    tmp_path: Path, paid: Paid, stand_in: StandIn, store: dict[str, str]
) -> None:
    settings = load_settings(tmp_path / "none.env", **{name.lower(): value for name, value in store.items()})
    area = StagingArea(settings.staging, settings.staging_options)
    experiment = paid.model()
    for _ in range(2):
        assert {outcome.status for outcome in paid.run(experiment, 5, area=area)} == COMPLETED
    assert stand_in.counts["requests"] == 5
    assert all(row.transcript_uri.startswith("s3://") for row in paid.rows())


def test_two_processes_at_once_never_pay_for_one_call_twice(paid: Paid, stand_in: StandIn) -> None:
    processes = [paid.start(60, "openai:stand-in-slow-0.1") for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert output.strip().splitlines()[-1] == "60 completed", output
    assert stand_in.counts["requests"] == 60
    assert stand_in.counts["duplicates"] == 0


def kill_at_random(paid: Paid, stand_in: StandIn, *, markets: int, kills: int, seed: int) -> None:
    """Kill a run again and again, end it, and see that no answered call was made twice."""
    draw = random.Random(seed)
    at_most = sorted(draw.sample(range(1, markets), kills))
    for delivered in at_most:
        process = paid.start(markets, "openai:stand-in-slow-0.05")
        while process.poll() is None and stand_in.counts["delivered"] < delivered:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    process = paid.start(markets, "openai:stand-in-slow-0.05")
    output, _ = process.communicate(timeout=120)
    rows, counts = paid.rows(), stand_in.counts
    answered = {row.unit_id for row in rows if row.status == "answered"}
    unknown = Counter(row.unit_id for row in rows if row.status == "unknown")
    lost = {unit for unit, number in unknown.items() if number == 2} - answered
    assert output.strip().splitlines()[-1] == f"{len(answered)} completed", output
    # A market that two kills have hit is given up: it was asked once more, as was promised.
    assert answered | lost == {str(1000 + number) for number in range(markets)}
    assert answered.isdisjoint(lost)
    assert len(rows) == len(answered) + unknown.total()
    # A prompt was sent more than once only where a kill took its answer away.
    assert counts["requests"] <= len(rows)
    assert counts["requests"] - counts["distinct_prompts"] <= unknown.total() <= kills * 64
    replies = [line["call_id"] for line in paid.transcripts() if line["reply"] is not None]
    assert sorted(replies) == sorted(str(row.call_id) for row in rows if row.status == "answered")


def test_a_killed_run_uses_every_answer(paid: Paid, stand_in: StandIn) -> None:
    kill_at_random(paid, stand_in, markets=300, kills=2, seed=4)


@pytest.mark.long
def test_a_run_that_is_killed_twenty_times_uses_every_answer(paid: Paid, stand_in: StandIn) -> None:
    kill_at_random(paid, stand_in, markets=500, kills=20, seed=20)


def test_a_sync_caller_with_a_loop_of_its_own_may_run_it(paid: Paid) -> None:
    async def outer(run: Callable[..., object]) -> object:
        return run(paid.model(), 2)

    asyncio.run(outer(paid.run))
    assert len(paid.rows()) == 2


def asked_together(paid: Paid, experiment: Experiment, send: Send, times: int) -> list[object]:
    """What comes of asking for one and the same thing several times at once, as markets of an event do."""
    assert experiment.allowance is not None
    scope, area = scope_of(experiment), StagingArea(str(paid.folder / "staging"))
    store = PaidCalls(lambda: paid.engine, area, scope, "test", paid.settings.redact)
    request = CallRequest(provider="p", model="p:m", content={"q": 1}, unit="event", unit_id="E", reserved_tokens=9)

    async def together() -> list[object]:
        opened = Desk(Ledger(store, scope, experiment.allowance or Allowance()), SystemClock())
        try:
            asks = (opened.ask("E", request, send) for _ in range(times))
            return await asyncio.gather(*asks, return_exceptions=True)
        finally:
            await opened.close()
            store.close()

    return list(asyncio.run(together()))


def test_the_same_question_at_once_is_paid_for_once(paid: Paid) -> None:
    sent = []

    async def send() -> Reply:
        sent.append(1)
        await asyncio.sleep(0.05)
        return Reply(status="answered", text="yes", answered_at=SystemClock().now())

    replies = asked_together(paid, paid.model(), send, 5)
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["yes"] * 5
    assert len(sent) == len(paid.rows()) == 1


def test_a_limit_is_waited_for_however_often_it_is_met(paid: Paid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_FIRST_PAUSE_S", 0.0001)
    sent = []

    async def send() -> Reply:
        sent.append(1)
        if len(sent) <= 2 * desk.TRIES:
            raise CallFailed("limited", "Too many.", retry_after_s=math.nan)
        return Reply(status="answered", text="yes", answered_at=SystemClock().now())

    [reply] = asked_together(paid, paid.model(), send, 1)
    assert isinstance(reply, Reply), reply


def test_a_provider_that_asks_for_hours_is_asked_nothing_more(paid: Paid) -> None:
    async def send() -> Reply:
        raise CallFailed("limited", "Come back tomorrow.", retry_after_s=10_000)

    answers = asked_together(paid, paid.model(), send, 3)
    assert "the provider asks to wait for 10,000 s: Come back tomorrow." in str(answers[0])
    assert len(paid.rows()) == 1


def test_a_fault_of_who_sends_is_an_unknown_outcome(paid: Paid) -> None:
    async def send() -> Reply:
        raise KeyError("usage")

    [error] = asked_together(paid, paid.model(), send, 1)
    assert "2 requests gave no answer and may have been paid for: KeyError: 'usage'" in str(error)
    assert [(row.status, row.transcript_line) for row in paid.rows()] == [("unknown", 0), ("unknown", 1)]


def test_nothing_more_is_paid_for_once_an_answer_cannot_be_kept(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model(limits={"concurrency": 4})
    (paid.folder / "staging").mkdir()
    (paid.folder / "staging" / "artifacts").write_text("a file, where a folder should be")
    outcomes = paid.run(experiment, 50)
    assert all(outcome.retriable for outcome in outcomes)
    assert "cannot be written" in (outcomes[-1].reason or "")
    assert "STAGING_URI" in (outcomes[-1].reason or "")
    assert stand_in.counts["requests"] <= 8


def test_a_database_that_refuses_is_asked_once_and_no_market_is_lost_for_good(paid: Paid, stand_in: StandIn) -> None:
    experiment, there = paid.model(), paid.engine
    paid.engine = make_engine(there.url.set(database="nowhere").render_as_string(hide_password=False), pool_size=1)
    outcomes = paid.run(experiment, 300)
    paid.engine.dispose()
    paid.engine = there
    assert all(outcome.retriable for outcome in outcomes)
    assert "not asked: " in (outcomes[-1].reason or "")
    assert stand_in.counts["requests"] == 0


def test_the_answer_of_a_process_on_another_host_is_used_once_its_time_is_up(paid: Paid, stand_in: StandIn) -> None:
    paid.variables = {"predictbench_now": datetime(2026, 3, 2, 12, tzinfo=UTC)}
    clock = paid.settings.clock  # it stands still: the server's own time is gone by
    experiment = paid.model()
    paid.run(experiment, 1, clock=clock)
    paid.change(
        "UPDATE predictbench.model_calls SET status = 'unknown', cost = NULL, transcript_uri = NULL, "
        "owner = 'elsewhere:1:1.00', claimed_at = claimed_at - interval '1 day'"
    )
    row = paid.rows("*")[0]
    assert paid.run(experiment, 1, clock=clock)[0].status == "completed"
    assert stand_in.counts["requests"] == 1
    assert paid.rows()[0].call_id == row.call_id


def test_tokens_that_nobody_told_count_as_reserved(paid: Paid, stand_in: StandIn) -> None:
    paid.run(paid.model(), 1)
    [row] = paid.rows()
    paid.change("UPDATE predictbench.model_calls SET input_tokens = NULL, output_tokens = NULL")
    [outcome] = paid.run(paid.model(version="2", limits={"tokens_per_day": row.reserved_tokens + 10}), 1)
    assert (outcome.status, stand_in.counts["requests"]) == ("skipped", 1)
    assert f"leaves 10, and a call may take {row.reserved_tokens:,}" in (outcome.reason or "")


def answer() -> Reply:
    return Reply(status="answered", text="yes", answered_at=SystemClock().now())


async def answering() -> Reply:
    return answer()


def test_a_claim_whose_commit_got_no_answer_is_ours_and_is_asked_at_once(
    paid: Paid, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, commit = [], paid.engine.dialect.do_commit

    def lost(connection: PoolProxiedConnection) -> None:
        commit(connection)
        commits.append(1)
        if len(commits) == 2:  # the first one reads
            connection.driver_connection.close()  # type: ignore[union-attr]
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(paid.engine.dialect, "do_commit", lost)
    [reply] = asked_together(paid, paid.model(), answering, 1)
    assert isinstance(reply, Reply), reply
    assert len(commits) > 2
    [row] = paid.rows()
    assert (row.status, row.attempt) == ("answered", 0)


def test_an_answer_that_came_is_kept_whoever_has_stopped_waiting_for_it(paid: Paid) -> None:
    scope, area = scope_of(paid.model()), StagingArea(str(paid.folder / "staging"))
    begun, slow = threading.Event(), threading.Event()

    class SlowStore(PaidCalls):
        def settle(self, settled: Sequence[Settled]) -> None:
            begun.set()
            assert slow.wait(30)
            super().settle(settled)

    store = SlowStore(lambda: paid.engine, area, scope, "test", paid.settings.redact)
    request = CallRequest(provider="p", model="p:m", content={"q": 1}, reserved_tokens=9)

    async def stopped() -> bool:
        opened = Desk(Ledger(store, scope, Allowance()), SystemClock())
        waiting = asyncio.create_task(opened.ask("1000", request, answering))
        await asyncio.to_thread(begun.wait, 30)
        waiting.cancel()
        await asyncio.wait({waiting})
        closing = asyncio.create_task(opened.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        was_closed = closing.done()
        slow.set()
        await closing
        store.close()
        return was_closed and waiting.cancelled()

    assert not asyncio.run(stopped()), "it was closed before the answer was kept"
    [row] = paid.rows()
    assert row.status == "answered"
    assert [line["call_id"] for line in paid.transcripts()] == [str(row.call_id)]


def test_many_answers_of_a_process_that_died_are_settled_in_one_statement(paid: Paid, stand_in: StandIn) -> None:
    experiment = paid.model()
    paid.run(experiment, 30)
    paid.change(
        "UPDATE predictbench.model_calls SET status = 'unknown', cost = NULL, transcript_uri = NULL,"
        f" transcript_line = NULL, owner = '{DEAD}'"
    )
    statements: list[str] = []

    def noted(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(paid.engine, "before_cursor_execute", noted)
    try:
        assert {outcome.status for outcome in paid.run(experiment, 30)} == COMPLETED
    finally:
        event.remove(paid.engine, "before_cursor_execute", noted)
    assert stand_in.counts["requests"] == 30
    assert len([one for one in statements if one.startswith("UPDATE")]) == 1
    assert {row.status for row in paid.rows()} == {"answered"}
