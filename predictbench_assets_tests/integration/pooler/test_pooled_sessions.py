"""What a session begins with, behind a pooler that lends connections by the transaction."""

import datetime as dt

from sqlalchemy import text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.privileges import WRITER
from predictbench_assets_tests.kit.deployment import Deployment, run
from predictbench_assets_tests.kit.pooler import POOL, Pgbouncer, left_behind

ASKED = "SELECT current_setting('TimeZone'), current_setting('DateStyle'), timestamptz '2026-02-02 23:30:00+00'"


def test_sessions_are_in_utc_whatever_the_role_is_set_to_and_others_leave_behind(
    pooler: Pgbouncer, deployment: Deployment, database: str
) -> None:
    owner = deployment.url("postgres", database)
    run(owner, f"ALTER ROLE {WRITER} IN DATABASE {database} SET timezone = 'Asia/Tokyo'")
    run(owner, f"ALTER ROLE {WRITER} IN DATABASE {database} SET datestyle = 'SQL, DMY'")
    pooler.restart()
    url = pooler.url(WRITER, database)
    left_behind(url, "SET timezone = 'America/Chicago'")
    left_behind(url, "SET datestyle = 'German, DMY'")
    engine = make_engine(url, pool_size=POOL)
    for _ in range(2 * POOL):
        with engine.connect() as connection:
            zone, style, instant = connection.execute(text(ASKED)).one()
        assert (zone, style) == ("UTC", "ISO, MDY")
        assert instant.isoformat() == "2026-02-02T23:30:00+00:00"
        assert instant == dt.datetime(2026, 2, 2, 23, 30, tzinfo=dt.UTC)
    engine.dispose()
