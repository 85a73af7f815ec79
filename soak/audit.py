"""The audit: what is stored, from the raw tables, with arithmetic of its own and nothing of the product's code.

It reads the database and the soak's ledger, in which the soak has written what the exchange offered, how each command
ended, and what was measured at the end of each day.
"""

import hashlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
_CLOSE_ENOUGH: Final = 1e-9
_SETTLED_FOR: Final = timedelta(days=3)
"""Markets that closed so long before the end must be known as settled: a sweep a day looks at them."""


@dataclass
class Check:
    """What one check has looked at, and what it found."""

    name: str
    looked_at: int = 0
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def problem(self, text: str) -> None:
        """Name a problem."""
        self.problems.append(text)


@dataclass(frozen=True)
class Found:
    """The checks of one audit."""

    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """True where no check has found a problem."""
        return not any(check.problems for check in self.checks)


@dataclass
class Ledger:
    """The soak's own record."""

    offered: dict[tuple[str, int, datetime], list[dict[str, Row]]] = field(default_factory=dict)
    """Open markets by id, each time that they were looked at, by run date, window, and the product's clock."""
    commands: list[Row] = field(default_factory=list)
    days: list[Row] = field(default_factory=list)
    faults: list[Row] = field(default_factory=list)
    settled: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Instant at which a market closed, and what its first outcome pays."""
    model: Row = field(default_factory=dict)
    end: Row = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> "Ledger":
        """Read a ledger."""
        ledger = cls()
        for line in file.read_text().splitlines():
            entry: Row = json.loads(line)
            match entry.pop("kind"):
                case "offered":
                    key = entry["run_date"], entry["window"], datetime.fromisoformat(entry["at"])
                    ledger.offered.setdefault(key, []).append(entry["markets"])
                case "command":
                    ledger.commands.append(entry)
                case "day":
                    ledger.days.append(entry)
                case "fault":
                    ledger.faults.append(entry)
                case "settled":
                    ledger.settled |= {name: (one[0], one[1]) for name, one in entry["markets"].items()}
                case "model":
                    ledger.model = entry
                case "end":
                    ledger.end = entry
        return ledger


@dataclass(frozen=True)
class Source:
    """The database and the ledger."""

    connection: psycopg.Connection[Row]
    ledger: Ledger

    def rows(self, query: str, *values: Any) -> list[Row]:
        """Rows of a query on the product's tables."""
        return self.connection.execute(query.encode(), values).fetchall()


def audit(dsn: str, ledger: Ledger) -> Found:
    """Look at everything that is stored.

    Args:
        dsn: of the database, for libpq.
        ledger: what the soak has written down.
    """
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        connection.execute("SET search_path = predictbench")
        connection.execute("SET timezone = 'UTC'")
        return looked_through(Source(connection, ledger))


def looked_through(source: Source) -> Found:
    """Make every check."""
    return Found([check(source) for check in CHECKS])


def runs_are_stored(source: Source) -> Check:
    """Each window of each day is stored complete, and nothing is left running."""
    check = Check("every day is stored, nothing is left running")
    stored = {(row["run_date"], row["window_days"]): row for row in source.rows("SELECT * FROM processing_runs")}
    end = source.ledger.end
    first = date.fromisoformat(end["first"])
    for number in range(end["days"]):
        for window in end["windows"]:
            check.looked_at += 1
            key = first + timedelta(days=number), window
            status = stored[key]["status"] if key in stored else "absent"
            if status != "completed":
                check.problem(f"{key[0]} window {window} is {status}")
    for row in source.rows(
        "SELECT run_date, window_days, a.attempt FROM processing_attempts a JOIN processing_runs USING (run_id)"
        " WHERE a.status = 'running'"
    ):
        check.problem(f"{row['run_date']} window {row['window_days']}: attempt {row['attempt']} is left running")
    check.facts["attempts"] = Counter(row["status"] for row in source.rows("SELECT status FROM processing_attempts"))
    return check


def markets_are_kept(source: Source) -> Check:
    """Each market that was offered is stored once, rejected, failed, or left out for a reason that holds."""
    check = Check("every market offered is in exactly one place")
    snapshots = {
        (row["run_date"], row["window_days"]): row["captured_at"]
        for row in source.rows("SELECT * FROM snapshots WHERE superseded_at IS NULL")
    }
    places: Counter[str] = Counter()
    for run in source.rows("SELECT * FROM processing_runs WHERE status = 'completed' ORDER BY run_date, window_days"):
        key = run["run_date"], run["window_days"]
        name = f"{key[0]} window {key[1]}"
        looks = source.ledger.offered.get((str(key[0]), key[1], snapshots[key])) if key in snapshots else None
        if not looks:
            check.problem(f"{name}: nobody knows what was offered when it was captured, at {snapshots.get(key)}")
            continue
        surely = set.intersection(*map(set, looks))
        perhaps = set.union(*map(set, looks))
        stored = Counter(
            row["market_id"]
            for row in source.rows(
                "SELECT market_id FROM processed_markets WHERE run_id = %s AND withdrawn_at IS NULL", run["run_id"]
            )
        )
        failures = source.rows(
            "SELECT market_id, stage, reason FROM processing_failures WHERE run_id = %s AND attempt = %s"
            " AND market_id IS NOT NULL",
            run["run_id"],
            run["attempt"],
        )
        failed = Counter(row["market_id"] for row in failures)
        check.looked_at += len(surely)
        for market, times in (stored + failed).items():
            if times > 1:
                check.problem(f"{name}: market {market} is in {times} places")
            if market not in perhaps:
                check.problem(f"{name}: market {market} was not offered")
        for row in failures:
            if not row["reason"]:
                check.problem(f"{name}: market {row['market_id']} failed without a reason")
        left = surely - set(stored) - set(failed)
        least = source.ledger.end["min_volume"]
        for market in sorted(left):
            if all(look[market]["volume"] >= least for look in looks):
                check.problem(f"{name}: market {market} was offered and is nowhere")
        excluded = sum((run["excluded_by_reason"] or {}).values())
        if not len(left) <= excluded <= len(left) + len(perhaps - surely):
            check.problem(f"{name}: {excluded} are excluded by its counts, {len(left)} are missing")
        for place, number in (
            ("stored", sum(stored.values())),
            ("rejected or failed", len(failures)),
            ("excluded", excluded),
        ):
            places[place] += number
    check.facts |= places
    return check


def counts_add_up(source: Source) -> Check:
    """The counts that are kept are those of the rows."""
    check = Check("counts add up")
    for row in source.rows("""
        SELECT p.run_date, p.window_days, p.offered_markets, p.excluded_markets, p.rejected_markets, p.failed_markets,
            p.processed_markets, p.total_markets, f.rejected, f.failed, m.stored
        FROM processing_runs p
        CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE stage = 'normalized_markets') AS rejected,
                count(*) FILTER (WHERE stage <> 'normalized_markets' AND market_id IS NOT NULL) AS failed
            FROM processing_failures f WHERE f.run_id = p.run_id AND f.attempt = p.attempt) f
        CROSS JOIN LATERAL (SELECT count(*) AS stored FROM processed_markets m
            WHERE m.run_id = p.run_id AND m.withdrawn_at IS NULL) m
        WHERE p.status = 'completed'"""):
        check.looked_at += 1
        name = f"{row['run_date']} window {row['window_days']}"
        parts = [row[f"{part}_markets"] for part in ("excluded", "rejected", "failed", "processed")]
        if row["offered_markets"] != sum(parts) or row["total_markets"] != parts[2] + parts[3]:
            check.problem(f"{name}: {row['offered_markets']} offered are not {' + '.join(map(str, parts))}")
        for kept, counted in (("processed", "stored"), ("rejected", "rejected"), ("failed", "failed")):
            if row[f"{kept}_markets"] != row[counted]:
                check.problem(f"{name}: {row[f'{kept}_markets']} {kept} by its row, {row[counted]} rows")
    for row in source.rows("""
        SELECT p.run_date, p.window_days, e.name, a.attempt, a.status, a.completed, a.skipped, a.failed,
            count(*) FILTER (WHERE r.status = 'completed') AS has_completed,
            count(*) FILTER (WHERE r.status = 'skipped') AS has_skipped,
            count(*) FILTER (WHERE r.status = 'failed') AS has_failed, count(r.status) AS results,
            (SELECT count(*) FROM processed_markets m WHERE m.run_id = p.run_id AND m.withdrawn_at IS NULL) AS markets,
            a.attempt = max(a.attempt) OVER (PARTITION BY p.run_id, e.name) AS newest
        FROM experiment_runs a JOIN processing_runs p USING (run_id) JOIN experiments e USING (experiment_id)
        LEFT JOIN experiment_results r USING (experiment_run_id)
        WHERE p.status = 'completed'
        GROUP BY p.run_id, e.experiment_id, a.experiment_run_id"""):
        check.looked_at += 1
        name = f"{row['run_date']} window {row['window_days']} {row['name']} attempt {row['attempt']}"
        if row["status"] != "not_run":
            for part in ("completed", "skipped", "failed"):
                if row[part] != row[f"has_{part}"]:
                    check.problem(f"{name}: {row[part]} {part} by its row, {row[f'has_{part}']} results")
        if row["newest"] and row["results"] != row["markets"]:
            check.problem(f"{name}: {row['results']} results for {row['markets']} markets")
    for row in source.rows("""
        SELECT p.run_date, p.window_days, k.forecasts, k.scores, count(r.experiment_result_id) AS has_forecasts,
            count(s.experiment_result_id) AS has_scores
        FROM scored_runs k JOIN processing_runs p USING (run_id) JOIN processed_markets m USING (run_id)
        LEFT JOIN experiment_results r ON r.processed_market_id = m.processed_market_id AND r.status = 'completed'
            AND r.probability IS NOT NULL AND NOT r.leaked
        LEFT JOIN experiment_scores s USING (experiment_result_id)
        GROUP BY p.run_id, k.run_id"""):
        check.looked_at += 1
        for part in ("forecasts", "scores"):
            if row[part] != row[f"has_{part}"]:
                check.problem(
                    f"{row['run_date']} window {row['window_days']}: {row[part]} {part} by scored_runs, "
                    f"{row[f'has_{part}']} rows"
                )
    return check


_FORECASTS: Final = """
    SELECT p.run_date, p.window_days, e.name, m.market_id, r.experiment_result_id, r.probability, m.price,
        r.snapshot_hash IS NULL OR r.snapshot_hash IS NOT DISTINCT FROM m.snapshot_hash AS same_snapshot,
        o.state, o.outcome AS settled, o.observation_id AS newest,
        s.observation_id, s.outcome, s.brier, s.log_loss, s.clipped, s.edge, s.disagreement
    FROM experiment_results r
    JOIN experiment_runs a USING (experiment_run_id) JOIN experiments e USING (experiment_id)
    JOIN processed_markets m USING (processed_market_id) JOIN processing_runs p ON p.run_id = m.run_id
    LEFT JOIN (SELECT DISTINCT ON (market_id) * FROM resolution_observations
        ORDER BY market_id, observed_at DESC, observation_id) o ON o.market_id = m.market_id
    LEFT JOIN experiment_scores s USING (experiment_result_id)
    WHERE r.status = 'completed' AND r.probability IS NOT NULL AND NOT r.leaked"""


def scores_recompute(source: Source) -> Check:
    """Each forecast of a settled market has the score that its probability and the newest settlement come to."""
    check = Check("every score recomputes")
    for row in source.rows(_FORECASTS):
        name = f"{row['run_date']} window {row['window_days']} {row['name']} market {row['market_id']}"
        settled = row["state"] == "final" and row["settled"] is not None
        if not settled or row["brier"] is None:
            if settled:
                check.problem(f"{name}: settled and without a score")
            elif row["brier"] is not None:
                check.problem(f"{name}: scored and not settled")
            continue
        check.looked_at += 1
        if row["observation_id"] != row["newest"]:
            check.problem(f"{name}: scored by another observation than the newest")
        for part, value in _scores(row).items():
            stored = row[part]
            if (stored is None) != (value is None) or (value is not None and abs(stored - value) > _CLOSE_ENOUGH):
                check.problem(f"{name}: {part} is {stored}, and comes to {value}")
    return check


def _scores(row: Row) -> dict[str, float | None]:
    f, y = row["probability"], row["settled"]
    held = min(max(f, 0.001), 0.999)
    m = row["price"] if row["same_snapshot"] else None
    return {
        "outcome": y,
        "brier": (f - y) ** 2,
        "log_loss": -(y * math.log(held) + (1 - y) * math.log(1 - held)),
        "clipped": not 0.001 <= f <= 0.999,
        "edge": None if m is None else (m - y) ** 2 - (f - y) ** 2,
        "disagreement": None if m is None else (f - m) ** 2,
    }


def settlements_are_known(source: Source) -> Check:
    """Each stored market that the exchange has settled days ago is known as settled, and as it was."""
    check = Check("every settlement is known")
    newest = {
        row["market_id"]: row
        for row in source.rows(
            "SELECT DISTINCT ON (market_id) * FROM resolution_observations"
            " ORDER BY market_id, observed_at DESC, observation_id"
        )
    }
    before = (datetime.fromisoformat(source.ledger.end["now"]) - _SETTLED_FOR).timestamp()
    for market, (closed, pays) in source.ledger.settled.items():
        if closed > before:
            continue
        check.looked_at += 1
        known = newest.get(market)
        if known is None or known["state"] != "final":
            check.problem(
                f"market {market} closed at {datetime.fromtimestamp(closed, UTC)}, and is "
                f"{known['state'] if known else 'never looked at'}"
            )
        elif abs(known["outcome"] - pays) > _CLOSE_ENOUGH:
            check.problem(f"market {market} pays {pays}, and is known to pay {known['outcome']}")
    return check


def digests_hold(source: Source) -> Check:
    """Each digest is that of the forecasts that were stored by then, and that of a run's summary is kept."""
    check = Check("every digest holds")
    digests = source.rows(
        "SELECT d.*, run_date, window_days, summary->'forecast_digest'->>'digest' AS reported"
        " FROM forecast_digests d JOIN processing_runs USING (run_id) ORDER BY run_id, made_at, d.attempt"
    )
    for run_id, of_run in groupby(digests, key=lambda row: row["run_id"]):
        kept = list(of_run)
        # Of two at one instant of a clock that stands still, the later has the forecasts of both.
        at = {row["made_at"]: row for row in kept}
        name = f"{kept[0]['run_date']} window {kept[0]['window_days']}"
        forecasts = source.rows(
            """
            SELECT e.name, e.version, a.attempt, m.market_id, r.probability, r.forecast_at, r.snapshot_hash,
                r.config_hash, r.stored_at
            FROM experiment_results r JOIN experiment_runs a USING (experiment_run_id)
            JOIN experiments e USING (experiment_id) JOIN processed_markets m USING (processed_market_id)
            WHERE a.run_id = %s AND r.status = 'completed' AND r.probability IS NOT NULL""",
            run_id,
        )
        for made_at, row in at.items():
            check.looked_at += 1
            known = [one for one in forecasts if one["stored_at"] is None or one["stored_at"] <= made_at]
            found = _digest(row, known)
            if (found, len(known)) != (row["digest"], row["forecasts"]):
                check.problem(f"{name}: the digest of {made_at} does not hold: {len(known)} forecasts, {found}")
        reported = kept[0]["reported"]
        if reported is not None and reported not in {row["digest"] for row in kept}:
            check.problem(f"{name}: the digest of its summary is not kept")
    for row in source.rows(
        "SELECT run_date, window_days FROM processing_runs p WHERE status = 'completed'"
        " AND NOT EXISTS (SELECT FROM forecast_digests d WHERE d.run_id = p.run_id)"
    ):
        check.problem(f"{row['run_date']} window {row['window_days']} has no digest")
    return check


def _digest(run: Row, forecasts: Iterable[Row]) -> str:
    """The form that is written down in each release's README."""
    lines = [f"predictbench-forecasts-1\t{run['run_date']}\t{run['window_days']}\n"]
    ordered = sorted(
        forecasts,
        key=lambda one: (one["name"].encode(), one["version"].encode(), one["attempt"], one["market_id"].encode()),
    )
    for one in ordered:
        at = one["forecast_at"]
        fields = (
            one["name"],
            one["version"],
            str(one["attempt"]),
            one["market_id"],
            repr(one["probability"]).removesuffix(".0"),
            r"\N" if at is None else at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            one["snapshot_hash"] or r"\N",
            one["config_hash"] or r"\N",
        )
        lines.append("\t".join(fields) + "\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def forecasts_are_in_time(source: Source) -> Check:
    """No forecast was made after its market closed, and none before its market was captured."""
    check = Check("no forecast after its market closed")
    for row in source.rows("""
        SELECT p.run_date, p.window_days, e.name, m.market_id, r.forecast_at, m.close_time, m.captured_at
        FROM experiment_results r
        JOIN experiment_runs a USING (experiment_run_id) JOIN experiments e USING (experiment_id)
        JOIN processed_markets m USING (processed_market_id) JOIN processing_runs p ON p.run_id = m.run_id
        WHERE r.status = 'completed'"""):
        check.looked_at += 1
        if row["forecast_at"] is None or row["forecast_at"] >= row["close_time"]:
            check.problem(
                f"{row['run_date']} window {row['window_days']} {row['name']} market {row['market_id']}: made at "
                f"{row['forecast_at']}, closed at {row['close_time']}"
            )
    return check


def nothing_is_paid_twice(source: Source) -> Check:
    """No question to the model has two answers that were used, and it was not asked more than is written down."""
    check = Check("nothing is paid for twice")
    for row in source.rows("""
        SELECT run_date, window_days, experiment, unit_id, count(*) AS answers
        FROM model_calls WHERE status = 'answered'
        GROUP BY run_date, window_days, experiment, version, config_hash, snapshot_hash, unit, unit_id, sample
        HAVING count(*) > 1"""):
        check.problem(
            f"{row['run_date']} window {row['window_days']} {row['experiment']} market {row['unit_id']}: "
            f"{row['answers']} answers were paid for"
        )
    calls = Counter(row["status"] for row in source.rows("SELECT status FROM model_calls"))
    check.looked_at = sum(calls.values())
    check.facts["calls"] = calls
    model = source.ledger.model
    if model:
        check.facts |= model
        if model["requests"] > sum(calls.values()):
            check.problem(f"the model counts {model['requests']} requests, {sum(calls.values())} are written down")
        in_flight = sum(number for status, number in calls.items() if status != "answered")
        check.facts["in flight"] = in_flight
        if model["billed"] > calls["answered"] + in_flight:
            check.problem(
                f"the model has answered {model['billed']} times, {calls['answered']} answers are written down "
                f"and {in_flight} were in flight"
            )
    for row in source.rows("""
        SELECT p.run_date, p.window_days, m.market_id FROM experiment_results r
        JOIN experiment_runs a USING (experiment_run_id) JOIN experiments e USING (experiment_id)
        JOIN processed_markets m USING (processed_market_id) JOIN processing_runs p ON p.run_id = m.run_id
        WHERE e.name = 'asked' AND r.status = 'completed' AND NOT EXISTS (
            SELECT FROM model_calls c WHERE c.run_date = p.run_date AND c.window_days = p.window_days
                AND c.experiment = e.name AND c.unit_id = m.market_id AND c.status = 'answered')"""):
        check.problem(
            f"{row['run_date']} window {row['window_days']} market {row['market_id']}: a forecast without a call"
        )
    return check


def commands_have_healed(source: Source) -> Check:
    """No command hung, and the last of each kind on each day went well, whatever had happened before."""
    check = Check("each command went well in the end")
    last: dict[tuple[str, str], Row] = {}
    for command in source.ledger.commands:
        check.looked_at += 1
        if command["hung"]:
            check.problem(f"{command['now']} {command['name']} did not end")
        if command["name"] != "notify" and not command["name"].endswith(" again"):
            last[command["now"][:10], command["name"]] = command
    for (day, name), command in last.items():
        if command["code"] != 0:
            check.problem(f"{day} {name} ended with {command['code']}: {command['tail'][:200]}")
    check.facts["failed and run again"] = sum(command["code"] != 0 for command in source.ledger.commands)
    return check


_FIRST_DAYS: Final = timedelta(days=8)
"""Days until there is work of every kind: of window 7 no market has closed before, so a sweep asks for few."""


def nothing_grows(source: Source) -> Check:
    """Memory, handles, sessions, temporary files, files, objects, Dagster's storage and dead rows stay flat."""
    check = Check("nothing grows that should not")
    ledger = source.ledger
    check.looked_at = len(ledger.days)
    begun = str(date.fromisoformat(ledger.days[0]["day"]) + _FIRST_DAYS) if ledger.days else ""
    good = [one for one in ledger.commands if one["code"] == 0 and not one["struck"] and one["now"][:10] >= begun]
    for name in ("daily 1", "daily 7", "resolve", "score"):
        # The kernel keeps the most memory; files are looked at, and what leaks of them is there every day.
        for what, of, allowed, more in (("peak_mb", max, 1.1, 3.0), ("files", statistics.median, 1.1, 4.0)):
            early, late = _early_and_late([one[what] for one in good if one["name"] == name], of)
            check.facts[f"{name} {what}"] = [round(early, 1), round(late, 1)]
            if late > early * allowed + more:
                check.problem(f"{what} of {name} has grown from {early:.1f} to {late:.1f}")
    for what, most in (("sessions", 0), ("connections", 0)):
        found = [(day["day"], day[what]) for day in ledger.days if day[what] > most]
        if found:
            check.problem(f"{what} were left open at the end of {found[0][0]}: {found[0][1]}")
    left = [len(day["temporary"]) for day in ledger.days]
    check.facts["temporary files"] = [left[0], left[-1]] if left else []
    if left and left[-1] > left[0] + 2:
        check.problem(f"temporary files are left: {', '.join(ledger.days[-1]['temporary'][:5])}")
    for what, by_day in (
        ("home_files", 6.0),
        ("working_objects", 0.5),
        ("dagster_runs", 0.5),
        ("dagster_events", 20.0),
    ):
        _flat_after_retention(check, what, [day[what] for day in ledger.days], by_day)
    _tables(check, ledger.days)
    return check


_RETENTION_DAYS: Final = 21
"""Days until what is removed after 14 has gone: the prune comes once a week."""


def _flat_after_retention(check: Check, what: str, values: Sequence[float], by_day: float) -> None:
    """Most of the last three weeks against most of the first three after retention has begun, per day between them."""
    check.facts[what] = [values[0], values[-1]] if values else []
    settled = values[_RETENTION_DAYS:]
    if len(settled) < 3 * 7:
        return
    third = len(settled) // 3
    grown = (max(settled[-third:]) - max(settled[:third])) / (len(settled) - third)
    check.facts[f"{what} a day"] = round(grown, 2)
    if grown > by_day:
        check.problem(f"{what} grow by {grown:.1f} a day, up to {max(settled[-third:])}")


def _tables(check: Check, days: Sequence[Row]) -> None:
    if not days:
        return
    last = days[-1]["tables"]
    check.facts["dead rows"] = {name: one["dead"] for name, one in last.items() if one["dead"] > 500}
    for name, one in last.items():
        if one["dead"] > 2_000 + 0.5 * one["live"]:
            check.problem(f"{name} has {one['dead']} dead rows beside {one['live']}")
    middle = days[len(days) // 2]["tables"]
    for name, one in last.items():
        before = middle.get(name, {"live": 0})
        if before["live"] < 2_000 or one["live"] < before["live"]:
            continue
        early, late = before["bytes"] / before["live"], one["bytes"] / one["live"]
        check.facts[f"{name} bytes a row"] = [round(early), round(late)]
        if late > early * 1.3:
            check.problem(f"{name} takes {late:.0f} bytes a row, {early:.0f} at half time")


def _early_and_late(values: Sequence[float], of: Callable[[Sequence[float]], float]) -> tuple[float, float]:
    """The figure `of` the second quarter of the values and of the last."""
    if len(values) < 4:
        return (0.0, 0.0)
    quarter = len(values) // 4
    return of(values[quarter : 2 * quarter]), of(values[-quarter:])


CHECKS: Final[Sequence[Callable[[Source], Check]]] = (
    runs_are_stored,
    markets_are_kept,
    counts_add_up,
    scores_recompute,
    settlements_are_known,
    digests_hold,
    forecasts_are_in_time,
    nothing_is_paid_twice,
    commands_have_healed,
    nothing_grows,
)
