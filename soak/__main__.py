"""`python -m soak --days 90 [--seed N]`: live the days, audit what is stored, and say so; exit code 1 if it fails."""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from soak.audit import audit
from soak.days import begun, live
from soak.report import report


def main() -> int:
    """Run a soak."""
    arguments = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    arguments.add_argument("--days", type=int, default=90)
    arguments.add_argument(
        "--seed", type=int, help="replays the same faults on the same world; drawn if it is not given"
    )
    arguments.add_argument("--markets", type=int, default=40, help="that close on each day")
    arguments.add_argument("--no-faults", action="store_true")
    arguments.add_argument("--folder", type=Path, help="an empty one that is kept; default: a temporary one")
    arguments.add_argument(
        "--json", type=Path, help="where the report goes as JSON; default: report.json in the folder"
    )
    given = arguments.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="soak-"))).resolve()
    print(f"seed {seed}: {given.days} days, {given.markets} markets a day, in {folder}", flush=True)
    with begun(folder, seed, given.markets, faults=not given.no_faults) as soak:
        lived = live(soak, given.days)
        found = audit(soak.place.database.dsn, folder / "ledger.jsonl")
    made = report(seed, lived, soak.outcomes, found)
    print(made.text)
    (given.json or folder / "report.json").write_text(json.dumps(made.facts, indent=2, default=str) + "\n")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
