"""Notices of runs for people, sent to a webhook, and the ping of a dead-man's switch.

A notice quotes texts of servers, so it can hold anything: it is redacted, cut to size, and escaped, so that it can
neither become markup nor call people by name.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import httpx
from pydantic import SecretStr
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from predictbench_assets import web
from predictbench_assets.failures import TransientError
from predictbench_assets.printable import printable
from predictbench_assets.reporting.summary import FailureLine, RunSummary
from predictbench_assets.settings import Settings

NoticeKind = Literal["failure", "success", "missed"]

SHOWN_FAILURES = 5
LONGEST_NOTE = 3_000
"""Characters of a note, markup included; Slack takes forty thousand, a person on a telephone does not."""

_TRIES = 3

# Characters of the parts, escaped; together they stay below the limit.
_TITLE, _REASON, _FAILURE, _LINK = 300, 800, 240, 400

_log = logging.getLogger(__name__)


class NotDelivered(TransientError):
    """A notice was not delivered; the text names the setting and not the address, which is a secret."""


@dataclass(frozen=True)
class Notice:
    """The content of a notice; all of it but the outcome may be unknown."""

    outcome: NoticeKind
    run_date: date | None = None
    windows: tuple[int, ...] = ()
    stage: str | None = None
    reason: str | None = None
    failures: tuple[FailureLine, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    status: str | None = None
    """Status of the run itself: the failure may be of something around it."""
    dry_run: bool = False
    link: str | None = None

    @classmethod
    def of(
        cls, outcome: NoticeKind, summary: RunSummary, *, stage: str | None = None, link: str | None = None
    ) -> "Notice":
        """The notice of a summary.

        Args:
            stage: stage of the failure, for a run that did not fail itself.
        """
        kinds = ("offered", "excluded", "rejected", "failed", "processed")
        return cls(
            outcome,
            run_date=summary.run_date,
            windows=(summary.window_days,),
            stage=stage if summary.succeeded else summary.stage or stage,
            reason=summary.reason,
            failures=summary.failures,
            counts={kind: getattr(summary, f"{kind}_markets") for kind in kinds},
            status=summary.status,
            dry_run=summary.dry_run,
            link=link,
        )


def note(notice: Notice, settings: Settings) -> str:
    """The text of a notice: plain, with the little markup that Slack and its like share."""
    lines = [_title(notice, settings)]
    lines += (_escaped(line, _REASON, settings) for line in _facts(notice))
    lines += _failures(notice, settings)
    if notice.link:
        lines.append(_escaped(notice.link, _LINK, settings))
    return "\n".join(lines)


def _title(notice: Notice, settings: Settings) -> str:
    what = f"the run of {notice.run_date}" if notice.run_date else "a run"
    if notice.windows:
        listed = ", ".join(map(str, notice.windows))
        what += f", window{'s' if len(notice.windows) > 1 else ''} {listed} days"
    verdict = {"failure": "FAILED", "success": "succeeded", "missed": "was MISSED"}[notice.outcome]
    if notice.stage and notice.outcome == "failure":
        verdict += f" at {notice.stage}"
    if notice.dry_run:
        verdict += " (dry run)"
    return f"*{_escaped(f'Predictbench {settings.environment}: {what} {verdict}', _TITLE, settings)}*"


def _facts(notice: Notice) -> Iterator[str]:
    if notice.reason:
        yield notice.reason
    elif notice.outcome == "missed":
        yield (
            "Its schedule came when the day was over (UTC). What was not captured on the day cannot be captured any "
            "more, only reconstructed; the schedule's log says of each window what can still be done."
        )
    if notice.outcome == "failure" and notice.status in ("completed", "partial", "skipped"):
        yield f"The run itself is {notice.status}: its data are stored."
    if any(notice.counts.values()):
        yield ", ".join(f"{count:,} {kind}" for kind, count in notice.counts.items())


def _failures(notice: Notice, settings: Settings) -> Iterator[str]:
    # The run's own failure is the reason, which stands above.
    further = [one for one in notice.failures if one.market_id is not None or one.reason != notice.reason]
    if not further:
        return
    shown = further[:SHOWN_FAILURES]
    yield f"The first {len(shown)} of {len(further):,} failures:" if len(further) > len(shown) else "Failures:"
    for one in shown:
        who = f"market {one.market_id}" if one.market_id is not None else "the run"
        yield "- " + _escaped(f"{who} at {one.stage}: {one.reason}", _FAILURE, settings)


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@\N{ZERO WIDTH SPACE}"}


def _escaped(text: str, longest: int, settings: Settings) -> str:
    """Text on one line, without secrets, markup or mentions, and at most so many characters in the end."""
    line = printable(" ".join(re.sub(r"[^\S ]|[\x00-\x1f\x7f]", " ", settings.redact(text)).split()))
    escaped = [_ENTITIES.get(character, character) for character in line]
    if sum(map(len, escaped)) <= longest:
        return "".join(escaped)
    room, kept = longest - 1, []
    for part in escaped:
        room -= len(part)
        if room < 0:
            break
        kept.append(part)
    return "".join(kept) + "…"


def send_notice(notice: Notice, settings: Settings, *, pause_s: float = 1.0) -> bool:
    """Send a notice to NOTIFY_WEBHOOK_URL; false where it is not to be sent.

    Args:
        pause_s: seconds before the second try; doubles before the third.

    Raises:
        NotDelivered: three tries were not enough, or the other side will never take it.
    """
    if settings.notify_webhook_url is None:
        _log.info("nobody is told: NOTIFY_WEBHOOK_URL is not set")
        return False
    if notice.outcome == "success" and not settings.notify_on_success:
        _log.info("nobody is told: the run succeeded, and NOTIFY_ON_SUCCESS is not set")
        return False
    body = json.dumps({"text": note(notice, settings)}).encode()
    _requested("NOTIFY_WEBHOOK_URL", settings, settings.notify_webhook_url, body, pause_s)
    return True


def ping_dead_man(settings: Settings, *, pause_s: float = 1.0) -> bool:
    """Fetch DEAD_MAN_URL, whose watcher raises the alarm when that stops; false where it is not set.

    Raises:
        NotDelivered: three tries were not enough, or the other side will never take it.
    """
    if settings.dead_man_url is None:
        return False
    _requested("DEAD_MAN_URL", settings, settings.dead_man_url, None, pause_s)
    return True


class _Unwell(Exception):
    """A failure that another try may mend; the text names it."""


def _requested(setting: str, settings: Settings, url: SecretStr, body: bytes | None, pause_s: float) -> None:
    retrying = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_exponential(multiplier=pause_s),
        retry=retry_if_exception_type(_Unwell),
    )
    try:
        retrying(_request, setting, settings.notify_timeout_seconds, url, body)
    except RetryError as error:
        raise NotDelivered(f"{setting}: {error.last_attempt.exception()}, {_TRIES} times in a row") from None


def _request(setting: str, limit_s: float, url: SecretStr, body: bytes | None) -> None:
    method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
    try:
        # Its status is enough: nothing of the answer's content is read.
        answer = web.ask(method, url.get_secret_value(), limit_s=limit_s, longest=0, headers=headers, content=body)
    except web.WebEnvironmentError as error:
        raise NotDelivered(f"{setting}: {error}") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise NotDelivered(f"{setting}: is not an address that can be reached") from None
    except httpx.TimeoutException:
        through = web.proxy_hint(url.get_secret_value())
        raise _Unwell(f"no answer within {limit_s:g} s (NOTIFY_TIMEOUT_SECONDS){through}") from None
    except httpx.HTTPError as error:
        # Its text may quote the address; its type is enough.
        through = web.proxy_hint(url.get_secret_value())
        raise _Unwell(f"no answer ({type(error).__name__}){through}") from None
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise _Unwell(f"answered {answer.status_code}")
    if not answer.is_success:
        raise NotDelivered(f"{setting}: answered {answer.status_code}; check that it is still the right address")
