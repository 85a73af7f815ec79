"""Rights of the roles of a deployment: what each needs on our tables, and no others.

`migrations/roles.sql` makes the roles, once, and gives these rights too (running `database.migrations` as a program
keeps its copy in step). They are given again with every migration, so that a new table never waits for someone to
remember them; roles that a server does not have are passed over.
"""

from collections.abc import Mapping
from typing import Final

from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE, VIEWS

OWNER: Final = "predictbench_owner"
WRITER: Final = "predictbench_writer"
READER: Final = "predictbench_reader"
DAGSTER: Final = "predictbench_dagster"

API_ROLES: Final = ("anon", "authenticated", "service_role")
"""Whom Supabase's public REST API works as; none of them may enter our schema."""

_READ = ("SELECT",)
_ADD = ("SELECT", "INSERT")
_CHANGE = ("SELECT", "INSERT", "UPDATE")

WRITER_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    VERSION_TABLE: _READ,
    "archives": _ADD,
    "events": _CHANGE,
    # Forecasts and observations are only ever added: not even a stolen password of the writer's changes one.
    "experiment_results": _ADD,
    "experiment_runs": _ADD,
    # Scores of a market whose resolution was reopened; whatever leaves can be computed again.
    "experiment_scores": (*_CHANGE, "DELETE"),
    "experiments": _CHANGE,
    "forecast_digests": _ADD,
    "leaderboard_rows": _ADD,
    "leaderboards": _ADD,
    "model_calls": _CHANGE,
    # Contracts that a market no longer has, and the failures that an attempt stores anew.
    "processed_contracts": (*_CHANGE, "DELETE"),
    "processing_failures": (*_CHANGE, "DELETE"),
    "processed_markets": _CHANGE,
    "processing_attempts": _CHANGE,
    "processing_runs": _CHANGE,
    "resolution_checks": _CHANGE,
    "resolution_observations": _ADD,
    # Added by triggers, which have the rights of the role that stores; removed by the sweep.
    "resolutions_due": (*_ADD, "DELETE"),
    "scored_runs": _CHANGE,
    # The same, removed by scoring.
    "scores_due": (*_ADD, "DELETE"),
    "snapshots": _CHANGE,
    **dict.fromkeys(VIEWS, _READ),
}
"""Rights of the daily run, the journal of resolutions and `predictbench prune`, by table and view."""


def grants_sql() -> str:
    """One statement that gives writer and reader exactly their rights on the tables that are there."""
    # No percent sign in it: drivers take those for parameters.
    wanted = ",\n        ".join(f"('{table}', '{', '.join(rights)}')" for table, rights in WRITER_NEEDS.items())
    return f"""\
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        {wanted}
    ) AS t(name, rights) WHERE to_regclass('{SCHEMA}.' || name) IS NOT NULL LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{WRITER}') THEN
            EXECUTE 'REVOKE ALL ON {SCHEMA}.' || wanted.name || ' FROM {WRITER}';
            EXECUTE 'GRANT ' || wanted.rights || ' ON {SCHEMA}.' || wanted.name || ' TO {WRITER}';
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{READER}') THEN
            EXECUTE 'REVOKE ALL ON {SCHEMA}.' || wanted.name || ' FROM {READER}';
            EXECUTE 'GRANT SELECT ON {SCHEMA}.' || wanted.name || ' TO {READER}';
        END IF;
    END LOOP;
END $$"""  # noqa: S608 - put together from the names above
