"""GitHub, Supabase's REST API, the exchange, staging, the archive and Dagster's storage, well and unwell."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.clock import FixedClock, SystemClock
from predictbench_assets.diagnosis.checks import Finding
from predictbench_assets.diagnosis.exchange import exchange_findings
from predictbench_assets.diagnosis.remote import rest_api_findings, schedule_findings
from predictbench_assets.diagnosis.storage import PROBE, archive_findings, dagster_findings, staging_findings
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.integration.diagnosis.own_settings import NOW, MakeSettings
from predictbench_assets_tests.kit.http_services import JsonService

NOBODY = "http://127.0.0.1:9"


# GitHub's schedule


@pytest.mark.parametrize(
    ("status", "body", "level", "words"),
    [
        (200, {"state": "active"}, "ok", "is enabled"),
        (200, {"state": "disabled_inactivity"}, "fail", "want of activity in 60 days"),
        (200, {"state": "disabled_manually"}, "fail", "by a person"),
        (200, {"state": "disabled_fork"}, "fail", "disabled_fork"),
        (200, ["odd"], "fail", "is disabled"),
        (404, {"message": "Not Found"}, "warn", "404"),
        (403, {"message": "rate limit exceeded"}, "warn", "403"),
    ],
)
def test_the_state_of_the_schedule(
    make_settings: MakeSettings, service: JsonService, status: int, body: object, level: str, words: str
) -> None:
    service.status, service.body = status, body
    settings = make_settings(
        github_repository="owner/name", github_api_url=service.base_url, github_token="token-never-shown"
    )
    [finding] = schedule_findings(settings)
    assert finding.level == level
    assert words in finding.found
    assert (finding.fix != "") == (level != "ok")
    if level == "fail":
        assert finding.fix == "gh workflow enable daily-pipeline.yml --repo owner/name"
    [(path, headers)] = service.asked
    assert path == "/repos/owner/name/actions/workflows/daily-pipeline.yml"
    assert headers["authorization"] == "Bearer token-never-shown"


def test_a_public_repository_is_asked_without_a_token(make_settings: MakeSettings, service: JsonService) -> None:
    service.body = {"state": "active"}
    [finding] = schedule_findings(make_settings(github_repository="owner/name", github_api_url=service.base_url))
    assert finding.level == "ok"
    assert "authorization" not in service.asked[0][1]


def test_without_a_repository_or_a_network_the_schedule_is_no_failure(make_settings: MakeSettings) -> None:
    [finding] = schedule_findings(make_settings())
    assert finding.level == "skip"
    [finding] = schedule_findings(make_settings(github_repository="owner/name", github_api_url=NOBODY))
    assert finding.level == "warn"


# Supabase's REST API


@pytest.mark.parametrize(
    ("status", "body", "level"),
    [
        (406, {"code": "PGRST106", "message": "The schema must be one of the following: public"}, "ok"),
        (200, {"swagger": "2.0"}, "fail"),
        (401, {"message": "Invalid API key"}, "warn"),
        (406, {"code": "PGRST107"}, "warn"),
        (540, None, "warn"),
    ],
)
def test_whether_the_rest_api_shows_the_schema(
    make_settings: MakeSettings, service: JsonService, status: int, body: object, level: str
) -> None:
    service.status, service.body = status, body
    settings = make_settings(supabase_service_role_key="service-role-key", supabase_api_url=service.base_url)
    [finding] = rest_api_findings(settings)
    assert finding.level == level
    assert (finding.fix != "") == (level != "ok")
    [(path, headers)] = service.asked
    assert path == "/rest/v1/"
    assert headers["accept-profile"] == "predictbench"
    assert headers["apikey"] == "service-role-key"


def test_without_the_key_or_the_project_the_rest_api_is_not_asked(make_settings: MakeSettings) -> None:
    for settings, unset in (
        (make_settings(supabase_project_ref="abc"), "SUPABASE_SERVICE_ROLE_KEY"),
        (make_settings(supabase_service_role_key="key-of-the-service"), "SUPABASE_PROJECT_REF"),
    ):
        [finding] = rest_api_findings(settings)
        assert (finding.level, finding.found.split()[0]) == ("skip", unset)


# The exchange


def test_a_good_exchange_and_its_clock(make_settings: MakeSettings) -> None:
    with serve(World(7, 30), now=NOW) as sandbox:
        settings = make_settings(polymarket_base_url=sandbox.base_url, polymarket_clob_url=sandbox.clob_url)
        found = list(exchange_findings(settings, SystemClock()))
        assert [(one.level, one.name) for one in found] == [("ok", "exchange"), ("ok", "clock of the exchange")]
        assert sum(sandbox.requests.values()) == 2

        behind = FixedClock(SystemClock().now() - timedelta(hours=1))
        [_, clock] = exchange_findings(settings, behind)
        assert clock.level == "fail"
        assert "s behind it" in clock.found


def test_an_exchange_that_is_not_there_or_is_another(make_settings: MakeSettings, service: JsonService) -> None:
    settings = make_settings(polymarket_base_url=NOBODY, polymarket_clob_url=NOBODY)
    exchange, clock = exchange_findings(settings, SystemClock())
    assert (exchange.level, clock.level) == ("fail", "skip")
    assert "POLYMARKET_BASE_URL" in exchange.fix

    service.body = {"hello": "world"}
    settings = make_settings(polymarket_base_url=service.base_url, polymarket_clob_url=service.base_url)
    [exchange, *_] = exchange_findings(settings, SystemClock())
    assert exchange.level == "fail"
    assert "predictbench contract" in exchange.fix


# Staging and the archive


def test_a_local_staging_area_is_written_to_and_left_as_it_was(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(staging_uri=str(tmp_path / "staging"))
    [finding] = staging_findings(settings)
    assert (finding.level, list(tmp_path.iterdir())) == ("ok", [])
    assert "made when it is needed" in finding.found

    (tmp_path / "staging").mkdir()
    [finding] = staging_findings(settings)
    assert finding.level == "ok"
    assert "written, read, deleted" in finding.found
    assert list(tmp_path.rglob("*")) == [tmp_path / "staging"]


def test_a_staging_area_that_cannot_be_used(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    [finding] = staging_findings(make_settings(staging_uri=str(tmp_path / "file" / "staging")))
    assert finding.level == "fail"
    assert "STAGING_URI" in finding.fix


def test_staging_in_s3(make_settings: MakeSettings, store: dict[str, str]) -> None:
    options = {name.lower(): value for name, value in store.items() if name != "STAGING_URI"}
    bucket = store["STAGING_URI"].split("/")[2]
    [finding] = staging_findings(make_settings(staging_uri="s3://bukcet/staging", **options))
    assert finding.level == "fail"
    assert "has no bucket 'bukcet'" in finding.found
    assert "correct STAGING_URI" in finding.found

    settings = make_settings(staging_uri=f"s3://{bucket}/staging", **options)
    [finding] = staging_findings(settings)
    assert finding == Finding("ok", "staging", f"s3://{bucket}/staging: written, read, deleted")
    assert [name for name in StagingArea(settings.staging, settings.staging_options).list("") if PROBE in name] == []
    [finding] = archive_findings(settings)
    assert (finding.level, finding.found) == ("ok", f"s3://{bucket}/archive: nothing archived yet")
    [finding] = archive_findings(make_settings(staging_uri=f"s3://{bucket}/s", archive_uri="s3://bukcet/a", **options))
    assert (finding.level, "has no bucket 'bukcet'" in finding.found) == ("fail", True)


def test_the_archive_is_only_looked_at(make_settings: MakeSettings, tmp_path: Path) -> None:
    [finding] = archive_findings(make_settings(archive_uri=str(tmp_path / "archive")))
    assert finding.level == "ok"
    assert list(tmp_path.iterdir()) == []


# Dagster's storage


def test_dagsters_storage(make_settings: MakeSettings, empty_database_url: str) -> None:
    [finding] = dagster_findings(make_settings())
    assert (finding.level, finding.found.split()[0]) == ("ok", "SQLite")

    deployed = {
        "environment": "staging",
        "supabase_db_url": "postgresql://a:secret@b/c",
        "staging_uri": "s3://bucket/staging",
    }
    [finding] = dagster_findings(make_settings(predictbench_now=None, **deployed))
    assert (finding.level, "DAGSTER_POSTGRES_URL" in finding.fix) == ("warn", True)

    url = make_url(empty_database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    [finding] = dagster_findings(make_settings(dagster_postgres_url=url))
    assert (finding.level, "no tables yet" in finding.found) == ("warn", True)

    [finding] = dagster_findings(make_settings(dagster_postgres_url="postgresql://a:secret@127.0.0.1:9/b"))
    assert (finding.level, "DAGSTER_POSTGRES_URL" in finding.fix) == ("fail", True)
    assert "secret" not in finding.found
