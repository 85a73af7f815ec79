"""Where the archive is."""

import pytest

from predictbench_assets.settings import SettingsError, load_settings

DEPLOYED = {"environment": "production", "supabase_db_url": "postgresql://u:p@db.example:5432/d"}


@pytest.mark.parametrize(
    ("staging", "archive"),
    [
        ("/data/staging", "/data/archive"),
        ("s3://bucket", "s3://bucket/archive"),
        ("s3://bucket/staging/", "s3://bucket/archive"),
        ("s3://bucket/some/staging", "s3://bucket/some/archive"),
    ],
)
def test_the_archive_is_beside_staging_unless_it_is_named(staging: str, archive: str) -> None:
    assert load_settings(staging_uri=staging).archive == archive
    elsewhere = f"{staging.rstrip('/')}-of-old"
    assert load_settings(staging_uri=staging, archive_uri=elsewhere).archive == elsewhere


def test_what_leaves_a_deployments_database_may_not_stay_on_the_runner() -> None:
    with pytest.raises(SettingsError, match="ARCHIVE_URI: may not be a local folder"):
        load_settings(**DEPLOYED, staging_uri="s3://bucket/staging", archive_uri="archive")


def test_one_set_of_credentials_opens_both() -> None:
    with pytest.raises(SettingsError, match="ARCHIVE_URI: must be in the same kind of store"):
        load_settings(staging_uri="/data/staging", archive_uri="s3://bucket/archive")
