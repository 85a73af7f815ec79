"""Staged files: whole or not at all, lazily read, and honest about what they hold."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.staging import (
    OutsideOfArea,
    Schema,
    StagedFileBroken,
    StagedFileMissing,
    StagedSchemaUnknown,
    StagingArea,
    UnknownStore,
)

ROWS = Schema("rows", 1)
NAME = "asset/2026-11-23/7.jsonl.zst"


@pytest.fixture(params=["folder", "memory"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}")


def lines(count: int) -> Iterator[bytes]:
    return (b'{"number":%d}' % number for number in range(count))


def test_what_is_published_is_read_back(area: StagingArea) -> None:
    area.publish(NAME, ROWS, {"note": "here"}, lines(5_000))
    staged = area.open(NAME, ROWS)
    assert (staged.rows, staged.meta) == (5_000, {"note": "here"})
    assert [row["number"] for row in staged] == list(range(5_000))
    assert [row["number"] for row in staged][:3] == [0, 1, 2], "a staged file can be read again"


def test_an_empty_file_is_a_file(area: StagingArea) -> None:
    area.publish(NAME, ROWS, {}, ())
    assert list(area.open(NAME, ROWS)) == []


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers(-(2**40), 2**40)), max_size=30))
def test_any_rows_survive(rows: list[dict[str, object]]) -> None:
    area = StagingArea("memory://any")
    area.publish(NAME, ROWS, {}, (msgspec.json.encode(row) for row in rows))
    assert list(area.open(NAME, ROWS)) == rows


@pytest.mark.parametrize("uri", ["nonsense://place", "ftp://127.0.0.1:9/place", "s3://"])
def test_an_address_without_a_store_is_told(uri: str) -> None:
    with pytest.raises(UnknownStore, match=f"{uri} is no place.*s3://bucket/prefix"):
        StagingArea(uri)


def test_a_missing_file_says_what_to_do(area: StagingArea) -> None:
    with pytest.raises(StagedFileMissing, match="materialize the asset"):
        area.open(NAME, ROWS)
    assert not area.exists(NAME)


def test_a_writer_that_fails_half_way_publishes_nothing(area: StagingArea) -> None:
    def torn() -> Iterator[bytes]:
        yield b"{}"
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError):
        area.publish(NAME, ROWS, {}, torn())
    assert area.list("") == []


def test_a_failed_rewrite_leaves_the_old_file(area: StagingArea) -> None:
    area.publish(NAME, ROWS, {}, lines(3))

    def torn() -> Iterator[bytes]:
        yield b"{}"
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError):
        area.publish(NAME, ROWS, {}, torn())
    assert len(list(area.open(NAME, ROWS))) == 3


def test_a_truncated_file_cannot_pass_for_a_short_one(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    area.publish(NAME, ROWS, {}, lines(2))
    path = tmp_path / NAME
    header = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    path.write_bytes(zstandard.compress(header) + zstandard.compress(b'{"number":0}\n'))
    with pytest.raises(StagedFileBroken, match="holds 1 rows where its header says 2"):
        list(area.open(NAME, ROWS))


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    area.publish(NAME, ROWS, {}, lines(1))
    path = tmp_path / NAME
    header = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    path.write_bytes(zstandard.compress(header) + zstandard.compress(b'{"number":1}\n'))
    with pytest.raises(StagedFileBroken, match="other bytes"):
        list(area.open(NAME, ROWS))


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    (tmp_path / "asset").mkdir()
    (tmp_path / "asset" / "x").write_bytes(b"no zstd at all")
    with pytest.raises(StagedFileBroken, match="no readable header"):
        area.open("asset/x", ROWS)


@pytest.mark.parametrize("header", [b"[1]", b'{"schema":"rows"}', b'{"schema":"rows","version":"1"}', b""])
def test_a_header_that_lacks_something_is_refused(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(zstandard.compress(header + b"\n"))
    with pytest.raises(StagedFileBroken, match="no readable header"):
        StagingArea(str(tmp_path)).open("x", ROWS)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StagedFileBroken, match=r"x cannot be read \(is a directory\)"):
        StagingArea(str(tmp_path)).open("x", ROWS)


def test_rows_that_cannot_be_unpacked_are_noticed(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    area.publish(NAME, ROWS, {}, lines(200_000))  # more than is read at once
    path = tmp_path / NAME
    packed = path.read_bytes()
    path.write_bytes(packed[: 2 * len(packed) // 3] + bytes(len(packed) // 3))
    with pytest.raises(StagedFileBroken, match=r"cannot be unpacked after \d+ rows: it was damaged"):
        for _ in area.open(NAME, ROWS).lines():
            pass


def test_the_version_before_still_loads_and_older_ones_do_not(area: StagingArea) -> None:
    area.publish(NAME, ROWS, {}, lines(2))
    second = Schema("rows", 2, upgrade=lambda row: {"value": row["number"]})
    assert list(area.open(NAME, second)) == [{"value": 0}, {"value": 1}]
    with pytest.raises(StagedSchemaUnknown, match="v2 to v3"):
        area.open(NAME, Schema("rows", 3, upgrade=lambda row: row))


class Noted(msgspec.Struct, kw_only=True):
    """A header whose second key came later."""

    at: datetime
    asked: int = 0


def test_a_header_is_typed_and_an_older_one_has_defaults(area: StagingArea) -> None:
    now = datetime(2026, 11, 23, 7, tzinfo=UTC)
    area.publish(NAME, ROWS, Noted(at=now, asked=3), lines(1))
    assert area.open(NAME, ROWS).header(Noted) == Noted(at=now, asked=3)
    area.publish(NAME, ROWS, {"at": "2026-11-23T07:00:00+00:00", "gone": True}, lines(1))
    assert area.open(NAME, ROWS).header(Noted) == Noted(at=now)


def test_a_header_that_lacks_what_it_needs_is_broken(area: StagingArea) -> None:
    staged = area.publish(NAME, ROWS, {"asked": 3}, lines(1))
    with pytest.raises(StagedFileBroken, match="`at`"):
        staged.header(Noted)


def test_a_newer_or_another_schema_is_refused(area: StagingArea) -> None:
    area.publish(NAME, Schema("rows", 2), {}, ())
    with pytest.raises(StagedSchemaUnknown):
        area.open(NAME, ROWS)
    with pytest.raises(StagedSchemaUnknown):
        area.open(NAME, Schema("others", 2))


def test_a_file_is_found_by_its_address_from_another_area(tmp_path: Path) -> None:
    staged = StagingArea(str(tmp_path / "one")).publish(NAME, ROWS, {}, lines(2))
    assert len(list(StagingArea(str(tmp_path / "two")).open_uri(staged.uri, ROWS))) == 2


def test_nothing_half_written_is_ever_listed(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    seen: list[list[str]] = []

    def spying() -> Iterator[bytes]:
        for line in lines(3):
            seen.append(area.list(""))
            yield line

    area.publish(NAME, ROWS, {}, spying())
    assert seen == [[], [], []]
    assert area.list("") == [NAME]


def test_plain_files_come_and_go(area: StagingArea) -> None:
    area.write_bytes("artifacts/a.txt", b"text")
    assert area.read_bytes("artifacts/a.txt") == b"text"
    area.delete("artifacts/a.txt")
    area.delete("artifacts/a.txt")
    assert not area.exists("artifacts/a.txt")


LEADING_OUT = ("../outside", "a/../../outside", "..", "/outside", "a/./b", "a\\..\\outside", "artifacts/..")


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_name_that_leaves_the_area_is_refused(name: str, tmp_path: Path) -> None:
    for area in (StagingArea(str(tmp_path / "area")), StagingArea("memory://area")):
        for use in (area.uri, area.exists, area.peek, area.read_bytes, area.delete, area.list):
            with pytest.raises(OutsideOfArea, match="no name of a file in"):
                use(name)
        with pytest.raises(OutsideOfArea):
            area.write_bytes(name, b"planted")
        with pytest.raises(OutsideOfArea):
            area.publish(name, ROWS, {}, lines(1))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_address_that_goes_up_from_the_area_is_refused(area: StagingArea) -> None:
    with pytest.raises(OutsideOfArea):
        area.open_uri(f"{area.uri('a')}/../../outside", ROWS)


@pytest.mark.parametrize("name", ["..a/b", "a/...", "a/b..c", ".hidden/x", "a//b"])
def test_dots_that_lead_nowhere_are_part_of_a_name(area: StagingArea, name: str) -> None:
    area.write_bytes(name, b"here")
    assert area.read_bytes(name) == b"here"


def test_an_address_of_when_staging_was_in_a_bucket_is_told_from_a_missing_file(area: StagingArea) -> None:
    with pytest.raises(UnknownStore, match="STAGING_URI is not: there are no keys for it"):
        area.open_uri("s3://bucket/prefix/a.jsonl.zst", ROWS)
