"""Batches over real HTTP: submitted by one run, collected by another, and nothing paid for twice whatever happens."""

import signal
import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.llm import batch
from predictbench_assets.experiments.llm.language_model import LanguageModelTable
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.paid import Paid
from predictbench_assets_tests.kit.paid_runs import PaidRuns, batch_of_ten, run_batch_until

LATE = CAPTURED_AT + timedelta(hours=15)
"""When a batch of the day is waited for no longer."""


@pytest.fixture
def runs(engine: Engine, tmp_path: Path, stand_in: StandIn) -> PaidRuns:
    markets = [make_market(str(number)) for number in range(1001, 1011)]
    return PaidRuns(Paid(tmp_path, engine, stand_in.base_url), load_settings(predictbench_home=tmp_path), markets)


def table(stand_in: StandIn, name: str = "stand-in", **keys: Any) -> LanguageModelTable:
    given = {"model": f"openai:{name}", "base_url": stand_in.base_url, "max_tokens": 800, "batch": True, **keys}
    return LanguageModelTable(kind="language_model", **given)


def said(outcomes: list[Outcome]) -> dict[tuple[str, str], int]:
    """How many outcomes there are of each status, with the beginning of the reason."""
    return dict(Counter((one.status, (one.reason or "").partition(" (")[0][:80]) for one in outcomes))


def priced(stand_in: StandIn, folder: Path, name: str = "stand-in") -> Path:
    file = folder / "own_prices.toml"
    file.write_text(
        f'[[price]]\nmodel = "openai:{name}"\nbase_url = "{stand_in.base_url}"\ninput = 1\noutput = 2\nbatch = 0.5\n'
    )
    return file


def routes(stand_in: StandIn) -> Counter[str]:
    return Counter(stand_in.counts["by_route"])


def test_one_run_submits_and_another_collects(runs: PaidRuns, stand_in: StandIn, tmp_path: Path) -> None:
    prices = priced(stand_in, tmp_path)
    submitted = runs.run(table(stand_in), model_prices_file=prices)
    assert said(submitted) == {("skipped", "batch under way"): 10}
    (reason,) = {one.reason for one in submitted}
    assert reason == (
        "batch under way (10 requests of 07:00 UTC): materialize again to collect it; it is waited for until "
        "2026-03-02 22:00 UTC"
    )
    assert not any(one.is_final for one in submitted)
    assert {row.status for row in runs.rows} == {"unknown"}
    assert len({row.batch_id for row in runs.rows}) == 1
    assert stand_in.counts["billed"] == 0

    runs.now = CAPTURED_AT + timedelta(hours=2)
    collected = runs.run(table(stand_in), model_prices_file=prices)
    assert said(collected) == {("completed", ""): 10}
    assert {row.status for row in runs.rows} == {"answered"}
    again = runs.run(table(stand_in), model_prices_file=prices)
    assert [one.probability for one in again] == [one.probability for one in collected]
    assert stand_in.counts["billed"] == stand_in.counts["distinct_prompts"] == 10
    assert stand_in.counts["billed_again"] == 0
    assert routes(stand_in)["POST /v1/batches"] == 1
    for row in runs.rows:
        half = (Decimal(row.input_tokens) + 2 * Decimal(row.output_tokens)) / 2_000_000
        assert row.cost == half < row.reserved_cost
        assert row.batch_id.startswith("batch_")
        assert row.transcript_uri is not None
    assert collected[0].usage is not None
    assert collected[0].usage.cost == runs.rows[0].cost


def test_nothing_is_collected_before_the_provider_has_it(runs: PaidRuns, stand_in: StandIn) -> None:
    never = table(stand_in, "stand-in-batchnever")
    runs.run(never)
    for hours in (1, 3):
        runs.now = CAPTURED_AT + timedelta(hours=hours)
        assert said(runs.run(never)) == {("skipped", "batch under way"): 10}
    assert len(runs.rows) == 10


def test_a_batch_whose_name_was_lost_is_found_again(runs: PaidRuns, stand_in: StandIn) -> None:
    lost = table(stand_in, "stand-in-batchlost")
    (reason,) = {one.reason for one in runs.run(lost)}
    assert reason is not None
    assert reason.startswith("batch under way (it is not known yet whether it was submitted")
    assert {row.batch_id.partition(" ")[0] for row in runs.rows} == {"intent"}
    assert said(runs.run(lost)) == {("skipped", "batch under way"): 10}  # not yet to be believed, and not made again
    runs.now = CAPTURED_AT + timedelta(minutes=20)
    assert said(runs.run(lost)) == {("completed", ""): 10}
    assert stand_in.counts["billed"] == 10
    assert stand_in.counts["billed_again"] == 0
    assert len(runs.rows) == 10


def test_a_run_that_died_before_it_submitted_is_made_up_for(runs: PaidRuns, stand_in: StandIn) -> None:
    runs.run(table(stand_in))
    _as_intents(runs, submitted=False)
    assert said(runs.run(table(stand_in))) == {("skipped", "batch under way"): 10}
    assert len(runs.rows) == 10
    runs.now = CAPTURED_AT + timedelta(minutes=20)
    assert said(runs.run(table(stand_in))) == {("skipped", "batch under way"): 10}
    assert Counter(row.status for row in runs.rows) == {"failed": 10, "unknown": 10}
    assert said(runs.run(table(stand_in))) == {("completed", ""): 10}
    assert stand_in.counts["billed"] == 10


def _as_intents(runs: PaidRuns, *, submitted: bool = True) -> None:
    """Leave the ledger as a run does that died before it could write the name of the job, or before it submitted."""
    ids = "" if submitted else ", call_id = gen_random_uuid()"  # of no job that the provider has
    runs.paid.change(f"UPDATE predictbench.model_calls SET batch_id = 'intent abc'{ids}")


STORE = "predictbench_assets.experiments.model_calls.store:PaidCalls"


@pytest.mark.parametrize(
    ("point", "jobs"),
    [
        (f"{STORE}.claim:after:1", 1),  # nothing is submitted: the next run does it
        (f"{STORE}.submitted:before:1", 1),  # submitted, and its name is nowhere
        (f"{STORE}.submitted:after:1", 1),
        (f"{STORE}.settle:before:1", 1),  # read, and not kept
        (f"{STORE}._update:before:1", 1),  # in the transcript, and not in the rows
    ],
)
def test_whenever_a_run_is_killed_one_job_answers_all(runs: PaidRuns, stand_in: StandIn, point: str, jobs: int) -> None:
    runs, ten = batch_of_ten(runs.paid)
    if point.startswith((f"{STORE}.settle", f"{STORE}._update")):
        runs.run(ten)
    killed = run_batch_until(point, runs.paid)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(runs.rows) == 10
    for minutes in (2, 30, 60):
        runs.now = CAPTURED_AT + timedelta(minutes=minutes)
        outcomes = runs.run(ten)
    assert said(outcomes) == {("completed", ""): 10}
    assert routes(stand_in)["POST /v1/batches"] == jobs
    assert stand_in.counts["billed"] == 10
    assert stand_in.counts["billed_again"] == 0


def test_two_runs_at_once_submit_once(runs: PaidRuns, stand_in: StandIn) -> None:
    never = table(stand_in, "stand-in-batchnever")
    found: list[list[Outcome]] = []
    together = threading.Barrier(2)

    def one_run() -> None:
        together.wait()
        found.append(runs.run(never))

    threads = [threading.Thread(target=one_run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [said(one) for one in found] == [{("skipped", "batch under way"): 10}] * 2
    assert len(runs.rows) == 10
    assert routes(stand_in)["POST /v1/batches"] == 1
    (job,) = {row.batch_id for row in runs.rows}
    httpx.post(f"{stand_in.url}/stand-in/batches/{job}/finish").raise_for_status()
    assert said(runs.run(never)) == {("completed", ""): 10}
    assert stand_in.counts["billed"] == 10


@pytest.mark.parametrize("kind", ["429", "500"])
def test_rows_that_failed_are_asked_again_and_no_others(runs: PaidRuns, stand_in: StandIn, kind: str) -> None:
    some = table(stand_in, f"stand-in-{kind}-share-40-once")
    runs.run(some)
    runs.now = CAPTURED_AT + timedelta(hours=1)
    first = said(runs.run(some))
    assert set(first) == {("completed", ""), ("skipped", "batch under way")}
    failed = first["skipped", "batch under way"]
    assert Counter(row.status for row in runs.rows) == {"answered": 10 - failed, "failed": failed, "unknown": failed}
    runs.now = CAPTURED_AT + timedelta(hours=2)
    assert said(runs.run(some)) == {("completed", ""): 10}
    assert stand_in.counts["billed"] == 10
    assert stand_in.counts["billed_again"] == 0


def test_a_row_that_is_rejected_is_asked_once(runs: PaidRuns, stand_in: StandIn) -> None:
    some = table(stand_in, "stand-in-400-share-40")
    runs.run(some)
    outcomes = runs.run(some)
    again = runs.run(some)
    assert said(again) == said(outcomes)
    assert {one.status for one in outcomes} == {"completed", "failed"}
    assert all("rejected: " in str(one.reason) for one in outcomes if one.status == "failed")
    assert len(runs.rows) == 10


def test_bad_answers_have_their_words_and_their_cost(runs: PaidRuns, stand_in: StandIn) -> None:
    messy = table(stand_in, "stand-in-messy-100")
    runs.run(messy)
    outcomes = runs.run(messy)
    assert {one.status for one in outcomes} == {"failed"}
    assert {row.status for row in runs.rows} <= {"refused", "truncated", "invalid"}
    assert all(row.output_tokens for row in runs.rows if row.status != "refused")
    assert said(runs.run(messy)) == said(outcomes)
    assert stand_in.counts["billed_again"] == 0


@pytest.mark.parametrize("fallback", ["ask", "skip"])
def test_at_the_deadline_the_job_is_cancelled_and_what_it_answered_is_used(
    runs: PaidRuns, stand_in: StandIn, fallback: str, tmp_path: Path
) -> None:
    prices = priced(stand_in, tmp_path, "stand-in-batchnever")
    never = table(stand_in, "stand-in-batchnever", batch_fallback=fallback)
    runs.run(never, model_prices_file=prices)
    runs.now = LATE
    outcomes = runs.run(never, model_prices_file=prices)
    batched = [row for row in runs.rows if row.batch_id is not None]
    assert Counter(row.status for row in batched) == {"answered": 5, "failed": 5}
    alone = [row for row in runs.rows if row.batch_id is None]
    if fallback == "ask":
        assert said(outcomes) == {("completed", ""): 10}
        assert {row.status for row in alone} == {"answered"}
        assert len(alone) == 5
        assert min(row.cost for row in alone) > max(row.cost for row in batched)
    else:
        assert said(outcomes) == {
            ("completed", ""): 5,
            ("skipped", "batch: no answer by its deadline: The batch was canceled before the model ran th"): 5,
        }
        assert all(one.is_final for one in outcomes)
        assert not alone
    assert stand_in.counts["billed"] == (10 if fallback == "ask" else 5)
    assert stand_in.counts["billed_again"] == 0
    assert said(runs.run(never, model_prices_file=prices)) == said(outcomes)
    assert stand_in.counts["billed"] == (10 if fallback == "ask" else 5)


def test_after_the_deadline_nothing_is_submitted(runs: PaidRuns, stand_in: StandIn) -> None:
    runs.now = CAPTURED_AT + timedelta(hours=3)
    early = table(stand_in, batch_deadline_hours=2.5, batch_fallback="ask")
    assert said(runs.run(early)) == {("completed", ""): 10}
    assert {row.batch_id for row in runs.rows} == {None}
    assert routes(stand_in)["POST /v1/responses"] == 10


def test_a_batch_is_collected_with_another_key(
    runs: PaidRuns, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = table(stand_in, api_key="MY_API_KEY")
    for key in ("sk-first-planted-key", "sk-second-planted-key"):
        monkeypatch.setenv("MY_API_KEY", key)
        outcomes = runs.run(one)
    assert said(outcomes) == {("completed", ""): 10}


def test_a_job_that_fails_as_a_whole_is_made_again_and_then_given_up(runs: PaidRuns, stand_in: StandIn) -> None:
    failing = table(stand_in, "stand-in-batchfailed")
    for _ in range(3):
        assert said(runs.run(failing)) == {("skipped", "batch under way"): 10}
    outcomes = runs.run(failing)
    (reason,) = {one.reason for one in outcomes}
    assert "no answer in 3 batches" in str(reason)
    assert all(one.retriable for one in outcomes)
    assert {row.status for row in runs.rows} == {"failed"}
    assert len(runs.rows) == 30
    assert stand_in.counts["billed"] == 0


def test_a_job_that_expires_keeps_what_it_has(runs: PaidRuns, stand_in: StandIn) -> None:
    expires = table(stand_in, "stand-in-batchexpired")
    runs.run(expires)
    assert said(runs.run(expires)) == {("completed", ""): 5, ("skipped", "batch under way"): 5}


def test_a_budget_covers_the_core_first(runs: PaidRuns, stand_in: StandIn, tmp_path: Path) -> None:
    runs.markets = [
        market.model_copy(update={"core": number >= 7, "core_weight": 1.0 if number >= 7 else None})
        for number, market in enumerate(runs.markets)
    ]
    prices = priced(stand_in, tmp_path)
    limited = table(stand_in, limits={"usd_per_day": Decimal("0.008")})
    outcomes = runs.run(limited, model_prices_file=prices)
    asked = [outcome.market_id for outcome in outcomes if "under way" in str(outcome.reason)]
    assert {"1008", "1009", "1010"} <= set(asked)
    assert 3 <= len(asked) < 10
    rest = [outcome for outcome in outcomes if outcome.market_id not in asked]
    assert all("budget: usd_per_day of mini" in str(outcome.reason) for outcome in rest)
    assert sum(row.reserved_cost for row in runs.rows) <= Decimal("0.008")


def test_whole_events_and_samples_go_by_batch_too(runs: PaidRuns, stand_in: StandIn) -> None:
    markets = [make_market(str(1001 + number), event_id=f"E{number // 3}") for number in range(7)]
    events = table(stand_in, unit="event", samples=2)
    runs.run(events, markets)
    outcomes = runs.run(events, markets)
    assert said(outcomes) == {("completed", ""): 7}
    assert len(runs.rows) == 6
    assert len((outcomes[0].payload or {})["samples"]) == 2


def test_anthropics_batches_are_collected_and_found_again(runs: PaidRuns, stand_in: StandIn) -> None:
    claude = table(stand_in, model="anthropic:claude-haiku-4-5", base_url=stand_in.url, api_key=None)
    assert said(runs.run(claude)) == {("skipped", "batch under way"): 10}
    _as_intents(runs)
    runs.now = CAPTURED_AT + timedelta(minutes=20)
    (job,) = _anthropic_jobs(stand_in)
    (reason,) = {one.reason for one in runs.run(claude)}
    assert "a job of as many requests is under way, which may be the one that is lost" in str(reason)
    httpx.post(f"{stand_in.url}/stand-in/batches/{job}/finish").raise_for_status()
    assert said(runs.run(claude)) == {("completed", ""): 10}
    assert stand_in.counts["billed"] == 10


def _anthropic_jobs(stand_in: StandIn) -> list[str]:
    listed = httpx.get(f"{stand_in.url}/v1/messages/batches", headers={"x-api-key": "x"}).json()
    return [job["id"] for job in listed["data"]]


def test_a_trial_asks_at_once_and_the_days_run_takes_its_answers(runs: PaidRuns, stand_in: StandIn) -> None:
    experiment = runs.made(table(stand_in))
    assert experiment.trial_unit is not None
    experiment.unit = experiment.trial_unit
    tried = runs.paid.run(experiment, runs.markets[:3], clock=FixedClock(runs.now))
    assert said(tried) == {("completed", ""): 3}
    runs.run(table(stand_in))
    outcomes = runs.run(table(stand_in))
    assert [one.probability for one in outcomes[:3]] == [one.probability for one in tried]
    assert stand_in.counts["billed"] == 10


def test_a_forecast_is_of_the_time_of_its_answer(runs: PaidRuns, stand_in: StandIn) -> None:
    runs.run(table(stand_in))
    runs.now = CAPTURED_AT + timedelta(hours=2)
    runs.run(table(stand_in))
    runs.now = CAPTURED_AT + timedelta(hours=30)  # put together again, from the ledger
    assert {one.forecast_at for one in runs.run(table(stand_in))} == {CAPTURED_AT + timedelta(hours=2)}


def test_a_dry_run_submits_nothing(runs: PaidRuns, stand_in: StandIn) -> None:
    experiment = runs.made(table(stand_in))
    outcomes = run_experiment_sync(experiment, runs.markets, run=make_run(), clock=FixedClock(runs.now), ledger=None)
    assert {one.status for one in outcomes} == {"skipped"}
    assert stand_in.counts["requests"] == 0


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {"model": "openai-chat:gpt-5-mini"},
            "there are batches of openai: and openai-responses: and anthropic: models",
        ),
        ({"model": "google:gemini-2.5-flash"}, "not of google:gemini-2.5-flash"),
        ({"batch": False, "batch_fallback": "ask"}, "batch_fallback without batch = true"),
        ({"batch_deadline_hours": 30}, "less than or equal to 24"),
    ],
)
def test_what_has_no_batches_is_refused_at_load(keys: dict[str, Any], problem: str) -> None:
    given = {"kind": "language_model", "model": "openai:gpt-5-mini", "batch": True} | keys
    with pytest.raises(ValidationError, match=problem):
        LanguageModelTable(**given)


def test_the_estimate_is_half_of_that_of_single_questions(runs: PaidRuns, stand_in: StandIn, tmp_path: Path) -> None:
    prices = priced(stand_in, tmp_path)
    half = runs.made(table(stand_in), model_prices_file=prices).estimate(runs.markets)
    alone = runs.made(table(stand_in, batch=False), model_prices_file=prices).estimate(runs.markets)
    asks = runs.made(table(stand_in, batch_fallback="ask"), model_prices_file=prices).estimate(runs.markets)
    assert half is not None
    assert alone is not None
    assert asks is not None
    assert half.expected * 2 == alone.expected
    assert half.at_most * 2 == asks.at_most == alone.at_most


def test_many_requests_are_several_jobs(runs: PaidRuns, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_REQUESTS", 4)
    runs.run(table(stand_in))
    assert sorted(Counter(row.batch_id for row in runs.rows).values()) == [2, 4, 4]
    assert said(runs.run(table(stand_in))) == {("completed", ""): 10}
    monkeypatch.setattr(batch, "MOST_UPLOADED", 5_000)
    runs.run(table(stand_in, version="2"))
    assert len({row.batch_id for row in runs.rows if row.version == "2"}) > 3
    assert said(runs.run(table(stand_in, version="2"))) == {("completed", ""): 10}
