"""A run whose staged files are in an object store: nothing of it is on the runner that is thrown away."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.conftest import MakeRun
from predictbench_assets_tests.integration.daily_run.harness import BASELINE, EXPERIMENT, differences

KEYS = {"STAGING_S3_ACCESS_KEY_ID": "an-id", "STAGING_S3_SECRET_ACCESS_KEY": "a-secret"}
BUCKET = "predictbench"


@pytest.fixture
def store() -> Iterator[dict[str, str]]:
    """An object store with an empty bucket, as settings."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEYS["STAGING_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["STAGING_S3_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield {
        "STAGING_URI": f"s3://{BUCKET}/some/folder",
        "STAGING_S3_ENDPOINT_URL": endpoint,
        "STAGING_S3_REGION": "us-east-1",
    } | KEYS
    server.stop()


def test_a_runner_that_finds_only_the_store_goes_on(store: dict[str, str], make_run: MakeRun, tmp_path: Path) -> None:
    settings = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:Noted"}
    daily = make_run(World(markets_per_day=20), **settings, **store)
    killed = daily.forked(killed_at="predictbench_assets.database.leases:Lease.finish:before:1")
    assert killed.exit_code == -9, killed.output
    requests = sum(daily.sandbox.requests.values())
    assert not (daily.folder / "home").exists()

    calls = tmp_path / "calls"
    ran = daily.here(TEST_CALLS=str(calls))

    assert ran.exit_code == 0
    assert ran.said["processed_markets"] == 20
    assert ran.said["snapshot"]["uri"].startswith(f"s3://{BUCKET}/some/folder/")
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
