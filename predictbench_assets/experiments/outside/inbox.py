"""The inbox of submissions: sealed records in the staging area, and the receipts of those who sent them.

A record is a file of canonical JSON (keys sorted, no blanks, UTF-8). Its seal is the SHA-256 of these bytes, so that
`sha256sum` of the file is the seal. A record is never changed and never pruned: a later one replaces it by being newer.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final

import msgspec

from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFileMissing, StagingArea

FOLDER: Final = "submissions"

_NAME = re.compile(
    rf"{FOLDER}/(\d{{4}}-\d{{2}}-\d{{2}}_w\d+)/([a-z][a-z0-9_]*)/\d{{8}}T\d{{6}}\.\d{{6}}Z-\d{{6}}-([0-9a-f]{{16}})\.json"
)


class SubmissionDamaged(PermanentError):
    """A stored submission is not the one that was sealed."""


class SubmittedForecast(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The forecast of one market."""

    market_id: str
    probability: float
    """Of the first outcome."""
    rationale: str | None = None
    """Text of a stranger, as it was sent."""


class SubmittedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file that was handed in."""

    name: str
    sha256: str
    bytes: int
    form: str
    """A word of `forms.Form`."""


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a submission."""

    record: int = 1
    """Version of this form."""
    experiment: str
    run_date: date
    window_days: int
    snapshot_hash: str
    """Hash of the snapshot whose markets were forecast."""
    number: int
    """1 for the first submission of an experiment for a run, and so on."""
    replaces: str | None
    """Seal of the submission that was the newest before."""
    received_at: datetime
    file: SubmittedFile
    stated: dict[str, str]
    """Names that the file has of its author, as ForecastBench's have."""
    left_out: int
    """Lines of the file that were refused."""
    forecasts: list[SubmittedForecast]

    @property
    def key(self) -> RunKey:
        """The run that it is for."""
        return RunKey(self.run_date, self.window_days)

    def encode(self) -> bytes:
        """The canonical JSON."""
        return msgspec.json.encode(self, order="sorted")


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The acknowledgement of a submission, for its owner to keep."""

    seal: str
    """SHA-256 of the record, 64 hexadecimal digits."""
    submission: str
    """Name of the record in the staging area."""
    experiment: str
    run_date: date
    window_days: int
    received_at: datetime
    deadline: datetime
    """Until then a newer submission replaces it."""
    forecasts: int
    markets: int
    """Markets of the cohort."""
    left_out: int
    """Lines of the file that were refused."""
    replaces: str | None
    file_sha256: str


class Inbox:
    """The submissions in a staging area.

    Args:
        area: the place.
    """

    def __init__(self, area: StagingArea) -> None:
        self._area = area

    def names(self, key: RunKey, experiment: str) -> list[str]:
        """Names of the submissions of an experiment for a run, the oldest first."""
        names = self._area.list(f"{FOLDER}/{key.slug}/{experiment}")
        return [name for name in names if _NAME.fullmatch(name)]

    @property
    def uri(self) -> str:
        """The address of all submissions."""
        return self._area.uri(FOLDER)

    def days(self) -> int:
        """The number of runs for which something was handed in, whoever did; 0 where nothing ever was.

        Raises:
            OSError: the folder cannot be read; of a store whatever that raises.
        """
        fs, place = self._area.fs, self._area.path(FOLDER)
        try:
            if fs.isfile(place):
                raise NotADirectoryError(place)
            return len(fs.ls(place, detail=False))
        except FileNotFoundError:
            return 0

    def sealed(self, name: str) -> tuple[Submission, str]:
        """A submission and its seal, which is checked as far as the name has it.

        Raises:
            SubmissionDamaged: it was changed, or is gone.
        """
        try:
            content = self._area.read_bytes(name)
        except StagedFileMissing as error:
            raise SubmissionDamaged(f"the submission {name} is gone: put it back into the staging area") from error
        seal = hashlib.sha256(content).hexdigest()
        named = _NAME.fullmatch(name)
        try:
            submission = msgspec.json.decode(content, type=Submission)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            submission = None
        if submission is None or named is None or named[3] != seal[:16] or named.groups()[:2] != _place(submission):
            raise SubmissionDamaged(
                f"{self._area.uri(name)} is not the submission that was sealed: it was changed after it was received. "
                "Put the original back, or move the file away"
            )
        return submission, seal

    def store(self, submission: Submission) -> tuple[str, str]:
        """Keep a submission; returns its name and its seal once it is durable.

        Raises:
            PredictbenchError: the place does not take it.
        """
        content = submission.encode()
        seal = hashlib.sha256(content).hexdigest()
        received = f"{submission.received_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
        name = (
            f"{FOLDER}/{submission.key.slug}/{submission.experiment}/{received}-{submission.number:06}-{seal[:16]}.json"
        )
        self._area.write_bytes(name, content)
        return name, seal

    def problems(self, receipt: Receipt, content: bytes | None = None) -> Sequence[str]:
        """Reasons for which a receipt is not that of a stored submission, a sentence each; empty where it is.

        Args:
            content: the file that was handed in, to be compared too.
        """
        named = _NAME.fullmatch(receipt.submission)
        if named is None:
            return [f"the receipt names no submission: {receipt.submission!a}"]
        try:
            submission, seal = self.sealed(receipt.submission)
        except SubmissionDamaged as error:
            return [str(error)]
        found = []
        if seal != receipt.seal:
            found.append(f"the stored submission has the seal {seal}, the receipt {receipt.seal!a}")
        for field in ("experiment", "run_date", "window_days", "received_at", "replaces", "left_out"):
            stored, claimed = getattr(submission, field), getattr(receipt, field)
            if stored != claimed:
                found.append(f"{field} is {stored} in the stored submission, {claimed!r:.100} in the receipt")
        if len(submission.forecasts) != receipt.forecasts:
            found.append(
                f"the stored submission has {len(submission.forecasts):,} forecasts, not {receipt.forecasts:,}"
            )
        if content is not None and hashlib.sha256(content).hexdigest() != submission.file.sha256:
            found.append("the file is not the one that was handed in")
        return found


def _place(submission: Submission) -> tuple[str, str]:
    return submission.key.slug, submission.experiment
