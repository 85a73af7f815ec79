"""An experiment whose calls are shared out: one asset, the same rows, and nobody asked twice."""

import json
import re
import signal
from collections import Counter

import dagster as dg
import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import CALLS, KILLS
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, KEY, DailyRun, MakeRun, Ran, differences

LIMIT = 25
TABLES = f"""
[noted]
kind = "{EXPERIMENT}:Noted"
limits = {{{{markets = {LIMIT}, concurrency = 2}}}}
{{shards}}

[halved]
kind = "{EXPERIMENT}:Later"
limits.concurrency = 3
{{shards}}

[of_books]
kind = "{EXPERIMENT}:OfBooks"
{{shards}}

[both]
kind = "ensemble"
of = ["noted", "halved"]
"""
NAMES = ("noted", "halved", "of_books")


def with_shards(daily: DailyRun, shards: int | None, tables: str = TABLES) -> DailyRun:
    """The run with these experiments, and no other but the baseline; calls are noted in a file."""
    file = daily.folder / "experiments.toml"
    file.write_text(tables.format(shards="" if shards is None else f"shards = {shards}"))
    daily.variables |= {
        "EXPERIMENTS_FILE": str(file),
        "PROCESSING_EXPERIMENTS": BASELINE,
        CALLS: str(daily.folder / "calls"),
    }
    return daily


def calls(daily: DailyRun) -> Counter[str]:
    """The calls so far, by market."""
    file = daily.folder / "calls"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def steps(ran: Ran, name: str) -> list[str]:
    """The steps of an experiment that were made, within its asset."""
    assert ran.result is not None
    keys = (event.step_key for event in ran.result.all_events if event.is_step_success)
    return [
        part for key in keys if key and key.startswith(f"experiment_results__{name}") for part in key.split(".")[1:]
    ]


def journalled(daily: DailyRun, name: str) -> set[str]:
    """The markets whose answers are in the journal of an experiment; a torn line has none."""
    files = daily.folder.glob(f"home/staging/journals/*/{name}/**/*.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {outcome["market_id"] for line in lines for outcome in json.loads(line)}


def data_version(ran: Ran, name: str) -> str:
    assert ran.result is not None
    key = dg.AssetKey(["experiment_results", name])
    [event] = [one for one in ran.result.get_asset_materialization_events() if one.asset_key == key]
    return str((event.materialization.tags or {})["dagster/data_version"])


@pytest.fixture(scope="module")
def in_one_process(make_run: MakeRun) -> tuple[DailyRun, Ran]:
    """A run of the same experiments without shards."""
    daily = with_shards(make_run(), None)
    return daily, daily.here()


def test_shards_store_what_one_process_does(
    make_run: MakeRun, in_one_process: tuple[DailyRun, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, one = in_one_process
    shared = with_shards(make_run(), 4)

    monkeypatch.setattr("predictbench_assets.assets.experiments._HEARTBEAT_S", 0.0)
    with dg.DagsterInstance.ephemeral() as instance:
        many = shared.here(instance=instance)
        assert many.result is not None
        told = "\n".join(record.user_message for record in instance.all_logs(many.result.run_id))

    assert (one.exit_code, many.exit_code) == (0, 0)
    for shard in range(1, 5):
        assert re.search(rf"^noted\[{shard} of 4\]: (\d+) of \1 markets \(", told, re.MULTILINE)
    assert re.search(r"^noted: 40 of 40 markets \(25 completed, 15 skipped", told, re.MULTILINE)
    assert not differences(alone.tables(), shared.tables())
    assert calls(shared) == calls(alone)
    assert set(calls(shared).values()) == {1}
    assert calls(shared).total() == LIMIT, "the limit holds for all shards together"
    [(levels,)] = shared.rows("SELECT max((payload->>'levels')::int) FROM predictbench.experiment_results")
    assert levels > 0
    assert shared.count("experiment_runs") == alone.count("experiment_runs")
    for name in NAMES:
        assert steps(many, name) == ["plan", "shard[1]", "shard[2]", "shard[3]", "shard[4]", "gather"]
        assert steps(one, name) == []
        assert data_version(many, name) == data_version(one, name)
        assert many.said["experiments"][name] | {"seconds": 0} == one.said["experiments"][name] | {"seconds": 0}
        assert many.metadata(f"experiment_results/{name}")["from_journal"] == 0

    # Left out, it keeps its results; forgotten, everybody is asked once more.
    left_out = shared.here(ops={f"experiment_results__{name}": {"selected": False} for name in NAMES})
    assert steps(left_out, "noted") == ["plan", "gather"]
    assert left_out.metadata("experiment_results/noted")["selected"] is False
    assert left_out.said["experiments"]["noted"]["completed"] == LIMIT
    assert set(calls(shared).values()) == {1}

    again = shared.here()
    assert steps(again, "noted") == ["plan", "gather"], "nothing is left for a shard to do"
    assert again.metadata("experiment_results/noted")["from_journal"] == LIMIT
    assert set(calls(shared).values()) == {1}

    alone_again = shared.here(selection=[dg.AssetKey(["experiment_results", "noted"])])
    assert (alone_again.exit_code, steps(alone_again, "noted")) == (0, ["plan", "gather"])
    assert alone_again.checks() == {"stored": False}

    forgotten = shared.here(ops={"experiment_results__noted": {"forget": True}})
    assert len(steps(forgotten, "noted")) == 6
    assert set(calls(shared).values()) == {2}
    assert not differences(alone.tables(), shared.tables())


def test_a_run_that_is_killed_among_its_shards_asks_nobody_twice(
    make_run: MakeRun, in_one_process: tuple[DailyRun, Ran]
) -> None:
    daily = with_shards(make_run(), 4)

    # The baseline's, the first two shards'; two plans and no shard of the other experiment come before.
    killed = daily.forked(killed_at="predictbench_assets.experiments.forecast:forecast:before:4")
    assert killed.exit_code == -signal.SIGKILL, killed.output
    before = calls(daily)
    assert 0 < before.total() < LIMIT
    again = daily.here()

    assert again.exit_code == 0
    assert set(calls(daily).values()) == {1}
    assert calls(daily).total() == LIMIT
    assert not differences(in_one_process[0].tables(), daily.tables())
    assert again.said["experiments"]["noted"]["from_journal"] == before.total()


def test_a_shard_that_fails_is_named_as_the_experiment(make_run: MakeRun) -> None:
    daily = with_shards(make_run(World(markets_per_day=20)), 4)
    assert daily.here().exit_code == 0
    folder = daily.folder / "home" / "staging" / "journals" / KEY.slug / "halved"
    [journal] = folder.iterdir()
    for segment in journal.iterdir():
        segment.unlink()
    journal.rmdir()
    journal.touch()  # a file where a folder has to be

    ran = daily.here()

    assert ran.exit_code == 1
    assert [part for part in steps(ran, "halved") if part != "plan"] == []
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "experiment_results")
    assert reason.startswith("the journal at ")
    assert ran.said["stage"] == "experiment_results"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_shards_in_processes_of_their_own_of_which_one_is_killed(make_run: MakeRun) -> None:
    tables = f'[kills_once]\nkind = "{EXPERIMENT}:KillsOnce"\nlimits.concurrency = 2\n{{shards}}\n'
    alone = with_shards(make_run(), None, tables)
    shared = with_shards(make_run(EXECUTOR="multiprocess", EXECUTOR_MAX_CONCURRENT="2"), 2, tables)
    assert alone.here().exit_code == 0

    with shared.started(**{KILLS: str(shared.folder / "killed")}) as started:
        killed = started.ended(within=280)
    assert killed.exit_code == 1, killed.output
    before, known = calls(shared), journalled(shared, "kills_once")
    assert 0 < len(known) <= before.total() < 40

    with shared.started() as started:
        ran = started.ended(within=280)
    assert ran.exit_code == 0, ran.output
    assert not differences(alone.tables(), shared.tables())
    assert not known & set(calls(shared) - before), "whose answer is durable is not asked again"
    assert set(calls(shared)) == set(calls(alone))
