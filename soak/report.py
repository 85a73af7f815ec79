"""The report of a soak: seed, faults with their outcomes, what the audit found, and what was measured."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from soak.audit import Found, Ledger

_MOST_PROBLEMS = 12


@dataclass(frozen=True)
class Report:
    """A report in both forms."""

    text: str
    facts: dict[str, Any]


def report(ledger: Ledger, found: Found) -> Report:
    """Put a report together."""
    seed, days = ledger.end["seed"], ledger.end["days"]
    kinds = Counter(f"{one['boundary']}: {one['fault']}" for one in ledger.faults)
    lines = ["", f"seed {seed}, {days} days, {len(ledger.faults)} faults:"]
    lines += [f"  {number:3} x {kind}" for kind, number in sorted(kinds.items())]
    lines += ["", "audit:"]
    for check in found.checks:
        verdict = f"{len(check.problems)} PROBLEMS" if check.problems else "ok"
        lines.append(f"  {verdict:12} {check.name} ({check.looked_at:,} looked at)")
        lines += [f"      {problem}" for problem in check.problems[:_MOST_PROBLEMS]]
        if len(check.problems) > _MOST_PROBLEMS:
            lines.append(f"      and {len(check.problems) - _MOST_PROBLEMS:,} more")
        lines += [f"      {name}: {_said(value)}" for name, value in check.facts.items()]
    lines += ["", "the audit passes" if found.passed else f"THE AUDIT FAILS; again with SEED={seed}"]
    facts = {
        "seed": seed,
        "days": days,
        "passed": found.passed,
        "faults": [{"day": one["day"], "fault": one["what"], "outcome": one["outcome"]} for one in ledger.faults],
        "audit": [
            {"check": check.name, "looked_at": check.looked_at, "problems": check.problems, "facts": check.facts}
            for check in found.checks
        ],
    }
    return Report("\n".join(lines), facts)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:,}" for name, number in value.items()) or "none"
    if isinstance(value, list):
        return " -> ".join(map(str, value))
    return str(value)
