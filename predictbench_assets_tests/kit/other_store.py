"""An S3 API that is not AWS's: strict where other stores are, and unwell on demand.

It takes no checksum after a body. It wants Content-MD5 where many files are removed at once, parts of one size, a
length for every body, and the right key and region in the signature. It lists two files a page.
"""

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea

OpenArea = Callable[..., StagingArea]

BUCKET = "bucket-of-another-store"
REGION = "eu-somewhere-1"
KEY_ID = "planted-key-id"
SMALLEST_PART = 5 << 20
_PAGE = 2
_DRIP_S = 0.05


@dataclass(frozen=True)
class Answer:
    """An answer of the store."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, message: str = "not as you asked", **headers: str) -> "Answer":
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
        return cls(status, body, {"Content-Type": "application/xml", **headers})

    @classmethod
    def xml(cls, text: str) -> "Answer":
        return cls(200, f"<?xml version='1.0'?>{text}".encode(), {"Content-Type": "application/xml"})


class OtherStore:
    """The store, listening on a port of its own.

    Args:
        certificate: a file with key and certificate; None speaks http.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and query, and headers of each request."""
        self.unwell: Callable[[Handler], Answer | None] | None = None
        """Answers in place of the store. None is no answer at all, or one that it has written itself."""
        self.closing = threading.Event()
        handler = type("Handler", (Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        scheme = "http" if certificate is None else "https"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Be empty, and well, as at first."""
        self.files.clear()
        self.uploads.clear()
        self.requests.clear()
        self.unwell = None

    def close(self) -> None:
        """Stop listening, and let go of those who are kept waiting."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """The settings of staging that lead here."""
        return {
            "STAGING_URI": f"s3://{BUCKET}/some/folder",
            "STAGING_S3_ENDPOINT_URL": self.address,
            "STAGING_S3_REGION": REGION,
            "STAGING_S3_ACCESS_KEY_ID": KEY_ID,
            "STAGING_S3_SECRET_ACCESS_KEY": "planted-secret-key",
        }

    def well(self, request: "Handler") -> Answer:
        """The answer of a store that is well."""
        if (refused := _refused(request)) is not None:
            return refused
        method, body, headers = request.command, request.body, request.headers
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if bucket != BUCKET:
            return Answer.error(404, "NoSuchBucket", "The specified bucket does not exist")
        match method:
            case "GET" if not key:
                return self._listed(query)
            case "GET" | "HEAD":
                return self._read(key, headers.get("Range"))
            case "PUT" if "uploadId" in query:
                self.uploads[query["uploadId"]][int(query["partNumber"])] = body
            case "PUT":
                self.files[key] = body
            case "POST" if "uploads" in query:
                upload = f"upload-{len(self.uploads)}"
                self.uploads[upload] = {}
                return Answer.xml(
                    f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                )
            case "POST" if "uploadId" in query:
                return self._completed(key, query["uploadId"])
            case "POST" if "delete" in query:
                for name in re.findall(rb"<Key>(.*?)</Key>", body):
                    self.files.pop(name.decode(), None)
                return Answer.xml("<DeleteResult/>")
            case "DELETE" if "uploadId" in query:
                self.uploads.pop(query["uploadId"], None)
                return Answer(204)
            case "DELETE":
                self.files.pop(key, None)
                return Answer(204)
            case _:
                return Answer.error(405, "MethodNotAllowed")
        return Answer(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _listed(self, query: Mapping[str, str]) -> Answer:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        found = sorted(key for key in self.files if key.startswith(prefix) and key > after)
        page = found[:_PAGE]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-27T00:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{len(self.files[key])}</Size></Contents>"
            for key in page
        )
        more = len(found) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return Answer.xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        )

    def _read(self, key: str, wanted: str | None) -> Answer:
        if key not in self.files:
            return Answer.error(404, "NoSuchKey")
        content = self.files[key]
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": "Fri, 27 Nov 2026 00:00:00 GMT"}
        if wanted is None:
            return Answer(200, content, headers)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()  # type: ignore[union-attr]
        end = min(int(last) + 1 if last else len(content), len(content))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        return Answer(206, content[int(first) : end], headers)

    def _completed(self, key: str, upload: str) -> Answer:
        parts = [content for _, content in sorted(self.uploads[upload].items())]
        sizes = {len(part) for part in parts[:-1]}
        if len(sizes) > 1:
            return Answer.error(400, "InvalidPart", "All parts but the last must be of one size")
        if sizes and min(sizes) < SMALLEST_PART:
            return Answer.error(400, "EntityTooSmall")
        self.files[key] = b"".join(parts)
        del self.uploads[upload]
        return Answer.xml('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')


def _refused(request: "Handler") -> Answer | None:
    method, body, headers = request.command, request.body, request.headers
    given = {name.lower() for name in headers}
    if "aws-chunked" in headers.get("Content-Encoding", "") or "x-amz-trailer" in given:
        return Answer.error(501, "NotImplemented", "aws-chunked is not supported")
    if method in ("PUT", "POST") and "content-length" not in given:
        return Answer.error(411, "MissingContentLength")
    query = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
    if method == "POST" and "delete" in query and "content-md5" not in given:
        return Answer.error(400, "MissingContentMD5", "Missing required header for this request: Content-MD5")
    signed = re.search(r"Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request", headers.get("Authorization", ""))
    if signed is None:
        return Answer.error(403, "AccessDenied", "not signed")
    if signed[1] != KEY_ID:
        return Answer.error(403, "InvalidAccessKeyId", "The key id does not exist in our records")
    if signed[2] != REGION:
        return Answer.error(400, "AuthorizationHeaderMalformed", f"the region '{signed[2]}' is wrong")
    digest = headers.get("x-amz-content-sha256", "")
    if re.fullmatch(r"[0-9a-f]{64}", digest) and digest != hashlib.sha256(body).hexdigest():
        return Answer.error(400, "XAmzContentSHA256Mismatch")
    return None


class Handler(BaseHTTPRequestHandler):
    """One request; `body` is read already."""

    protocol_version = "HTTP/1.1"
    store: OtherStore
    body: bytes

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.requests.append((self.command, self.path, dict(self.headers)))
        answer = (self.store.unwell or self.store.well)(self)
        if answer is None:
            self.close_connection = True
            return
        self.begin(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def begin(self, answer: Answer) -> None:
        """Send all of an answer but its body."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - named by the library

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def hangs(handler: Handler) -> None:
    """Accept a request and never answer it."""
    handler.store.closing.wait()


def stalls(handler: Handler) -> None:
    """Begin an answer and never end it."""
    handler.begin(Answer(200, b"x" * 1_000, {"ETag": '"x"'}))
    handler.wfile.write(b"xx")
    handler.wfile.flush()
    handler.store.closing.wait()


def drips(handler: Handler) -> None:
    """Answer so slowly that the connection is never silent and the answer never ends."""
    handler.begin(Answer(200, b"x" * 1_000_000, {"ETag": '"x"'}))
    try:
        while not handler.store.closing.wait(_DRIP_S):
            handler.wfile.write(b"x")
            handler.wfile.flush()
    except OSError:
        """The client has gone."""


def settings_for(store: OtherStore, **replaced: str) -> Settings:
    """The settings that lead to a store, some of them replaced; with the time limit that `doctor` has."""
    given = store.settings | {"STAGING_TIMEOUT_SECONDS": "6"} | replaced
    return load_settings(**{name.lower(): value for name, value in given.items() if value})
