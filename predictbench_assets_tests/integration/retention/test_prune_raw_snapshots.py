"""Raw snapshots leave the database only for a verified archive, and only when nobody needs them there."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from predictbench_assets.database.errors import DatabaseUnavailable
from predictbench_assets.experiments.history import settled_markets
from predictbench_assets.retention import raw_snapshots
from predictbench_assets.retention.archive import ArchiveBroken, archived_rows, open_archive, write_archive
from predictbench_assets.retention.raw_snapshots import NothingArchived, restore_raw_snapshots, verify_archives
from predictbench_assets.retention.stored import RawSnapshot
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFileBroken, StagingArea
from predictbench_assets_tests.kit.stored_days import DAYS, KEY, NOW, SETTLED, Stored

EARLIER = SETTLED - timedelta(days=1)
LATER = SETTLED + timedelta(days=1)


def test_raw_snapshots_of_settled_markets_move_and_can_be_put_back(stored: Stored) -> None:
    stored.run(1, 2, 3)
    before = stored.raw()
    stored.settled(1, 2)
    pruned = stored.prune()
    assert (pruned.count, pruned.kept) == (2, 0)
    assert pruned.bytes
    assert stored.archived() == {"m1", "m2"}
    assert stored.scalar("SELECT count(DISTINCT raw_archive_id) FROM predictbench.processed_markets") == 1
    found = verify_archives(stored.engine, stored.archive)
    assert (found.archives, found.rows, found.problems) == (1, 2, ())

    assert restore_raw_snapshots(stored.engine, stored.archive, market_id="m1") == 1
    assert stored.archived() == {"m2"}
    assert restore_raw_snapshots(stored.engine, stored.archive, key=KEY) == 1
    assert stored.raw() == before
    with pytest.raises(NothingArchived, match="2026-02-02"):
        restore_raw_snapshots(stored.engine, stored.archive, key=KEY)


def test_a_second_prune_does_nothing(stored: Stored) -> None:
    stored.run(1, 2)
    stored.settled(1, 2)
    assert stored.prune(dry_run=True).count == 2
    assert stored.raw().keys() == {"m1", "m2"}
    assert stored.archive.list("") == []
    stored.prune()
    files = stored.archive.list("")
    assert stored.prune().count == 0
    assert stored.prune(dry_run=True).count == 0
    assert stored.archive.list("") == files


OBSERVED: Mapping[str, tuple[Callable[[Stored], None], bool]] = {
    "never observed": (lambda _: None, False),
    "long final": (lambda s: s.settled(1), True),
    "final for a day too few": (lambda s: s.settled(1, at=LATER), False),
    "final again and again, since long": (lambda s: [s.settled(1, at=at) for at in (SETTLED, LATER)], True),
    "taken back": (lambda s: [s.settled(1, at=EARLIER), s.observe(1, "disputed")], False),
    "settled anew, not long ago": (lambda s: [s.settled(1, at=EARLIER), s.observe(1, "final", 0.0, at=LATER)], False),
    "settled anew, long ago": (lambda s: [s.settled(1, at=EARLIER), s.observe(1, "final", 0.0)], True),
    "the same again after a doubt": (
        lambda s: [s.settled(1, at=EARLIER), s.observe(1, "disputed", at=SETTLED), s.settled(1, at=LATER)],
        False,
    ),
    "given up": (lambda s: s.observe(1, "gave_up"), False),
}


@pytest.mark.parametrize("observed", OBSERVED)
def test_how_long_a_market_must_have_been_settled(stored: Stored, observed: str) -> None:
    stored.run(1, 2)
    stored.settled(2)  # its run is looked at in any case
    happened, leaves = OBSERVED[observed]
    happened(stored)
    assert stored.prune(dry_run=True).count == 1 + leaves
    assert stored.prune().count == 1 + leaves
    assert stored.archived() == ({"m1", "m2"} if leaves else {"m2"})


def test_a_run_that_is_under_way_is_left_alone_unless_nobody_is_at_it(stored: Stored) -> None:
    stored.run(1, ended=False)
    stored.settled(1)
    stored.execute("UPDATE predictbench.processing_runs SET heartbeat_at = :at", at=NOW - timedelta(hours=1))
    assert stored.prune().count == 0
    stored.execute("UPDATE predictbench.processing_runs SET heartbeat_at = :at", at=NOW - timedelta(days=2))
    assert stored.prune().count == 1


def test_batches_are_bounded_and_each_has_an_archive(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.run(*range(7))
    stored.run(*range(3), key=RunKey(date(2026, 2, 3), 7), probability=0.5)
    stored.settled(*range(7))
    assert stored.prune(batch=3).count == 10
    sizes = stored.rows("SELECT rows FROM predictbench.archives ORDER BY rows")
    assert [size for (size,) in sizes] == [1, 3, 3, 3]
    assert len(stored.archive.list("raw_snapshots/2026-02-02_w7")) == 3
    assert verify_archives(stored.engine, stored.archive).problems == ()

    restore_raw_snapshots(stored.engine, stored.archive, key=KEY)
    monkeypatch.setattr(raw_snapshots, "BATCH_BYTES", 1)
    assert stored.prune().count == 7
    assert len(stored.archive.list("raw_snapshots/2026-02-02_w7")) == 3 + 6  # one market alone was archived before


@contextmanager
def _locked(stored: Stored, market: str) -> Iterator[None]:
    """Someone else is writing that row."""
    with stored.engine.connect() as connection, connection.begin():
        connection.execute(
            text("SELECT FROM predictbench.processed_markets WHERE market_id = :market FOR UPDATE"), {"market": market}
        )
        yield


def test_a_row_that_is_being_written_stays_for_the_next_time(stored: Stored) -> None:
    stored.run(1, 2)
    stored.settled(1, 2)
    with _locked(stored, "m2"):
        pruned = stored.prune()
    assert (pruned.count, pruned.kept) == (1, 1)
    assert any("next time" in note for note in pruned.notes)
    assert stored.archived() == {"m1"}
    assert stored.prune().count == 1
    assert verify_archives(stored.engine, stored.archive).problems == ()


def test_a_row_that_changed_after_it_was_archived_stays(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.run(1, 2)
    stored.settled(1, 2)

    def meddled(area: StagingArea, key: RunKey, rows: list[RawSnapshot]) -> Any:
        written = write_archive(area, key, rows)
        stored.execute('UPDATE predictbench.processed_markets SET raw_snapshot = \'{"id": "new"}\'')
        return written

    with monkeypatch.context() as patched:
        patched.setattr(raw_snapshots, "write_archive", meddled)
        assert stored.prune().count == 0
    assert stored.archived() == set()
    assert stored.scalar("SELECT count(*) FROM predictbench.archives") == 0
    assert stored.prune().count == 2
    restore_raw_snapshots(stored.engine, stored.archive, key=KEY)
    assert stored.raw() == {"m1": {"id": "new"}, "m2": {"id": "new"}}


class Killed(BaseException):
    """Ends the process wherever it is."""


@pytest.mark.parametrize("at", ["write_archive", "move_to_archive", "the second batch"])
def test_a_kill_loses_nothing_and_the_next_prune_goes_on(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    stored.run(*range(4))
    before = stored.raw()
    stored.settled(*range(4))
    seen = 0

    def killed(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if at == "move_to_archive" or seen == 2:
            raise Killed
        result = real(*arguments)
        if at == "write_archive":
            raise Killed
        return result

    name = at if at != "the second batch" else "move_to_archive"
    real = getattr(raw_snapshots, name)
    with monkeypatch.context() as patched:
        patched.setattr(raw_snapshots, name, killed)
        with pytest.raises(Killed):
            stored.prune(batch=2)
    assert len(stored.archived()) == (2 if at == "the second batch" else 0)
    orphans = stored.archive.list("")
    stored.prune(batch=2)
    assert len(stored.archived()) == 4
    assert set(orphans) <= set(stored.archive.list(""))
    assert len(stored.archive.list("")) == 2, "what was left behind is used again"
    assert verify_archives(stored.engine, stored.archive).problems == ()
    restore_raw_snapshots(stored.engine, stored.archive, key=KEY)
    assert stored.raw() == before


def test_nothing_leaves_for_an_archive_that_does_not_hold_it(stored: Stored) -> None:
    """The place says that it has written, and has written something else."""
    stored.run(1)
    stored.settled(1)

    class Lossy(StagingArea):
        def _put(self, path: str, head: bytes, body: Any) -> None:
            super()._put(path, head, body)
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[:-10])

    area = Lossy(stored.archive.root)
    with pytest.raises((StagedFileBroken, ArchiveBroken)):
        raw_snapshots.prune_raw_snapshots(stored.engine, area, now=NOW, days=DAYS)
    assert stored.archived() == set()
    assert stored.scalar("SELECT count(*) FROM predictbench.archives") == 0


def test_verification_finds_what_is_damaged_gone_or_not_ours(stored: Stored) -> None:
    for day in (2, 3, 4):
        stored.run(1, 2, key=RunKey(date(2026, 2, day), 7), probability=day / 10)
    stored.settled(1, 2)
    stored.prune()
    names = stored.archive.list("")
    damaged, gone, replaced = (Path(stored.archive.path(name)) for name in names)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    gone.unlink()
    write_archive(stored.archive, KEY, [RawSnapshot(KEY.run_id, "m9", "{}")])
    [other] = set(stored.archive.list("")) - set(names)
    Path(stored.archive.path(other)).replace(replaced)
    found = verify_archives(stored.engine, stored.archive)
    assert len(found.problems) == 3
    assert "is not the archive that was registered" in "".join(found.problems)
    with pytest.raises((ArchiveBroken, StagedFileBroken)):
        restore_raw_snapshots(stored.engine, stored.archive, key=RunKey(date(2026, 2, 2), 7))
    assert stored.raw() == {}


def test_markets_that_were_written_again_are_archived_again(stored: Stored) -> None:
    """A rerun of an old partition puts its raw rows back; they leave once more, into the file that is there."""
    stored.run(1, 2)
    before = stored.raw()
    stored.settled(1, 2)
    stored.prune()
    files = stored.archive.list("")
    stored.run(1, 2, probability=0.7)
    assert stored.raw() == before
    assert stored.prune().count == 2
    assert stored.archive.list("") == files
    assert verify_archives(stored.engine, stored.archive).problems == ()


def test_scores_never_need_what_was_pruned(stored: Stored) -> None:
    """Neither the history that experiments see nor the views: both are the same before and after."""

    def everything() -> list[Any]:
        views = [
            stored.rows(f"SELECT * FROM predictbench.{view} ORDER BY 1, 2")
            for view in ("latest_experiment_results", "market_resolutions")
        ]
        return [list(settled_markets(stored.engine, NOW)), *views]

    stored.run(1, 2, 3)
    stored.run(1, 2, 3, probability=0.8)
    stored.settled(1, 2)
    before = everything()
    assert [market.market_id for market in before[0]] == ["m1", "m2"]
    stored.prune()
    assert stored.archived() == {"m1", "m2"}
    assert everything() == before
    # So that the above cannot be luck: a column that is not there cannot be read.
    stored.execute("ALTER TABLE predictbench.processed_markets DROP COLUMN raw_snapshot")
    assert everything() == before


def test_two_prunes_at_once_share_the_work(stored: Stored) -> None:
    stored.run(*range(40))
    before = stored.raw()
    stored.settled(*range(40))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(stored.prune(batch=5).count)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 40
    assert verify_archives(stored.engine, stored.archive).problems == ()
    restore_raw_snapshots(stored.engine, stored.archive, key=KEY)
    assert stored.raw() == before


def test_a_database_that_went_away_is_told(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.run(1)
    stored.settled(1)

    def gone(*_: Any) -> int:
        raise DatabaseUnavailable("the database is not available: it broke")

    monkeypatch.setattr(raw_snapshots, "move_to_archive", gone)
    with pytest.raises(DatabaseUnavailable):
        stored.prune()
    assert stored.archived() == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(json_values, min_size=1, max_size=3))
def test_any_json_comes_back_as_it_was(values: list[Any], tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    rows = [RawSnapshot(UUID(int=number), f"m{number}", json.dumps(value)) for number, value in enumerate(values)]
    written = write_archive(area, KEY, rows)
    assert write_archive(area, KEY, rows) == written
    read = list(archived_rows(open_archive(area, written.uri, written.sha256)))
    assert [(row.processed_market_id, row.market_id, bytes(row.raw).decode()) for row in read] == [
        (row.processed_market_id, row.market_id, row.raw) for row in rows
    ]


def test_numbers_keep_every_digit(stored: Stored) -> None:
    """jsonb keeps more digits than a Python float; neither archive nor restore may lose them."""
    stored.run(1)
    stored.settled(1)
    number = "0.12345678901234567890123456789"
    stored.execute(
        f'UPDATE predictbench.processed_markets SET raw_snapshot = \'{{"n"\\: {number}, "i"\\: 1{"0" * 30}}}\''
    )
    before = stored.scalar("SELECT raw_snapshot::text FROM predictbench.processed_markets".replace(":", "\\:"))
    assert number in before
    assert stored.prune().count == 1
    restore_raw_snapshots(stored.engine, stored.archive, market_id="m1")
    assert stored.scalar("SELECT raw_snapshot::text FROM predictbench.processed_markets".replace(":", "\\:")) == before
