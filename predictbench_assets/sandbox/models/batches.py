"""Batches of requests at half price: OpenAI's files and jobs, Anthropic's message batches.

A job ends at the look at its status that `Settings.polls` says, or when it is told to; its rows are worked out then,
each as its model's name says. A job's own fate is the kind of its first row's model, see `behaviours.KINDS`.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from predictbench_assets.sandbox.models.behaviours import UnknownBehaviour, behaviour_of
from predictbench_assets.sandbox.models.counts import Counts
from predictbench_assets.sandbox.models.openai_wire import Unreadable
from predictbench_assets.sandbox.models.problems import PROBLEMS
from predictbench_assets.sandbox.models.wires import ROUTES, Body

UNKNOWN_OUTCOMES = {"reset", "cut", "hang", "drip", "html", "redirect", "bomb"}
"""Kinds of a connection: a row of a batch has none, and expires instead."""


@dataclass(slots=True)
class File:
    """An uploaded file, or one of a job's."""

    identity: str
    name: str
    content: bytes
    created: int
    purpose: str

    def as_dict(self) -> dict[str, Any]:
        """The file as OpenAI lists it."""
        return {
            "id": self.identity,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True)
class Row:
    """One request of a job, and how it ended."""

    custom_id: str
    route: str
    body: Body
    status: int | None = None
    """HTTP status of its answer; None where it has none."""
    answer: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Job:
    """A batch of requests."""

    identity: str
    rows: Sequence[Row]
    fate: str
    """Kind of the first row's model."""
    polls: int
    created: datetime
    endpoint: str = ""
    input_file: str = ""
    metadata: Any = None
    state: str = "in_progress"
    """in_progress, cancelling, completed, failed, expired or cancelled."""
    ended: datetime | None = None
    output_file: str | None = None
    error_file: str | None = None

    @property
    def is_over(self) -> bool:
        """True where nothing more will happen to it."""
        return self.state not in {"in_progress", "cancelling"}


class Jobs:
    """Jobs and files, of all callers; newest jobs are listed first."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.jobs: dict[str, Job] = {}

    def add_file(self, name: str, content: bytes, purpose: str) -> File:
        """Keep a file."""
        file = File(f"file-{secrets.token_hex(10)}", name, content, int(time.time()), purpose)
        self.files[file.identity] = file
        return file

    def add(self, rows: Sequence[Row], polls: int, prefix: str, **described: Any) -> Job:
        """Begin a job.

        Raises:
            Unreadable: it has no rows, two of one id, or one of a route that has no batches.
        """
        if not rows or len({row.custom_id for row in rows}) != len(rows):
            raise Unreadable("a batch has requests, each with a custom_id of its own")
        if unknown := next((row.route for row in rows if row.route not in ROUTES), None):
            raise Unreadable(f"{unknown} has no batches")
        try:
            fate = behaviour_of(str(rows[0].body.get("model"))).kind
        except UnknownBehaviour as error:
            raise Unreadable(str(error)) from error
        job = Job(f"{prefix}_{secrets.token_hex(10)}", rows, fate, polls, datetime.now(UTC), **described)
        self.jobs[job.identity] = job
        return job

    def look(self, job: Job, counts: Counts) -> None:
        """Bring a job one look further, to its end if that is due."""
        job.polls -= 1
        if job.state == "cancelling" or (job.polls <= 0 and job.fate != "batchnever"):
            self.finish(job, counts)

    def finish(self, job: Job, counts: Counts) -> None:
        """End a job: its rows are worked out, half of them where it was cancelled or expires."""
        if job.is_over:
            return
        failed, cancelled, expires = job.fate == "batchfailed", job.state == "cancelling", job.fate == "batchexpired"
        done = [] if failed else list(job.rows)[::2] if cancelled or expires else job.rows
        for row in done:
            _work_out(row, job, counts)
        job.state = "failed" if failed else "cancelled" if cancelled else "expired" if expires else "completed"
        job.ended = datetime.now(UTC)
        if job.input_file and not failed:
            job.output_file = self._written(job, lambda row: row.status == 200)
            job.error_file = self._written(job, lambda row: row.status != 200)

    def _written(self, job: Job, chosen: Callable[[Row], bool]) -> str | None:
        lines = [_line(row, job) for row in job.rows if chosen(row)]
        lines = [line for line in lines if line]
        return self.add_file("lines.jsonl", b"\n".join(lines) + b"\n", "batch_output").identity if lines else None


def rows_of(file: File, endpoint: str) -> list[Row]:
    """The rows of an uploaded file.

    Raises:
        Unreadable: a line is no request.
    """
    rows = []
    for number, line in enumerate(file.content.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append(Row(str(row["custom_id"]), str(row["url"]), dict(row["body"])))
        except (ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"line {number} is no request: {error!r}") from error
    if any(row.route != endpoint for row in rows):
        raise Unreadable(f"a row is not for {endpoint}")
    return rows


def uploaded(content_type: str, body: bytes) -> tuple[str, bytes, str]:
    """Name, content and purpose of an upload by a form.

    Raises:
        Unreadable: it has no file.
    """
    form = BytesParser(policy=HTTP).parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
    purpose, found = "", None
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if name == "file":
            found = (part.get_filename() or "file", content if isinstance(content, bytes) else b"")
        elif name == "purpose":
            purpose = content.decode(errors="replace").strip() if isinstance(content, bytes) else ""
    if found is None:
        raise Unreadable("the form has no file")
    return *found, purpose


def openai_job(job: Job) -> dict[str, Any]:
    """A job as OpenAI shows it."""
    ended = int(job.ended.timestamp()) if job.ended else None
    created = int(job.created.timestamp())
    good = sum(row.status == 200 for row in job.rows)
    bad = sum(row.status not in {200, None} for row in job.rows)
    errors = None
    if job.state == "failed":
        failed = {
            "code": "invalid_request",
            "message": "The file was refused, on purpose.",
            "line": None,
            "param": None,
        }
        errors = {"object": "list", "data": [failed]}
    return {
        "id": job.identity,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": errors,
        "input_file_id": job.input_file,
        "completion_window": "24h",
        "status": job.state,
        "output_file_id": job.output_file,
        "error_file_id": job.error_file,
        "created_at": created,
        "in_progress_at": created,
        "expires_at": created + 86400,
        "finalizing_at": ended,
        **{f"{state}_at": ended if job.state == state else None for state in _ENDS},
        "cancelling_at": None,
        "request_counts": {"total": len(job.rows), "completed": good, "failed": bad},
        "metadata": job.metadata,
    }


def anthropic_job(job: Job, url: str) -> dict[str, Any]:
    """A job as Anthropic shows it; `url` is the server's root."""
    good = sum(row.status == 200 for row in job.rows)
    bad = sum(row.status not in {200, None} for row in job.rows)
    left = len(job.rows) - good - bad
    counts = {"processing": 0, "succeeded": good, "errored": bad, "canceled": 0, "expired": 0}
    counts[{"cancelled": "canceled", "completed": "expired", "expired": "expired"}.get(job.state, "processing")] = left
    states = {"in_progress": "in_progress", "cancelling": "canceling"}
    return {
        "id": job.identity,
        "type": "message_batch",
        "processing_status": states.get(job.state, "ended"),
        "request_counts": counts,
        "created_at": _instant(job.created),
        "expires_at": _instant(job.created + timedelta(hours=24)),
        "ended_at": _instant(job.ended) if job.ended else None,
        "cancel_initiated_at": _instant(job.created) if job.state in {"cancelling", "cancelled"} else None,
        "archived_at": None,
        "results_url": f"{url}/v1/messages/batches/{job.identity}/results" if job.is_over else None,
    }


def anthropic_results(job: Job) -> bytes:
    """The results of a job's rows, a line each, not in the order of the requests."""
    lines = []
    for row in reversed(job.rows):
        if row.status == 200:
            result = {"type": "succeeded", "message": row.answer}
        elif row.status is not None:
            result = {"type": "errored", "error": row.answer}
        else:
            result = {"type": "canceled" if job.state == "cancelled" else "expired"}
        lines.append(json.dumps({"custom_id": row.custom_id, "result": result}).encode())
    return b"\n".join(lines) + b"\n"


_ENDS = ("completed", "failed", "expired", "cancelled")


def _work_out(row: Row, job: Job, counts: Counts) -> None:
    route = ROUTES[row.route]
    identity = secrets.token_hex(12)
    try:
        asked = route.read(row.body)
    except Unreadable as error:
        row.status, row.answer = 400, PROBLEMS["400"].body_on(route.wire, identity, str(error))
        return
    call = counts.begin(row.route, asked, batch=job.identity)
    try:
        call.fault = behaviour_of(asked.model).fault(call.drawn, call.turn)
    except UnknownBehaviour:
        call.fault = "404"
    if call.fault in PROBLEMS:
        problem = PROBLEMS[call.fault]
        row.status, row.answer = problem.status_on(route.wire), problem.body_on(route.wire, identity)
    elif call.fault not in UNKNOWN_OUTCOMES:
        row.status = 200
        row.answer, call.usage = route.write(row.body, asked, call.fault, identity)
        call.billed = call.delivered = True
    call.status = row.status
    counts.end(call)


def _line(row: Row, job: Job) -> bytes:
    """The line of a row in a job's output or error file; nothing for one that a job which was ended early left."""
    identity = f"batch_req_{secrets.token_hex(8)}"
    made: dict[str, Any] = {"id": identity, "custom_id": row.custom_id, "response": None, "error": None}
    if row.status is not None:
        made["response"] = {"status_code": row.status, "request_id": f"req_{identity}", "body": row.answer}
    elif job.state == "completed":
        made["error"] = {"code": "batch_expired", "message": "This request could not be run in time."}
    else:
        return b""
    return json.dumps(made).encode()


def _instant(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
