"""All that is done with a store, on one that takes less than AWS's: no trailing checksums, no bulk removal."""

import random
from pathlib import Path

import pytest

from predictbench_assets.experiments.segments import segment, sizes
from predictbench_assets.failures import StoreRefused
from predictbench_assets.object_store import PART_BYTES
from predictbench_assets.retention.staged_files import delete_files
from predictbench_assets.settings import load_settings
from predictbench_assets.staging import Schema, StagedFileMissing
from predictbench_assets_tests.kit.other_store import BUCKET, Answer, OpenArea, OtherStore

ROWS = Schema("rows", 1)
NAME = "asset/2026-11-23/7.jsonl.zst"


def test_a_staged_file_is_published_read_replaced_and_removed(other_store: OtherStore, open_area: OpenArea) -> None:
    area = open_area(other_store)
    assert not area.exists(NAME)
    area.publish(NAME, ROWS, {"note": "first"}, [b'{"a":1}'])
    area.publish(NAME, ROWS, {"note": "second"}, [b'{"a":2}', b'{"a":3}'])
    assert area.exists(NAME)
    assert area.peek(NAME)["meta"] == {"note": "second"}
    assert list(area.open_uri(area.uri(NAME), ROWS)) == [{"a": 2}, {"a": 3}]
    assert list(other_store.files) == [f"some/folder/{NAME}"]
    area.delete(NAME)
    area.delete(NAME)
    assert other_store.files == {}
    with pytest.raises(StagedFileMissing):
        area.open(NAME, ROWS)


def test_parts_of_a_file_are_read_and_all_pages_of_a_list(other_store: OtherStore, open_area: OpenArea) -> None:
    area = open_area(other_store)
    for number in range(5):
        area.write_bytes(f"list/{number}", b"0123456789")
    assert area.list("list") == [f"list/{number}" for number in range(5)]
    assert area.list("nothing") == []
    with area.fs.open(area.path("list/3"), block_size=4, cache_type="none") as file:
        file.seek(6)
        assert file.read(3) == b"678"
    assert {headers.get("Range") for _, _, headers in other_store.requests} == {None, "bytes=6-8"}
    assert set(area.fs.cat([area.path("list/0"), area.path("list/4")]).values()) == {b"0123456789"}


def test_a_large_file_goes_up_in_parts_of_one_size(
    plain_store: OtherStore, open_area: OpenArea, tmp_path: Path
) -> None:
    area, content = open_area(plain_store), random.Random(7).randbytes(2 * PART_BYTES + 12_345)
    with area.fs.open(area.path("written"), "wb") as target:
        for start in range(0, len(content), 1_000_003):
            target.write(content[start : start + 1_000_003])
    (tmp_path / "export").write_bytes(content)
    area.fs.put_file(str(tmp_path / "export"), area.path("put"))
    for name in ("written", "put"):
        assert plain_store.files[f"some/folder/{name}"] == content
        assert area.read_bytes(name) == content
    parts = [path for method, path, _ in plain_store.requests if method == "PUT" and "partNumber" in path]
    assert len(parts) == 6
    assert plain_store.uploads == {}


def test_files_are_removed_one_by_one(other_store: OtherStore, open_area: OpenArea) -> None:
    area = open_area(other_store)
    names = [f"old/{number}" for number in range(30)]
    for name in [*names, "kept"]:
        area.write_bytes(name, b"x")
    delete_files(area, [*names, "old/gone-already"])
    assert list(other_store.files) == ["some/folder/kept"]
    assert {method for method, path, _ in other_store.requests if "?delete" in path} == set()


def test_a_removal_that_is_refused_is_an_error(plain_store: OtherStore, open_area: OpenArea) -> None:
    area = open_area(plain_store)
    plain_store.unwell = lambda _: Answer.error(403, "AccessDenied", "you may write only")
    with pytest.raises(StoreRefused, match="may list, read, write and delete"):
        delete_files(area, ["a", "b"])


def test_who_wants_checksums_at_an_endpoint_of_their_own_can_have_them(
    plain_store: OtherStore, open_area: OpenArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    open_area(plain_store).write_bytes("a", b"x")
    [put] = [headers for method, _, headers in plain_store.requests if method == "PUT"]
    assert "x-amz-checksum-crc32" in {name.lower() for name in put}

    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION")
    open_area(plain_store).write_bytes("b", b"x")
    put = [headers for method, _, headers in plain_store.requests if method == "PUT"][-1]
    assert not [name for name in put if name.lower().startswith(("x-amz-checksum", "x-amz-sdk-checksum"))]


def test_an_endpoint_that_awss_libraries_are_told_of_is_one_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://store.example/")
    options = load_settings(staging_uri=f"s3://{BUCKET}/a").staging_options
    assert options["client_kwargs"] == {"endpoint_url": "https://store.example"}
    assert options["config_kwargs"]["request_checksum_calculation"] == "when_required"


def test_amazons_own_store_keeps_its_checksums() -> None:
    options = load_settings(staging_uri=f"s3://{BUCKET}/a").staging_options
    assert options["config_kwargs"] == {"s3": {"addressing_style": "auto"}}


def test_the_sizes_of_a_folders_segments_are_asked_for_in_one_listing(
    plain_store: OtherStore, open_area: OpenArea
) -> None:
    area, lines = open_area(plain_store), [b'{"a":1}', b'{"a":22}']
    for attempt in ("one", "two"):
        written = segment(area, f"calls/{attempt}")
        for line in lines:
            written.write([line])
    area.write_bytes("calls/notes.txt", b"no segment")
    plain_store.requests.clear()
    expected = {f"calls/{attempt}-00000{number}.jsonl": 8 + number for attempt in ("one", "two") for number in (0, 1)}
    assert dict(sizes(area, "calls")) == expected
    # Five files, in pages of two; none is asked for by itself.
    assert [(method, "list-type=2" in path) for method, path, _ in plain_store.requests] == [("GET", True)] * 3
