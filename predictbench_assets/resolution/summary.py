"""The summary of a resolution sweep, for a person, a page or a program."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from predictbench_assets.reporting.output import markdown_table, publish

_SHOWN = 20


@dataclass(frozen=True)
class ChangedResolution:
    """A market that was final and is not any more, or has another payout."""

    market_id: str
    before: str
    now: str
    """Payouts such as `1/0`, or a state."""
    source: str


@dataclass(frozen=True)
class SweepReport:
    """Counts of one sweep."""

    started_at: datetime
    seconds: float
    queued: int
    """Markets that should have been looked at."""
    looked_at: int
    """Markets that the exchange answered about, if only that it does not know them."""
    states: Mapping[str, int]
    """Markets by the state that was seen: open, proposed, disputed, final, gave_up."""
    splits: int
    """Final ones without a winner."""
    observations: int
    """Rows added to the ledger: what was not known before."""
    became_final: int
    changed: tuple[ChangedResolution, ...]
    vanished: int
    """Markets that the exchange does not know any more, neither by condition nor by id."""
    unreadable: int
    """Closed markets whose payout is no settlement, and answers that nothing can be made of."""
    gave_up: int
    requests: int
    """Requests sent, each attempt counted."""
    remaining: int
    """Markets left for the next sweep, which begins with them."""
    problems: tuple[str, ...] = ()
    """Reasons for which the sweep ended early, or went without the CLOB."""
    api: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self) | {
            "started_at": self.started_at.isoformat(),
            "changed": [asdict(one) for one in self.changed],
        }

    def to_markdown(self) -> str:
        """A table of the counts, and one of what changed, for a page."""
        lines = ["### Resolution", "", *markdown_table(("", ""), list(self._facts()))]
        if self.changed:
            changed = [(one.market_id, one.before, one.now, one.source) for one in self.changed[:_SHOWN]]
            lines += ["", "### Changed settlements", ""]
            lines += markdown_table(("market", "before", "now", "source"), changed)
            lines += [f"\nand {len(self.changed) - _SHOWN:,} more"] if len(self.changed) > _SHOWN else []
        if self.problems:
            lines += ["", *markdown_table(("problem",), [(problem,) for problem in self.problems])]
        return "\n".join(lines) + "\n"

    def to_text(self) -> str:
        """A text for a terminal."""
        width = max(len(name) for name, _ in self._facts())
        lines = [f"{name:<{width}}  {value:>9}" for name, value in self._facts()]
        lines += [f"market {one.market_id}: {one.before} -> {one.now} ({one.source})" for one in self.changed[:_SHOWN]]
        return "\n".join([*lines, *self.problems])

    def write(self, path: Path) -> Path:
        """Publish it as JSON at `path`, and as Markdown beside it with the suffix `.md`, each in one step."""
        return publish(path, json=json.dumps(self.as_dict(), indent=2) + "\n", markdown=self.to_markdown())

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "markets looked at", f"{self.looked_at:,} of {self.queued:,}"
        for state, count in sorted(self.states.items()):
            yield f"  {state.replace('_', ' ')}", f"{count:,}"
        yield "final without a winner", f"{self.splits:,}"
        yield "newly final", f"{self.became_final:,}"
        yield "changed settlements", f"{len(self.changed):,}"
        yield "unknown to the exchange", f"{self.vanished:,}"
        yield "closed or answered unreadably", f"{self.unreadable:,}"
        yield "given up now", f"{self.gave_up:,}"
        yield "new observations", f"{self.observations:,}"
        yield "left for the next sweep", f"{self.remaining:,}"
        yield "requests", f"{self.requests:,}"
        yield "seconds", f"{self.seconds:,.1f}"
