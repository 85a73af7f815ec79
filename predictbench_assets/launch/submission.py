"""A file of forecasts from outside: checked against the day's cohort, stamped, sealed and kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import msgspec

from predictbench_assets.clock import utc_text
from predictbench_assets.experiments.outside.file import FileExperiment, deadline
from predictbench_assets.experiments.outside.forms import (
    SubmissionRefused,
    SubmittedLines,
    Trouble,
    match,
    submitted_bytes,
)
from predictbench_assets.experiments.outside.inbox import Inbox, Receipt, Submission, SubmittedFile
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.ingestion.cohort import COHORT, cohort_markets
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.names import open_staged
from predictbench_assets.launch.request import requested_key
from predictbench_assets.markets.market import Market
from predictbench_assets.printable import shortened
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFileMissing, StagingArea
from predictbench_assets.texts import read_whole, trimmed

COHORT_ASSET: Final = ("normalized_markets",)

_MOST_RECEIPT_BYTES = 100_000
_SHOWN_NAME = 100


@dataclass(frozen=True)
class CheckedSubmission:
    """A file's forecasts of a cohort, and what is wrong with the other lines."""

    submission: Submission
    markets: int
    """Markets of the cohort."""
    troubles: Sequence[Trouble]
    deadline: datetime

    @property
    def missing(self) -> int:
        """Markets of the cohort without a forecast."""
        return self.markets - len(self.submission.forecasts)


def chosen_experiment(registry: Registry, name: str | None) -> str:
    """The name of an experiment that takes files; the only one where none is named.

    Raises:
        SubmissionRefused: there is none of that name, or not exactly one.
    """
    takers = [experiment.name for experiment in registry if isinstance(experiment, FileExperiment)]
    if name is None and len(takers) == 1:
        return takers[0]
    wanted = None if name is None else trimmed(name)
    if wanted in takers:
        assert wanted is not None
        return wanted
    if name is None and takers:
        raise SubmissionRefused(f"say by --as who forecasts: one of {', '.join(takers)}")
    table = wanted if wanted is not None and wanted.isidentifier() and wanted.isascii() else "my_forecasts"
    known = f"Those that are declared: {', '.join(takers)}. " if takers else ""
    if wanted is not None and wanted in registry:
        problem = f"{wanted} is an experiment that takes no files"
    else:
        problem = "no experiment takes files" if name is None else f"no experiment is named {shortened(name)}"
    raise SubmissionRefused(
        f"{problem}. {known}To declare one, add to experiments.toml a table [{table.lower()}] with the line "
        'kind = "file"'
    )


def requested_run(settings: Settings, read: SubmittedLines, run_date: date | None, window_days: int | None) -> RunKey:
    """The run that a file is for: as asked for, else as the file's question set says, else as any command's default.

    Raises:
        SubmissionRefused: the two contradict each other.
        RunRefused: there is no such run.
    """
    for option, asked, said in (
        ("--run-date", run_date, read.run_date),
        ("--window-days", window_days, read.window_days),
    ):
        if asked is not None and said is not None and asked != said:
            raise SubmissionRefused(f"{option} is {asked}, but the file answers to {read.stated['question_set']}")
    return requested_key(settings, run_date or read.run_date, read.window_days if window_days is None else window_days)


def check_submission(
    settings: Settings, area: StagingArea, key: RunKey, experiment: str, name: str, read: SubmittedLines
) -> CheckedSubmission:
    """Check a file against a run's cohort, now: whether it is in time, and each of its lines.

    Args:
        name: that of the file.

    Raises:
        SubmissionRefused: the run has no cohort yet, or it is too late.
    """
    header, markets = _cohort(area, key)
    now = settings.clock.now()
    if header.as_of is not None:
        raise SubmissionRefused(
            f"too late: the snapshot of {key} was reconstructed as of {utc_text(header.as_of)}, when that day was over"
        )
    until = deadline(header.captured_at)
    if now < header.captured_at:
        raise SubmissionRefused(
            f"the snapshot of {key} was frozen at {utc_text(header.captured_at)}, and this machine's clock says "
            f"{utc_text(now)}: set the clock"
        )
    if now > until:
        raise SubmissionRefused(
            f"too late: forecasts of {key} were taken until {utc_text(until)}, and it is {utc_text(now)}"
        )
    inbox = Inbox(area)
    earlier = inbox.names(key, experiment)
    replaced, replaces = inbox.sealed(earlier[-1]) if earlier else (None, None)
    if replaced is not None and replaced.received_at > now:
        raise SubmissionRefused(
            f"the newest submission of {experiment} was received at {utc_text(replaced.received_at)}, and this "
            f"machine's clock says {utc_text(now)}: set the clock"
        )
    forecasts, troubles = match(read.lines, markets, run=str(key), now=now)
    return CheckedSubmission(
        Submission(
            experiment=experiment,
            run_date=key.run_date,
            window_days=key.window_days,
            snapshot_hash=header.snapshot_hash,
            number=len(earlier) + 1,
            replaces=replaces,
            received_at=now,
            file=SubmittedFile(
                name=_storable_name(name),
                sha256=hashlib.sha256(read.content).hexdigest(),
                bytes=len(read.content),
                form=read.form,
            ),
            stated=dict(read.stated),
            left_out=len(troubles),
            forecasts=forecasts,
        ),
        len(markets),
        troubles,
        until,
    )


def receive(area: StagingArea, checked: CheckedSubmission, *, partial: bool) -> Receipt:
    """Seal and keep a submission.

    Args:
        partial: take the good lines of a file that has bad ones.

    Raises:
        SubmissionRefused: it has bad lines and `partial` was not asked for, or no good one.
        PredictbenchError: the staging area does not take it.
    """
    refuse_troubles(checked, partial=partial)
    submission = checked.submission
    name, seal = Inbox(area).store(submission)
    return Receipt(
        seal=seal,
        submission=name,
        experiment=submission.experiment,
        run_date=submission.run_date,
        window_days=submission.window_days,
        received_at=submission.received_at,
        deadline=checked.deadline,
        forecasts=len(submission.forecasts),
        markets=checked.markets,
        left_out=submission.left_out,
        replaces=submission.replaces,
        file_sha256=submission.file.sha256,
    )


def refuse_troubles(checked: CheckedSubmission, *, partial: bool) -> None:
    """Refuse a file that has bad lines, or no good one.

    Raises:
        SubmissionRefused: as `receive`.
    """
    good, bad = len(checked.submission.forecasts), len(checked.troubles)
    if not good:
        raise SubmissionRefused(f"refused: not one of its {bad:,} lines can be taken")
    if bad and not partial:
        raise SubmissionRefused(
            f"refused: {bad:,} of its {good + bad:,} lines cannot be taken. Mend them, or take the other {good:,} by "
            "--partial"
        )


def write_receipt(folder: Path, stem: str, receipt: Receipt) -> Path:
    """Write a receipt into a folder, under a name of its own; returns its path."""
    path = folder / f"{stem}.{receipt.received_at:%Y%m%dT%H%M%SZ}-{receipt.seal[:8]}.receipt.json"
    path.write_bytes(receipt_text(receipt).encode())
    return path


def receipt_text(receipt: Receipt) -> str:
    """A receipt as it is written into a file."""
    return json.dumps(msgspec.to_builtins(receipt), indent=2) + "\n"


def read_receipt(file: Path) -> Receipt:
    """Read a receipt.

    Raises:
        SubmissionRefused: the file is none.
    """
    try:
        return msgspec.json.decode(read_whole(file, _MOST_RECEIPT_BYTES), type=Receipt)
    except (ValueError, RecursionError, OSError) as error:
        raise SubmissionRefused(f"{file} is no receipt: {error}") from error


def verify_receipt(area: StagingArea, receipt: Receipt, file: Path | None = None) -> Sequence[str]:
    """Reasons for which the stored submission is not the one that a receipt is of; empty where it is.

    Args:
        file: the file that was handed in, to be compared too.

    Raises:
        SubmissionRefused: the file cannot be read.
    """
    return Inbox(area).problems(receipt, None if file is None else submitted_bytes(file))


def _cohort(area: StagingArea, key: RunKey) -> tuple[CohortHeader, list[Market]]:
    try:
        staged = open_staged(area, COHORT_ASSET, key, COHORT)
    except StagedFileMissing as error:
        raise SubmissionRefused(
            f"the markets of {key} are not frozen yet, or not in this staging area: the day's run comes first "
            f"(predictbench daily --run-date {key.run_date} --window-days {key.window_days})"
        ) from error
    return staged.header(CohortHeader), list(cohort_markets(staged))


def _storable_name(name: str) -> str:
    """The name of a file as it may be stored and shown."""
    return ascii(name)[1:-1][:_SHOWN_NAME]
