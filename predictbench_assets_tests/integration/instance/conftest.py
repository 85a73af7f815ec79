"""An object store, an exchange and a database, as settings of whoever works on them."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

# The definitions read the environment when they are imported; here that is the defaults, whatever the machine has set.
os.environ["PREDICTBENCH_ENV_FILE"] = ""

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.harness import NOW, DailyRun
from predictbench_assets_tests.integration.instance.services import dagster_url, deployed_home

BUCKET = "predictbench"
SECRET = "a-planted-s3-secret"


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of an object store with an empty bucket."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="an-id",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(object_store: str, tmp_path: Path) -> dict[str, str]:
    """A folder of the bucket for this test alone, as settings."""
    return {
        "STAGING_URI": f"s3://{BUCKET}/{tmp_path.name}",
        "STAGING_S3_ENDPOINT_URL": object_store,
        "STAGING_S3_REGION": "us-east-1",
        "STAGING_S3_ACCESS_KEY_ID": "an-id",
        "STAGING_S3_SECRET_ACCESS_KEY": SECRET,
    }


@pytest.fixture(scope="session")
def exchange() -> Iterator[SandboxServer]:
    """A small exchange without faults."""
    with serve(World(markets_per_day=20), now=NOW) as server:
        yield server


@pytest.fixture
def runner(tmp_path: Path, database_url: str, store: dict[str, str], exchange: SandboxServer) -> DailyRun:
    """A machine that runs `dagster job execute` on the deployed instance; nothing of it is needed afterwards."""
    folder = tmp_path / "runner"
    deployed_home(folder / "dagster")
    return DailyRun(folder, database_url, exchange, store | {"DAGSTER_POSTGRES_URL": dagster_url(database_url)})
