"""Fixtures of every test: a database of its own on a real Postgres, a bucket of its own on a real S3 API."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic_ai import models
from sqlalchemy import Engine

from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets_tests.kit.database import TEMPLATE, administer, database_of, in_database

# No test asks a real model: `stand_in_server` switches it on for those that ask the stand-in on this machine.
models.ALLOW_MODEL_REQUESTS = False

# A shell's background job begins with interrupts ignored, which all children inherit; and a run of Dagster in this
# process leaves SIGTERM handled as interrupts are, so that no child could be told to end any more.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["predictbench_assets_tests.kit.fixtures"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has printed or logged, as text that can be handed from one process to another: surrogates cannot."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


_OF_THE_DEMO = ("EXPERIMENTS_FILE", "MODEL_PRICES_FILE", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@pytest.fixture(autouse=True)
def experiments_as_they_were() -> Iterator[None]:
    """A demo that a test has entered turns this process to its own experiments, for all later tests."""
    before = {name: os.environ.get(name) for name in _OF_THE_DEMO}
    yield
    for name, text in before.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


@pytest.fixture(autouse=True)
def our_logger_as_it_was() -> Iterator[None]:
    """Dagster sets the level of the loggers that an instance manages, for the rest of the process."""
    logger = logging.getLogger("predictbench_assets")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of an S3 API for the whole session."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(object_store: str) -> dict[str, str]:
    """A folder of an empty bucket for this test alone, as the settings of staging."""
    bucket = f"bucket-{uuid4().hex[:12]}"
    settings = {
        "STAGING_URI": f"s3://{bucket}/some/folder",
        "STAGING_S3_ENDPOINT_URL": object_store,
        "STAGING_S3_REGION": "us-east-1",
        "STAGING_S3_ACCESS_KEY_ID": "planted-key-id",
        "STAGING_S3_SECRET_ACCESS_KEY": "planted-secret-key",
    }
    client = boto3.client(
        "s3",
        endpoint_url=object_store,
        region_name=settings["STAGING_S3_REGION"],
        aws_access_key_id=settings["STAGING_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["STAGING_S3_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=bucket)
    client.close()
    return settings


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A server for the whole session, in a folder with a short path; commits do not wait for the disk."""
    folder = Path(tempfile.mkdtemp(prefix="pb-"))
    with EmbeddedPostgres(folder, durable=False) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database that nobody connects to, for copies."""
    administer(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    migrations.upgrade(in_database(postgres_server, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database for this test alone."""
    with database_of(postgres_server, f"TEMPLATE {migrated_template}") as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database for this test alone that has no tables yet."""
    with database_of(postgres_server, "") as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on `database_url`, with the pool of two that production has."""
    made = make_engine(database_url, pool_size=2)
    yield made
    made.dispose()
