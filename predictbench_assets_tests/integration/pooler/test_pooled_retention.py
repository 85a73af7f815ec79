"""Pruning and exporting through a pooler in transaction mode, with other clients on the same server connections."""

from datetime import timedelta
from pathlib import Path

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.privileges import OWNER, WRITER
from predictbench_assets.dataset.export import export_tables
from predictbench_assets.retention.raw_snapshots import restore_raw_snapshots, verify_archives
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.builders import KEY
from predictbench_assets_tests.kit.builders import NOW as WRITTEN_AT
from predictbench_assets_tests.kit.deployment import Deployment
from predictbench_assets_tests.kit.pooler import Pgbouncer, others_taking_turns
from predictbench_assets_tests.kit.stored_days import NOW, Stored

MARKETS = range(12_000, 12_040)


def test_raw_snapshots_move_and_tables_are_exported(
    deployment: Deployment, pooler: Pgbouncer, database: str, tmp_path: Path
) -> None:
    archive = StagingArea(str(tmp_path / "archive"))
    owner, writer = make_engine(deployment.url(OWNER, database)), make_engine(pooler.url(WRITER, database))
    stored = Stored(writer, archive)
    with others_taking_turns(pooler.url(WRITER, database)):
        stored.run(*MARKETS)
        before = stored.raw()
        Stored(owner, archive).settled(*MARKETS)
        assert stored.prune(batch=7).count == 40
        assert stored.prune(batch=7).count == 0
        days = {"since": WRITTEN_AT.date(), "until": WRITTEN_AT.date() + timedelta(days=1)}
        area = StagingArea(str(tmp_path / "export"))
        manifest = export_tables(writer, area, **days, format_="jsonl", now=NOW, git_sha=None)
        assert manifest.rows == 1 + 40 + 40
        assert verify_archives(writer, archive).problems == ()
        assert restore_raw_snapshots(writer, archive, key=KEY) == 40
        assert stored.raw() == before
    for engine in (owner, writer):
        engine.dispose()
