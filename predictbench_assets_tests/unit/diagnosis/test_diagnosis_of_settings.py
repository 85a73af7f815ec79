"""What doctor says of the settings themselves, and of who is told."""

from pathlib import Path

import pytest

from predictbench_assets.diagnosis.configuration import notification_findings, settings_findings
from predictbench_assets.settings import Settings, load_settings


def test_every_problem_is_a_failure_and_every_misspelt_name_a_warning(own_environment: Path) -> None:
    (own_environment / ".env").write_text("DATABSE_URL=x\nENVIRONMENT=development\n")
    settings = load_settings(supabase_db_url="postgresql://a:secret@b/c")
    found = list(settings_findings(settings, ["HORIZONS: are odd", "STAGING_URI: required"]))
    assert [(one.level, one.found) for one in found] == [
        ("fail", "HORIZONS: are odd"),
        ("fail", "STAGING_URI: required"),
        ("warn", settings.warnings[0]),
        ("warn", "DATABSE_URL in .env is no setting of Predictbench"),
    ]
    assert "HORIZONS" in found[0].fix
    assert found[3].fix


def test_good_settings_are_one_line() -> None:
    [finding] = settings_findings(Settings(), [])
    assert (finding.level, finding.found) == ("ok", "ENVIRONMENT=development, 0 set")


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, ["skip", "skip"]),
        ({"notify_webhook_url": "http://127.0.0.1:9/secret", "dead_man_url": "http://127.0.0.1:9/d"}, ["ok", "ok"]),
        (
            {
                "environment": "production",
                "supabase_db_url": "postgresql://a:secret@b/c",
                "staging_uri": "s3://bucket/staging",
            },
            ["warn", "warn"],
        ),
    ],
)
def test_who_is_told_is_looked_at_without_calling_anybody(changes: dict[str, str], levels: list[str]) -> None:
    found = list(notification_findings(Settings(**changes)))
    assert [one.level for one in found] == levels
    assert not any("secret" in one.found + one.fix for one in found)
