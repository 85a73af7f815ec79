"""The records of paid calls: the request that is asked for, its row, the reply, and what it is allowed to cost."""

import hashlib
import os
import socket
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec
import psutil  # type: ignore[import-untyped]

from predictbench_assets.experiments.protocol import UnitName
from predictbench_assets.runs import RUN_NAMESPACE, CallStatus

_MOST_TOKENS = 2**62
_MOST_DOLLARS = 10**12
_CLOCKS_DIFFER_S = 2.0
"""A start since boot is the difference of two readings of a clock that may be set in between, by so much."""


class CallScope(msgspec.Struct, frozen=True, kw_only=True):
    """The experiment and the snapshot that calls are made for."""

    run_date: date
    window_days: int
    experiment: str
    version: str
    config_hash: str
    snapshot_hash: str


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is to be made once."""

    provider: str
    """Name of whom it goes to: its limits are shared by all that name the same."""
    model: str
    content: Any
    """All that is sent and decides the answer, in JSON's own types; kept whole with the answer."""
    sample: int = 0
    unit: UnitName = "market"
    unit_id: str | None = None
    """Id of the event, where it is about one; by default the market's."""
    reserved_tokens: int
    """Most tokens, sent and received, that it can take."""
    reserved_cost: Decimal | None = None
    """Most dollars that it can cost; None where no price is known."""
    price_table: str | None = None
    """The table of prices, with its version."""
    deadline_s: float = 120.0

    def key(self, unit_id: str) -> "CallKey":
        """The identity of what it asks about a market or an event; all that is sent is hashed for it."""
        return self.unit, unit_id, self.sample, self._prompt_hash()

    def _prompt_hash(self) -> str:
        canonical = msgspec.json.encode([self.provider, self.model, self.content], order="sorted")
        return hashlib.sha256(canonical).hexdigest()


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, good or not, that was received and is paid for."""

    status: CallStatus
    """Never `failed` or `unknown`."""
    text: str
    """The content that the model gave."""
    reason: str | None = None
    """The reason why it is no usable answer; None for one that is."""
    model: str | None = None
    """The model as the provider named it."""
    response_id: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: Decimal | None = None
    answered_at: datetime
    response: Any = None
    """The whole answer in JSON's own types."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `model_calls`."""

    call_id: UUID
    run_date: date
    window_days: int
    experiment: str
    version: str
    config_hash: str
    snapshot_hash: str
    unit: UnitName
    unit_id: str
    sample: int
    attempt: int
    provider: str
    model_asked: str
    model_returned: str | None = None
    prompt_hash: str
    status: CallStatus = "unknown"
    reason: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    reserved_tokens: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    reserved_cost: Decimal | None = None
    cost: Decimal | None = None
    price_table: str | None = None
    asked_at: datetime
    answered_at: datetime | None = None
    expires_at: datetime
    owner: str
    transcript_uri: str | None = None
    transcript_line: int | None = None
    batch_id: str | None = None

    @property
    def key(self) -> "CallKey":
        """The identity of what it asks."""
        return self.unit, self.unit_id, self.sample, self.prompt_hash

    @property
    def is_paid(self) -> bool:
        """True where an answer was received."""
        return self.status not in ("failed", "unknown")

    @property
    def counted_cost(self) -> Decimal | None:
        """Dollars that it counts for: an unknown one for the most that it can have cost."""
        return self.reserved_cost if self.status == "unknown" else self.cost

    @property
    def is_awaited(self) -> bool:
        """True where nothing is known of its outcome yet, not even that it will stay unknown."""
        return self.status == "unknown" and self.reason is None

    @property
    def may_be_under_way(self) -> bool:
        """True where whoever asked may still be waiting for the answer; once its time is up, `expires_at` says so."""
        is_settled = self.status != "unknown" or self.transcript_uri is not None
        return not is_settled and self.expires_at > self.asked_at and not _is_dead(self.owner)


CallKey = tuple[UnitName, str, int, str]
"""Unit, its id, number of the sample, hash of the prompt."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the wish to make a call; granted where nothing else is said."""

    taken: Call | None = None
    """The row that is there already."""
    over_budget: str | None = None
    """The budget that does not cover it, in words."""
    wait_s: float = 0.0
    """Seconds until there may be room at the provider."""

    @property
    def granted(self) -> bool:
        """True where the row is stored, and the request may go out."""
        return self.taken is None and self.over_budget is None and not self.wait_s


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose outcome is known, with what was sent and what came back."""

    call: Call
    content: Any
    reply: Reply | None = None


def call_id(scope: CallScope, key: CallKey, attempt: int) -> UUID:
    """The id of the n-th attempt at a call, from 0 on."""
    return uuid5(RUN_NAMESPACE, msgspec.json.encode(["model call", scope, key, attempt], order="sorted").decode())


def answered(call: Call, reply: Reply) -> Call:
    """The row of a call with its answer."""
    return msgspec.structs.replace(
        call,
        status=reply.status,
        reason=reply.reason,
        model_returned=reply.model,
        response_id=reply.response_id,
        finish_reason=reply.finish_reason,
        input_tokens=_storable(reply.input_tokens),
        cached_tokens=_storable(reply.cached_tokens),
        output_tokens=_storable(reply.output_tokens),
        reasoning_tokens=_storable(reply.reasoning_tokens),
        # Without a price for the answer it counts for the most that it can have cost.
        cost=reply.cost if reply.cost is not None and 0 <= reply.cost <= _MOST_DOLLARS else call.reserved_cost,
        answered_at=reply.answered_at,
    )


def _storable(count: int | None) -> int | None:
    """A count as a row takes it; None for one that no row does, whoever has told it."""
    return count if count is not None and 0 <= count <= _MOST_TOKENS else None


@cache
def this_process() -> str:
    """The owner of this process's calls: where its id is known, the id, and the seconds from boot to its start."""
    return f"{_processes_of()}:{os.getpid()}:{_started(psutil.Process()):.2f}"


def _processes_of() -> str:
    """The one set of processes in which an id names one: host, boot, and namespace of ids.

    Two containers may have the same host name, and a process with the same id in each.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # no Linux, and so no namespaces
        return socket.gethostname()
    return f"{socket.gethostname()}:{boot}:{namespace}"


def _started(process: psutil.Process) -> float:
    """Seconds from boot to a process's start; its time of day moves whenever the clock is set."""
    return float(process.create_time() - psutil.boot_time())


def _is_dead(owner: str) -> bool:
    """True where the process was one that would be seen from here, and is no more."""
    place, *rest = owner.rsplit(":", 2)
    if place != _processes_of():
        return False
    try:
        process_id, started = rest
        process = psutil.Process(int(process_id))
        if process.status() == psutil.STATUS_ZOMBIE:  # killed, and nobody has asked after it
            return True
        return abs(_started(process) - float(started)) > _CLOCKS_DIFFER_S
    except (ValueError, psutil.NoSuchProcess):
        return True
    except psutil.Error:
        return False
