"""What a session begins with, whatever the server, the database, the role or the shell is set to."""

import datetime as dt
from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url, text

from predictbench_assets.database import health, migrations, revisions
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseUnsuitable
from predictbench_assets_tests.kit.database import administer, database_of

INSTANT = dt.datetime(2026, 2, 2, 23, 30, tzinfo=dt.UTC)


def seen(url: str) -> tuple[dict[str, str], dt.datetime]:
    """The settings of a session of ours, and an instant as it reads it."""
    names = ("TimeZone", "DateStyle", "client_encoding", "statement_timeout")
    engine = make_engine(url, pool_size=0)
    with engine.connect() as connection:
        settings = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in names}
        instant = connection.execute(text("SELECT timestamptz '2026-02-02 23:30:00+00'")).scalar_one()
    return settings, instant


@pytest.mark.parametrize("what", ["DATABASE", "ROLE", "the shell"])
def test_a_session_is_in_utc_iso_and_utf8(
    postgres_server: EmbeddedPostgres, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    name = str(make_url(empty_database_url).database)
    others = {"timezone": "Asia/Tokyo", "datestyle": "SQL, DMY", "client_encoding": "LATIN1"}
    if what == "the shell":
        for variable, value in zip(("PGTZ", "PGDATESTYLE", "PGCLIENTENCODING"), others.values(), strict=True):
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("PGOPTIONS", "-c timezone=Asia/Tokyo -c statement_timeout=77")
        url = empty_database_url
    else:
        role = f"role_{uuid4().hex[:8]}"
        administer(postgres_server, f"CREATE ROLE {role} LOGIN")
        set_up = name if what == "DATABASE" else role
        for setting, value in others.items():
            administer(postgres_server, f"ALTER {what} {set_up} SET {setting} = '{value}'")
        url = make_url(empty_database_url).set(username=role).render_as_string(hide_password=False)
    settings, instant = seen(url)
    assert settings == {
        "TimeZone": "UTC",
        "DateStyle": "ISO, MDY",
        "client_encoding": "UTF8",
        "statement_timeout": "0",
    }
    assert instant == INSTANT
    assert f"{instant:%Y-%m-%d %H:%M}" == "2026-02-02 23:30", "pages write the hour as it is read, and UTC behind it"


def test_a_database_that_is_set_up_oddly_is_migrated_as_any_other(
    postgres_server: EmbeddedPostgres, empty_database_url: str
) -> None:
    name = make_url(empty_database_url).database
    for setting in ("search_path = 'nowhere'", "standard_conforming_strings = off", "client_encoding = 'SQL_ASCII'"):
        administer(postgres_server, f"ALTER DATABASE {name} SET {setting}")
    migrations.upgrade(empty_database_url)
    revisions.require_current(make_engine(empty_database_url, pool_size=0))


def test_options_of_the_address_are_kept(empty_database_url: str) -> None:
    url = make_url(empty_database_url).update_query_dict({"options": "-c statement_timeout=78"})
    assert seen(url.render_as_string(hide_password=False))[0]["statement_timeout"] == "78ms"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_refused_before_anything_is_made_in_it(
    postgres_server: EmbeddedPostgres, encoding: str
) -> None:
    with database_of(postgres_server, f"ENCODING '{encoding}' TEMPLATE template0") as url:
        name = make_url(url).database
        with pytest.raises(DatabaseUnsuitable, match=f"{name} stores texts as {encoding}.* ENCODING 'UTF8'"):
            migrations.upgrade(url)


def test_a_role_that_reads_rounded_numbers_is_refused(
    postgres_server: EmbeddedPostgres, database_url: str, engine: Engine
) -> None:
    name = make_url(database_url).database
    revisions.require_current(engine)
    administer(postgres_server, f"ALTER DATABASE {name} SET extra_float_digits = -3")
    rounded = make_engine(database_url, pool_size=0)
    with pytest.raises(DatabaseUnsuitable, match="extra_float_digits is -3"):
        revisions.require_current(rounded)
    with pytest.raises(DatabaseUnsuitable, match="RESET extra_float_digits"):
        health.server(rounded)
