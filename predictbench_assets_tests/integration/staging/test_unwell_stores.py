"""A store that hangs, or says no: a limit, and one sentence with the name of the setting, in runs and in `doctor`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from predictbench_assets.diagnosis.storage import archive_findings, staging_findings
from predictbench_assets.failures import StoreRefused, StoreUnwell
from predictbench_assets.settings import SettingsError, load_settings
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.other_store import (
    Answer,
    Handler,
    OpenArea,
    OtherStore,
    drips,
    hangs,
    settings_for,
    stalls,
)

USES: dict[str, Callable[[StagingArea], object]] = {
    "exists": lambda area: area.exists("a"),
    "read": lambda area: area.read_bytes("a"),
    "write": lambda area: area.write_bytes("a", b"x"),
    "list": lambda area: area.list(""),
    "delete": lambda area: area.delete("a"),
}


@contextmanager
def refusal(kind: type[Exception], *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    for word in words:
        assert word in said
    assert "planted-secret" not in said


@pytest.mark.parametrize("use", USES)
def test_a_store_that_never_answers_has_a_limit(plain_store: OtherStore, open_area: OpenArea, use: str) -> None:
    plain_store.unwell = hangs
    area = open_area(plain_store, STAGING_TIMEOUT_SECONDS="0.5")
    with refusal(
        StoreUnwell, plain_store.address, "within 0.5 s", "STAGING_S3_ENDPOINT_URL", "STAGING_TIMEOUT_SECONDS"
    ):
        USES[use](area)


@pytest.mark.parametrize("fault", [stalls, drips])
def test_an_answer_that_does_not_end_has_a_limit(
    plain_store: OtherStore, open_area: OpenArea, fault: Callable[..., None]
) -> None:
    area = open_area(plain_store, STAGING_TIMEOUT_SECONDS="0.5")
    plain_store.files["some/folder/a"] = b"x" * 1_000
    plain_store.unwell = lambda handler: fault(handler) if handler.command == "GET" else plain_store.well(handler)
    with refusal(StoreUnwell, "within 0.5 s", "STAGING_TIMEOUT_SECONDS"):
        area.read_bytes("a")
    with refusal(StoreUnwell, "within 0.5 s", "STAGING_TIMEOUT_SECONDS"):
        area.list("")


def test_doctor_does_not_wait_for_a_store_that_hangs(plain_store: OtherStore) -> None:
    plain_store.unwell = hangs
    settings = settings_for(plain_store, STAGING_TIMEOUT_SECONDS="0.5")
    for findings in (staging_findings, archive_findings):
        [finding] = findings(settings)
        assert finding.level == "fail"
        assert "did not answer within 0.5 s: check STAGING_S3_ENDPOINT_URL" in finding.found


REFUSALS = [
    (
        Answer.error(403, "InvalidAccessKeyId"),
        StoreRefused,
        "STAGING_S3_ACCESS_KEY_ID and STAGING_S3_SECRET_ACCESS_KEY",
    ),
    (Answer.error(403, "SignatureDoesNotMatch"), StoreRefused, "STAGING_S3_SECRET_ACCESS_KEY"),
    (Answer.error(403, "AccessDenied"), StoreRefused, "may list, read, write and delete"),
    (Answer.error(403, "RequestTimeTooSkewed", "too large a difference"), StoreRefused, "set the clock"),
    (Answer.error(404, "NoSuchBucket"), StoreRefused, "correct STAGING_URI"),
    (
        Answer.error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-north-1"}),
        StoreRefused,
        "STAGING_S3_REGION",
    ),
    (Answer.error(400, "AuthorizationHeaderMalformed", "expecting 'eu-north-1'"), StoreRefused, "STAGING_S3_REGION"),
    (Answer.error(403, "SecondLevelDomainForbidden"), StoreRefused, "STAGING_S3_ADDRESSING=virtual"),
    (Answer.error(400, "Odd", "Virtual host domain is required"), StoreRefused, "STAGING_S3_ADDRESSING=virtual"),
    (Answer.error(413, "EntityTooLarge"), StoreRefused, "raise the limit of the bucket"),
    (Answer.error(501, "NotImplemented"), StoreRefused, "STAGING_S3_ENDPOINT_URL"),
    (Answer.error(418, "Teapot", "short and stout"), StoreRefused, "Teapot: short and stout"),
    (Answer.error(503, "SlowDown", "Please reduce your request rate"), StoreUnwell, "try again later"),
    (Answer.error(500, "InternalError"), StoreUnwell, "try again later"),
    (Answer(502, b"<html>bad gateway</html>"), StoreUnwell, "try again later"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "words"), REFUSALS, ids=[answer.body[:60].decode() or "empty" for answer, *_ in REFUSALS]
)
def test_what_a_store_refuses_is_one_sentence_with_its_setting(
    plain_store: OtherStore, open_area: OpenArea, answer: Answer, kind: type[Exception], words: str
) -> None:
    plain_store.unwell = lambda _: answer
    elsewhere = {"STAGING_URI": "s3://bucket-of-refusals/a"}  # a client remembers the region of a redirected bucket
    area = open_area(plain_store, **elsewhere)
    with refusal(kind, plain_store.address, words):
        area.write_bytes("a", b"x")
    with refusal(kind, words):
        area.list("")
    [finding] = staging_findings(settings_for(plain_store, **elsewhere))
    assert (finding.level, words in finding.found) == ("fail", True)


def test_a_page_of_the_web_is_no_store(plain_store: OtherStore, open_area: OpenArea) -> None:
    plain_store.unwell = lambda _: Answer(200, b"<html>Welcome", {"Content-Type": "text/html"})
    with refusal(StoreUnwell, "check STAGING_S3_ENDPOINT_URL"):
        open_area(plain_store).list("")


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"STAGING_S3_ACCESS_KEY_ID": "nobody-here"}, "STAGING_S3_ACCESS_KEY_ID"),
        ({"STAGING_S3_REGION": "us-elsewhere-2"}, "STAGING_S3_REGION"),
        ({"STAGING_S3_REGION": ""}, "STAGING_S3_REGION"),
        ({"STAGING_URI": "s3://no-such-bucket/a"}, "has no bucket 'no-such-bucket'"),
        ({"STAGING_URI": "s3://x/a"}, "correct STAGING_URI"),
    ],
)
def test_a_wrong_setting_is_named(
    plain_store: OtherStore, open_area: OpenArea, replaced: dict[str, str], words: str
) -> None:
    area = open_area(plain_store, **replaced)
    with refusal(StoreRefused, words):
        area.write_bytes("a", b"x")
    [finding] = staging_findings(settings_for(plain_store, **replaced))
    assert (finding.level, words in finding.found) == ("fail", True)


def test_a_store_without_keys_is_told(
    plain_store: OtherStore, open_area: OpenArea, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    area = open_area(plain_store, STAGING_S3_ACCESS_KEY_ID="", STAGING_S3_SECRET_ACCESS_KEY="")
    with refusal(StoreRefused, "set STAGING_S3_ACCESS_KEY_ID and STAGING_S3_SECRET_ACCESS_KEY"):
        area.exists("a")
    with pytest.raises(SettingsError, match="STAGING_S3_SECRET_ACCESS_KEY: required"):
        settings_for(plain_store, STAGING_S3_SECRET_ACCESS_KEY="")


def test_a_certificate_that_nobody_vouches_for_is_told(open_area: OpenArea, certificate: Path) -> None:
    store = OtherStore(certificate)
    try:
        with refusal(StoreRefused, "STAGING_S3_ENDPOINT_URL", "AWS_CA_BUNDLE"):
            open_area(store).exists("a")
        plain = store.address.replace("https", "http")
        with refusal(StoreUnwell, "STAGING_S3_ENDPOINT_URL"):
            open_area(store, STAGING_S3_ENDPOINT_URL=plain).exists("a")
    finally:
        store.close()


@pytest.mark.parametrize(
    ("addressing", "address"),
    [
        ("virtual", "http://bucket-of-another-store.store.invalid/some/folder/a"),
        ("path", "http://store.invalid/bucket-of-another-store/some/folder/a"),
        ("auto", "http://store.invalid/bucket-of-another-store/some/folder/a"),
    ],
)
def test_where_the_bucket_is_named_can_be_set(
    plain_store: OtherStore, open_area: OpenArea, addressing: str, address: str
) -> None:
    area = open_area(plain_store, STAGING_S3_ADDRESSING=addressing, STAGING_S3_ENDPOINT_URL="http://store.invalid")
    with refusal(StoreUnwell, address, "check STAGING_S3_ENDPOINT_URL"):
        area.write_bytes("a", b"x")


def test_an_answer_that_is_cut_off_is_asked_for_again(plain_store: OtherStore, open_area: OpenArea) -> None:
    area = open_area(plain_store)
    area.write_bytes("a", b"0123456789")
    cut = iter([True, True])

    def unwell(handler: Handler) -> Answer | None:
        answer = plain_store.well(handler)
        if handler.command != "GET" or not next(cut, False):
            return answer
        handler.begin(answer)
        handler.wfile.write(answer.body[:3])
        return None

    plain_store.unwell = unwell
    assert area.read_bytes("a") == b"0123456789"
    assert next(cut, None) is None


@pytest.mark.parametrize("address", ["store.example", "ftp://store.example", "127.0.0.1:9000"])
def test_an_endpoint_without_a_scheme_is_refused_at_once(address: str) -> None:
    with pytest.raises(SettingsError, match=r"STAGING_S3_ENDPOINT_URL: expected an address such as https://"):
        load_settings(staging_s3_endpoint_url=address)
