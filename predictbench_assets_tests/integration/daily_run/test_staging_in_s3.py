"""A run whose staged files are in an object store: nothing of it is on the runner that is thrown away."""

from collections.abc import Callable
from pathlib import Path

import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, MakeRun, differences
from predictbench_assets_tests.kit.other_store import Answer, Handler, OtherStore, hangs


def test_a_runner_that_finds_only_the_store_goes_on(store: dict[str, str], make_run: MakeRun, tmp_path: Path) -> None:
    settings = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:Noted"}
    daily = make_run(World(markets_per_day=20), **settings, **store)
    killed = daily.forked(killed_at="predictbench_assets.persistence.leases:Lease.finish:before:1")
    assert killed.exit_code == -9, killed.output
    requests = sum(daily.sandbox.requests.values())
    assert [one.name for one in (daily.folder / "home").iterdir()] == ["crashes"]  # of this machine's processes

    calls = tmp_path / "calls"
    ran = daily.here(TEST_CALLS=str(calls))

    assert ran.exit_code == 0
    assert ran.said["processed_markets"] == 20
    assert ran.said["snapshot"]["uri"].startswith(f"{store['STAGING_URI']}/")
    assert sum(daily.sandbox.requests.values()) == requests
    assert not calls.exists()
    assert not (daily.folder / "home" / "staging").exists()

    # A dry run writes into a folder and reads the snapshot where it is.
    before = daily.tables()
    dry = daily.here(PREDICTBENCH_DRY_RUN="1", PREDICTBENCH_SCRATCH=str(tmp_path / "scratch"))
    assert dry.exit_code == 0
    assert dry.said["snapshot"]["reused"] is True
    assert dry.said["processed_markets"] == 20
    assert not differences(before, daily.tables())


@pytest.mark.parametrize(
    ("unwell", "words", "retriable"),
    [
        (lambda _: Answer.error(403, "InvalidAccessKeyId"), "check STAGING_S3_ACCESS_KEY_ID", False),
        (hangs, "did not answer within 0.5 s: check STAGING_S3_ENDPOINT_URL", True),
    ],
    ids=["refuses", "hangs"],
)
def test_a_run_says_what_is_wrong_with_its_store(
    make_run: MakeRun, unwell: Callable[[Handler], Answer | None], words: str, retriable: bool
) -> None:
    store = OtherStore()
    store.unwell = unwell
    try:
        settings = {"PROCESSING_EXPERIMENTS": BASELINE, "STAGING_TIMEOUT_SECONDS": "0.5"}
        daily = make_run(World(markets_per_day=5), **settings, **store.settings)
        ran = daily.here()
    finally:
        store.close()
    assert ran.exit_code == 1
    assert store.address in ran.said["reason"]
    assert words in ran.said["reason"]
    assert [one["retriable"] for one in ran.said["failures"]] == [retriable]
    assert daily.run_row("status", "stage", "reason") == ("failed", "target_window", ran.said["reason"])
