"""Files of forecasts, read line by line: ForecastBench's JSON, and a CSV and JSON lines of our own.

Everything here is a stranger's. A line that cannot be taken has its troubles told and costs that line alone; what
makes a file unreadable as a whole is an error.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal

from predictbench_assets.clock import utc_text
from predictbench_assets.experiments.outside.inbox import SubmittedForecast
from predictbench_assets.failures import PermanentError
from predictbench_assets.markets.market import Market
from predictbench_assets.printable import shortened
from predictbench_assets.texts import UndecodableFile, decoded, is_unicode, read_whole, trimmed, unusable_character

Form = Literal["forecastbench", "csv", "jsonl"]

MOST_BYTES: Final = 64_000_000
MOST_LINES: Final = 200_000
MOST_LINE: Final = 1_000_000
"""Characters of a line."""
MOST_RATIONALE: Final = 10_000
"""Characters of a rationale."""
MOST_NAME: Final = 200

SOURCE: Final = "polymarket"
"""ForecastBench's word for the source of our questions."""
STATED: Final = ("organization", "model", "model_organization", "question_set")
"""The names that a file of ForecastBench's has to have."""

_OWN = ("market_id", "condition_id", "probability", "rationale")
_THEIRS = ("id", "source", "forecast", "resolution_date", "reasoning", "direction")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_WINDOW = re.compile(r"\d{4}-\d{2}-\d{2}_w(\d{1,3})(?!\d)", re.ASCII)
_MOST_DIGITS = 80
_LIKELY_PERCENT = 100


class SubmissionRefused(PermanentError):
    """A file of forecasts that is not taken; the text says why, and what to change."""


@dataclass(frozen=True)
class Trouble:
    """The reason for which a line of the file is not taken."""

    place: str
    """`line 3`, or `forecast 3` of ForecastBench's JSON; 1 is the first."""
    text: str


@dataclass
class Line:
    """A forecast as it is in the file."""

    place: str
    market_id: str | None = None
    condition_id: str | None = None
    probability: float | None = None
    rationale: str | None = None
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SubmittedLines:
    """A file as far as it can be read by itself."""

    form: Form
    content: bytes = field(repr=False)
    lines: Sequence[Line] = field(repr=False)
    stated: Mapping[str, str] = field(default_factory=dict)
    """The names of ForecastBench's file."""
    run_date: date | None = None
    """The day that it names as that of its questions."""
    window_days: int | None = None
    ignored: Sequence[str] = ()
    """Columns or keys that mean nothing here."""


class _Object(dict[str, Any]):
    """An object of JSON that knows which of its keys were there twice."""

    repeated: tuple[str, ...] = ()


def read_submission(file: Path) -> SubmittedLines:
    """Read a file of forecasts; its form is told by its content.

    Raises:
        SubmissionRefused: it is no such file, too large, or not text.
    """
    content = submitted_bytes(file)
    try:
        text = decoded(file, content)
    except UndecodableFile as error:
        raise SubmissionRefused(str(error)) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = next((line for line in text.split("\n", 1_000) if line.strip()), "").strip()
    if not first:
        raise SubmissionRefused(f"{file} is empty")
    if first[0] == "[":
        raise SubmissionRefused(f"{file} is a JSON array: write one object a line, or ForecastBench's form")
    if first[0] != "{":
        return _read_csv(text, content)
    if _is_one_object(first) and '"forecasts"' not in first:
        return _read_json_lines(text, content)
    return _read_forecastbench(file, text, content)


def submitted_bytes(file: Path) -> bytes:
    """The bytes of a file that is handed in.

    Raises:
        SubmissionRefused: it cannot be read, or is too large.
    """
    try:
        return read_whole(file, MOST_BYTES)
    except UndecodableFile as error:
        raise SubmissionRefused(str(error)) from error
    except OSError as error:
        raise SubmissionRefused(f"{file} cannot be read: {(error.strerror or type(error).__name__).lower()}") from error


def match(
    lines: Iterable[Line], markets: Sequence[Market], *, run: str, now: datetime
) -> tuple[list[SubmittedForecast], list[Trouble]]:
    """The forecasts of a cohort's markets in the order of the file, and the troubles of all other lines.

    Of a market that has several lines, none is taken.

    Args:
        run: the cohort, for texts.
        now: instant of the receipt.
    """
    by_id = {market.market_id: market for market in markets}
    by_condition = {market.condition_id.lower(): market for market in markets if market.condition_id}
    matched = [(line, _market_of(line, by_id, by_condition, run)) for line in lines]
    mentions: dict[str, list[str]] = {}
    for line, market in matched:
        if market is not None:
            mentions.setdefault(market.market_id, []).append(line.place)
    forecasts, troubles = [], []
    for line, market in matched:
        if market is not None:
            line.troubles.extend(_troubles_of(market, line, mentions[market.market_id], now))
        if line.troubles or market is None or line.probability is None:
            troubles.append(Trouble(line.place, "; ".join(line.troubles)))
        else:
            forecasts.append(
                SubmittedForecast(
                    market_id=market.market_id, probability=line.probability, rationale=line.rationale or None
                )
            )
    return forecasts, troubles


def _market_of(line: Line, by_id: Mapping[str, Market], by_condition: Mapping[str, Market], run: str) -> Market | None:
    """The market that a line is about; None, with a trouble, where there is none, or two."""
    named = [text for text in (line.market_id, line.condition_id) if text]
    if not named:
        return None
    found = [
        by_id.get(line.market_id) if line.market_id else None,
        by_condition.get(line.condition_id.lower()) if line.condition_id else None,
    ]
    known = {market.market_id: market for market in found if market is not None}
    if not known:
        line.troubles.insert(0, f"{' and '.join(map(shortened, named))} is no market of the cohort of {run}")
        return None
    if len(known) > 1 or (line.market_id and line.condition_id and None in found):
        line.troubles.insert(0, f"{' and '.join(map(shortened, named))} are not one market")
        return None
    return next(iter(known.values()))


def _troubles_of(market: Market, line: Line, mentions: Sequence[str], now: datetime) -> Iterator[str]:
    if len(mentions) > 1:
        others = [place for place in mentions if place != line.place][:3]
        yield f"market {market.market_id} is also in {', '.join(others)}"
    if len(market.contracts) != 2:
        yield f"market {market.market_id} has {len(market.contracts)} outcomes, and a line has one probability"
    if now >= market.close_time:
        yield f"market {market.market_id} closed at {utc_text(market.close_time)}"


def _read_csv(text: str, content: bytes) -> SubmittedLines:
    reader = csv.reader(io.StringIO(text), strict=True)
    header = next(_rows(reader), None)
    names = [] if header is None or isinstance(header[1], str) else [trimmed(name).lower() for name in header[1]]
    if "probability" not in names or not {"market_id", "condition_id"} & set(names):
        other = next((name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in text[:1_000]), None)
        hint = f" (these look parted by {other})" if other and len(names) <= 1 else ""
        raise SubmissionRefused(
            "the first line of a CSV names its columns, parted by commas: market_id or condition_id, probability, and "
            f"rationale if there is one; this one is {shortened(text.strip().split(chr(10), 1)[0])}{hint}"
        )
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise SubmissionRefused(f"the first line names a column twice: {shortened(min(repeated))}")
    lines = []
    for place, row in _rows(reader):
        line = Line(place)
        lines.append(line)
        if isinstance(row, str):
            line.troubles.append(row)
        elif len(row) != len(names):
            line.troubles.append(f"it has {len(row)} fields where the first line names {len(names)} columns")
        else:
            fields = dict(zip(names, row, strict=True))
            _take_ids(line, fields.get("market_id"), fields.get("condition_id"))
            _take_probability(line, _number_of(fields["probability"]))
            _take_rationale(line, fields.get("rationale"))
        _check_count(lines)
    return _whole("csv", content, lines, ignored=[name for name in names if name not in _OWN])


def _rows(reader: Any) -> Iterator[tuple[str, list[str] | str]]:
    """The rows of a CSV, blank ones left out, each with its place; the trouble of one that cannot be read."""
    while True:
        begun = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = f"it cannot be read: {error}"
        ended = reader.line_num
        place = f"line {begun}" if ended <= begun else f"lines {begun} to {ended}"
        if isinstance(row, str):
            yield place, row
        elif sum(map(len, row)) > MOST_LINE:
            yield place, _too_long(sum(map(len, row)))
        elif any(cell.strip() for cell in row):
            yield place if ended <= begun else f"line {begun}", row


def _read_json_lines(text: str, content: bytes) -> SubmittedLines:
    lines: list[Line] = []
    ignored: dict[str, None] = {}
    for number, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        line = Line(f"line {number}")
        lines.append(line)
        _check_count(lines)
        if len(written) > MOST_LINE:
            line.troubles.append(_too_long(len(written)))
            continue
        try:
            said = _loaded(written)
        except ValueError as error:
            line.troubles.append(f"it is no JSON: {error}")
            continue
        if not _is_plain_object(line, said):
            continue
        ignored |= dict.fromkeys(key for key in said if key not in _OWN)
        _take_ids(line, said.get("market_id"), said.get("condition_id"))
        _take_probability(line, said.get("probability"))
        _take_rationale(line, said.get("rationale"))
    return _whole("jsonl", content, lines, ignored=list(ignored))


def _read_forecastbench(file: Path, text: str, content: bytes) -> SubmittedLines:
    try:
        document = _loaded(text)
    except ValueError as error:
        raise SubmissionRefused(f"{file} is no JSON: {error}") from error
    if not isinstance(document, _Object):
        raise SubmissionRefused(f"{file} is no object of JSON")
    if document.repeated:
        raise SubmissionRefused(f"{file} has the key {shortened(document.repeated[0])} twice")
    stated = {name: _stated(file, document, name) for name in STATED}
    rows = document.get("forecasts")
    if not isinstance(rows, list):
        raise SubmissionRefused(f"{file} has no list of `forecasts`, which ForecastBench's form needs")
    days = {found for found in _DAY.findall(stated["question_set"]) if _day(found) is not None}
    if len(days) != 1:
        raise SubmissionRefused(
            f"question_set is {shortened(stated['question_set'])}, and needs one day in it, as 2026-11-22-llm.json"
        )
    window = _WINDOW.search(stated["question_set"])
    lines: list[Line] = []
    ignored = dict.fromkeys(key for key in document if key not in (*STATED, "forecasts"))
    for number, said in enumerate(rows, 1):
        line = Line(f"forecast {number}")
        lines.append(line)
        _check_count(lines)
        if not _is_plain_object(line, said):
            continue
        ignored |= dict.fromkeys(key for key in said if key not in _THEIRS)
        source = said.get("source")
        if not isinstance(source, str) or trimmed(source).lower() != SOURCE:
            line.troubles.append(f"its source is {shortened(source)}, and has to be {SOURCE}")
            continue
        # A question whose market has no condition has the market's id in its place, see `dataset/question_set.py`.
        identity = said.get("id")
        is_market = not (isinstance(identity, str) and trimmed(identity).lower().startswith("0x"))
        _take_ids(line, identity if is_market else None, None if is_market else identity)
        _take_probability(line, said.get("forecast"))
        _take_rationale(line, said.get("reasoning"))
    return _whole(
        "forecastbench",
        content,
        lines,
        ignored=list(ignored),
        stated=stated,
        run_date=_day(days.pop()),
        window_days=int(window[1]) if window else None,
    )


def _whole(form: Form, content: bytes, lines: Sequence[Line], **rest: Any) -> SubmittedLines:
    if not lines:
        raise SubmissionRefused("the file has no forecasts")
    return SubmittedLines(form, content, lines, **rest)


def _check_count(lines: Sequence[Line]) -> None:
    if len(lines) > MOST_LINES:
        raise SubmissionRefused(f"the file has more than {MOST_LINES:,} forecasts")


def _too_long(characters: int) -> str:
    return f"it has {characters:,} characters, at most {MOST_LINE:,} are read"


def _stated(file: Path, document: Mapping[str, Any], name: str) -> str:
    given = document.get(name)
    text = trimmed(given) if isinstance(given, str) else ""
    if not text or len(text) > MOST_NAME:
        raise SubmissionRefused(
            f"{file} needs `{name}`, a text of 1 to {MOST_NAME} characters, and has {shortened(given)}"
        )
    if (character := unusable_character(text)) is not None:
        raise SubmissionRefused(f"`{name}` of {file} has {character}")
    return text


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _is_plain_object(line: Line, said: object) -> bool:
    if not isinstance(said, _Object):
        line.troubles.append(f"it is no object, but {shortened(said)}")
    elif said.repeated:
        line.troubles.append(f"it has the key {shortened(said.repeated[0])} twice")
    else:
        return True
    return False


def _take_ids(line: Line, market_id: object, condition_id: object) -> None:
    line.market_id = _id(line, "market_id", market_id)
    line.condition_id = _id(line, "condition_id", condition_id)
    if not line.market_id and not line.condition_id and not line.troubles:
        line.troubles.append("it names no market")


def _id(line: Line, name: str, given: object) -> str | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if given is None or isinstance(given, str):
        return trimmed(given) if given else None
    line.troubles.append(f"its {name} is {shortened(given)}, no text")
    return None


def _number_of(text: str) -> object:
    """The number of a CSV's field; the text itself where it is none."""
    plain = text.strip()
    if plain.lower() in ("nan", "inf", "+inf", "-inf"):
        return float(plain)
    return float(plain) if _NUMBER.fullmatch(plain) else plain or None


def _take_probability(line: Line, given: object) -> None:
    if given is None:
        line.troubles.append("it has no probability")
    elif isinstance(given, bool) or not isinstance(given, int | float):
        written = " (a number, without quotes)" if isinstance(given, str) and _NUMBER.fullmatch(given.strip()) else ""
        line.troubles.append(f"its probability is {shortened(given)}, not a number in [0, 1]{written}")
    elif not 0 <= given <= 1:
        percent = f"; write {given:g} % as {given / 100:g}" if 1 < given <= _LIKELY_PERCENT else ""
        shown = f"{given:g}" if math.isfinite(given) else "NaN" if math.isnan(given) else "infinite"
        line.troubles.append(f"its probability is {shown}, not in [0, 1]{percent}")
    else:
        line.probability = abs(float(given))  # of -0.0 too


def _take_rationale(line: Line, given: object) -> None:
    if given is None:
        return
    if not isinstance(given, str):
        line.troubles.append(f"its rationale is {shortened(given)}, no text")
    elif len(given) > MOST_RATIONALE:
        line.troubles.append(f"its rationale has {len(given):,} characters, at most {MOST_RATIONALE:,} are kept")
    elif "\0" in given or not is_unicode(given):
        line.troubles.append("its rationale has a NUL character or half a surrogate pair, which cannot be stored")
    else:
        line.rationale = given.strip()


def _is_one_object(text: str) -> bool:
    """True for a line that is whole, or too long to be looked at; a document begins with a line that is not."""
    if len(text) > MOST_LINE:
        return text.endswith("}")
    try:
        return isinstance(_loaded(text), dict)
    except ValueError:
        return text.endswith("}")


def _loaded(text: str) -> Any:
    """Decoded JSON.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if "\n" in text else ""
        raise ValueError(f"{error.msg} ({place}column {error.colno})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _integer(digits: str) -> int | float:
    """An integer; infinite where it has more digits than any id."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


def _object(members: list[tuple[str, Any]]) -> _Object:
    made = _Object(members)
    if len(made) < len(members):
        made.repeated = tuple(key for key, count in Counter(key for key, _ in members).items() if count > 1)
    return made
