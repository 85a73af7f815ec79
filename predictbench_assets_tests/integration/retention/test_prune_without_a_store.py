"""What a person reads when something that a prune needs does not answer."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from predictbench_assets.cli.main import main
from predictbench_assets.database.engine import make_engine
from predictbench_assets.instance.storage import DagsterStorageError, classified
from predictbench_assets.settings import all_variables, load_settings

ARCHIVE = "INSERT INTO predictbench.archives VALUES (gen_random_uuid(), 's3://bucket/archive/a', 'x', 1, now())"


@pytest.mark.parametrize("arguments", [["--only", "staging"], ["--verify"]], ids=" ".join)
def test_a_store_that_does_not_answer_is_told_in_a_sentence(
    database_url: str, tmp_path: Path, arguments: list[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        environment = dict.fromkeys(all_variables()) | {
            "PREDICTBENCH_ENV_FILE": "",
            "PREDICTBENCH_HOME": str(tmp_path),
            "DATABASE_URL": database_url,
            "STAGING_URI": "s3://bucket/staging",
            "STAGING_S3_ENDPOINT_URL": f"http://127.0.0.1:{unused.getsockname()[1]}",
            "STAGING_S3_ACCESS_KEY_ID": "planted-key",
            "STAGING_S3_SECRET_ACCESS_KEY": "planted-secret",
            "AWS_MAX_ATTEMPTS": "1",
        }
        with make_engine(database_url, pool_size=0).begin() as connection:
            connection.execute(text(ARCHIVE))
        done = CliRunner(env=environment).invoke(main, ["prune", *arguments])
    assert done.exit_code == 1
    [said] = done.output.splitlines()
    assert said.startswith(f"Error: the store at {environment['STAGING_S3_ENDPOINT_URL']} cannot be reached")
    assert said.endswith("check STAGING_S3_ENDPOINT_URL.")
    assert "planted" not in done.output


def test_dagsters_storage_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    settings = load_settings(dagster_postgres_url="postgresql://dagster:planted@db.example/postgres")
    lost = OperationalError("SELECT 1", {}, Exception("server closed the connection of planted\nand more"))
    with pytest.raises(DagsterStorageError) as told, classified(settings):
        raise DagsterPostgresException("too many retries for DB connection") from lost
    assert str(told.value) == "DAGSTER_POSTGRES_URL: server closed the connection of ***"
