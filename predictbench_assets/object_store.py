"""The file system of `s3://` addresses: requests that every S3-compatible store takes, each with a time limit.

Every request of s3fs goes through one method. Its errors leave here as one sentence that names the setting to correct;
a file that is missing stays a `FileNotFoundError`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs.core import S3_RETRYABLE_ERRORS, S3FileSystem

from predictbench_assets.failures import StoreRefused, StoreUnwell
from predictbench_assets.printable import shortened

PART_BYTES = 8 << 20
"""The most that one request carries of a file, so that its time limit does not depend on the size of the file."""

_CONNECT_S = 5.0
_SILENCE_S = 15.0
"""Seconds that a connection may be silent before the request is made again, within the limit of all its tries."""

_READ_TRIES = 5
"""Tries for a file whose content breaks off."""

_READS = {"head_object", "get_object", "head_bucket"}
_LONGEST_MESSAGE = 200
_KEYS = "STAGING_S3_ACCESS_KEY_ID and STAGING_S3_SECRET_ACCESS_KEY"


class _Advice(NamedTuple):
    problem: str
    remedy: str


_NO_BUCKET = _Advice("has no bucket {bucket!r}", "create it, or correct STAGING_URI or ARCHIVE_URI")
_BAD_KEYS = _Advice(
    "does not accept the keys",
    f"check {_KEYS}, and STAGING_S3_REGION, which is a part of each signature",
)
_FORBIDDEN = _Advice(
    "forbids this in the bucket {bucket!r}",
    f"check {_KEYS}, and that they may list, read, write and delete there",
)
_OTHER_REGION = _Advice("keeps the bucket {bucket!r} in another region{region}", "set STAGING_S3_REGION to it")
_CLOCK = _Advice("finds the clock of this machine too far from its own", "set the clock; no setting can make up for it")
_VIRTUAL = _Advice(
    "wants the bucket in the host name, not in the path", "set STAGING_S3_ADDRESSING=virtual (or path, the other way)"
)
_UNKNOWN_REQUEST = _Advice("does not know a request that is needed", "check that STAGING_S3_ENDPOINT_URL is its S3 API")
_TOO_LARGE = _Advice("does not take a file of this size", "raise the limit of the bucket {bucket!r}")

_ADVICE = {
    **dict.fromkeys(("NoSuchBucket", "InvalidBucketName", "404"), _NO_BUCKET),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"),
        _BAD_KEYS,
    ),
    **dict.fromkeys(("InvalidSecurity", "InvalidSignature", "401"), _BAD_KEYS),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"), _FORBIDDEN),
    **dict.fromkeys(("PermanentRedirect", "TemporaryRedirect", "Redirect", "301", "307"), _OTHER_REGION),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"), _OTHER_REGION
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), _CLOCK),
    **dict.fromkeys(("SecondLevelDomainForbidden", "PathStyleDomainForbidden", "InvalidPathAccess"), _VIRTUAL),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed", "405", "501"), _UNKNOWN_REQUEST),
    **dict.fromkeys(("EntityTooLarge", "QuotaExceeded", "413"), _TOO_LARGE),
}
"""Advice by the code of an answer; the answer to a HEAD request has no other code than its status."""

_TRANSIENT = {
    *("SlowDown", "ServiceUnavailable", "InternalError", "InternalServerError", "RequestTimeout", "OperationAborted"),
    *("Throttling", "ThrottlingException", "TooManyRequests", "BadDigest", "IncompleteBody", "408", "429"),
    "XAmzContentSHA256Mismatch",
}


class ObjectStore(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """Buckets of an S3-compatible store.

    Args:
        time_limit: seconds for one request with all its tries, its answer read to the end.
        config_kwargs: as botocore's `Config` takes them.
        options: as s3fs takes them.
    """

    retries = 2
    """Tries of a request, each of up to AWS_MAX_ATTEMPTS attempts (botocore's default: 5)."""

    def __init__(self, *, time_limit: float, config_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        self.time_limit = time_limit
        timeouts = {
            "connect_timeout": min(_CONNECT_S, time_limit / 2),
            "read_timeout": min(_SILENCE_S, time_limit / 2),
        }
        # Some stores want all parts of a file but the last to be of one size.
        super().__init__(
            config_kwargs=timeouts | (config_kwargs or {}),
            default_block_size=PART_BYTES,
            fixed_upload_size=True,
            **options,
        )

    async def _call_s3(self, method: str, *parameters: Any, **named: Any) -> Any:
        try:
            await self.set_session()  # reads files of this machine; the store is not asked
            async with asyncio.timeout(self.time_limit):
                return await self._answer(method, *parameters, **named)
        except Exception as error:
            explained = self._explained(error, method, str(named.get("Bucket", "")))
            if explained is None:
                raise
            raise explained from error

    call_s3 = sync_wrapper(_call_s3)

    async def _answer(self, method: str, *parameters: Any, **named: Any) -> Any:
        """The answer with its content, which s3fs reads later and without a limit."""
        broken: Exception | None = None
        for _ in range(_READ_TRIES):
            answer = await super()._call_s3(method, *parameters, **named)
            if method != "get_object":
                return answer
            body = answer["Body"]
            try:
                answer["Body"] = _Content(await body.read())
            except S3_RETRYABLE_ERRORS as error:
                broken = error
            else:
                return answer
            finally:
                body.close()
        assert broken is not None
        raise broken

    async def _put_file(self, lpath: str, rpath: str, *, chunksize: int = PART_BYTES, **options: Any) -> None:
        await super()._put_file(lpath, rpath, chunksize=chunksize, **options)

    async def _bulk_delete(self, pathlist: Sequence[str], **_: Any) -> list[str]:
        """Remove files with a request for each.

        One for many needs a checksum that some stores do not know and others want in MD5, and s3fs passes over the
        files that it could not remove.
        """
        free = asyncio.Semaphore(self.max_concurrency)

        async def remove(path: str) -> None:
            async with free:
                await self._rm_file(path)

        await asyncio.gather(*map(remove, pathlist))
        return list(pathlist)

    def _explained(self, error: Exception, method: str, bucket: str) -> StoreRefused | StoreUnwell | None:
        """Name the setting at fault in an error; None for one that names it already, or is a fault of ours."""
        endpoint = self.client_kwargs.get("endpoint_url")
        store = f"the store at {endpoint}" if endpoint else "Amazon S3"
        answered = error if isinstance(error, boto.ClientError) else error.__cause__
        if isinstance(answered, boto.ClientError):
            return _of_answer(answered, method, store, bucket)
        message = shortened(" ".join(str(error).split()) or type(error).__name__, _LONGEST_MESSAGE)
        match error:
            case TimeoutError() | boto.ConnectTimeoutError() | boto.ReadTimeoutError():
                return StoreUnwell(
                    f"{store} did not answer within {self.time_limit:g} s: check STAGING_S3_ENDPOINT_URL, or give it "
                    "longer with STAGING_TIMEOUT_SECONDS."
                )
            case boto.SSLError():
                return StoreRefused(
                    f"{store} cannot be trusted ({error}): check STAGING_S3_ENDPOINT_URL, or name its certificate "
                    "authority in AWS_CA_BUNDLE."
                )
            case boto.ProxyConnectionError():
                return StoreUnwell(f"{store} cannot be reached through the proxy ({error}): check HTTPS_PROXY.")
            case boto.NoCredentialsError() | boto.PartialCredentialsError() | boto.CredentialRetrievalError():
                return StoreRefused(f"{store} needs keys and there are none ({error}): set {_KEYS}.")
            case ResponseParserError():
                return StoreRefused(
                    f"{store} does not answer as an S3 API does ({message}): check STAGING_S3_ENDPOINT_URL."
                )
            case boto.ParamValidationError():
                return StoreRefused(f"{bucket!r} cannot be a bucket ({message}): correct STAGING_URI or ARCHIVE_URI.")
            case boto.ConnectionError() | boto.HTTPClientError():
                return StoreUnwell(f"{store} cannot be reached ({error}): check STAGING_S3_ENDPOINT_URL.")
            case boto.BotoCoreError():
                return StoreRefused(f"{store} cannot be used ({error}): check STAGING_URI and STAGING_S3_ENDPOINT_URL.")
            case ValueError() if "endpoint" in str(error):
                return StoreRefused(f"{endpoint!r} is no address of a store: correct STAGING_S3_ENDPOINT_URL.")
            case _ if isinstance(error, S3_RETRYABLE_ERRORS):
                return StoreUnwell(f"{store} broke its answer off ({message}): try again later.")
        return None


class _Content:
    """A body that has been read, for those who expect to read it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content

    def close(self) -> None:
        """Do nothing: nothing is open."""


def _of_answer(error: boto.ClientError, method: str, store: str, bucket: str) -> StoreRefused | StoreUnwell | None:
    answer = error.response
    metadata = answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode") or 0
    code = str(answer.get("Error", {}).get("Code") or status)
    message = str(answer.get("Error", {}).get("Message") or "")
    if code in ("NoSuchKey", "NoSuchUpload", "NoSuchVersion") or (code == "404" and method in _READS):
        return None  # FileNotFoundError
    reason = f"{code}: {message}" if message and message != code else code
    if code in _TRANSIENT or (status >= 500 and status != 501):
        return StoreUnwell(
            f"{store} is overloaded or unwell ({reason}): try again later; if it lasts, check STAGING_S3_ENDPOINT_URL."
        )
    advice = _ADVICE.get(code)
    if "virtual host" in message.lower():
        advice = _VIRTUAL
    if advice is None:
        return StoreRefused(f"{store} refuses this ({reason}): check STAGING_URI and STAGING_S3_ENDPOINT_URL.")
    region = answer.get("Error", {}).get("Region") or metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    problem = advice.problem.format(bucket=bucket, region=f" ({region})" if region else "")
    return StoreRefused(f"{store} {problem} ({reason}): {advice.remedy.format(bucket=bucket)}.")
