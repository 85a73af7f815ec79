"""Result of a prune, done or only counted: one line for each kind of thing that is kept for a time."""

from dataclasses import dataclass, field


@dataclass
class Pruned:
    """One line of the table."""

    what: str
    count: int = 0
    bytes: int | None = 0
    """Bytes that were freed; None where they are not known."""
    kept: int = 0
    """Old enough, and left where they are all the same."""
    notes: list[str] = field(default_factory=list)
    """Notes for a person, a sentence each."""

    def add(self, count: int, size: int) -> None:
        """Count what was removed."""
        self.count += count
        self.bytes = None if self.bytes is None else self.bytes + size
