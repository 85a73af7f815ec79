"""`python -m soak --days 90 [--seed N]`: live the days, audit what is stored, and say so; exit code 1 if it fails."""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from predictbench_assets.database.embedded import EmbeddedPostgres
from soak.audit import Ledger, audit
from soak.days import begun, live
from soak.report import report
from soak.services import dsn_of


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
    arguments.add_argument("--audit", action="store_true", help="live no day: audit the soak in --folder again")
    given = arguments.parse_args()
    if given.audit and given.folder is None:
        arguments.error("--audit is for a folder that is named with --folder")
    folder = (given.folder or Path(tempfile.mkdtemp(prefix="soak-"))).resolve()
    if given.audit:
        with EmbeddedPostgres(folder / "pg", durable=False) as server:
            return _audited(dsn_of(server), folder, given.json)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}: {given.days} days, {given.markets} markets a day, in {folder}", flush=True)
    with begun(folder, seed, given.markets, faults=not given.no_faults) as soak:
        live(soak, given.days)
        return _audited(soak.place.database.dsn, folder, given.json)


def _audited(dsn: str, folder: Path, file: Path | None) -> int:
    """Audit, report, and return the exit code."""
    ledger = Ledger.read(folder / "ledger.jsonl")
    found = audit(dsn, ledger)
    made = report(ledger, found)
    print(made.text)
    (file or folder / "report.json").write_text(json.dumps(made.facts, indent=2, default=str) + "\n")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
