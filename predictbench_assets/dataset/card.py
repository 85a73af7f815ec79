"""The card of a release: its `README.md`, with a head that hubs of data sets read, and first queries that work."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from predictbench_assets.dataset.documents import NOTICE, data_dictionary
from predictbench_assets.dataset.frozen_tables import RELEASED_FORECASTS, RELEASED_TABLES
from predictbench_assets.dataset.manifest import MANIFEST, Cohort

CARD: Final = "README.md"

_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGER: Final = "10M<n<100M"

_REAL: Final = """\
Every day Predictbench freezes all Polymarket markets that close a set number of days ahead, lets every registered
experiment forecast each of them, and scores the forecasts against the market's own price when the markets settle."""

_SIMULATED: Final = """\
**Simulated.** These markets were made up by Predictbench's sandbox exchange, and so were their prices and their
outcomes: the numbers below show how the data look, and nothing about any market or forecaster. Where a column speaks of
Polymarket, read the sandbox."""

_QUERIES: Final = '''\
## First queries

Run them in this folder. Each asks which experiment was closer to the outcome than the market's price, on markets with a
good price that settled at Yes or No; `edge` above 0 is better than the price. Of an experiment that was run again the
newest attempt is taken.

Polars (`pip install polars`):

```python
import polars as pl

scores = pl.read_parquet("scores.parquet")
markets = pl.read_parquet("markets.parquet")
newest = pl.col("attempt") == pl.col("attempt").max().over(
    "run_date", "window_days", "market_id", "experiment", "version"
)
edges = (
    scores.filter(newest)
    .join(markets, on=["run_date", "window_days", "market_id"])
    .filter(pl.col("price_quality") == "good", pl.col("outcome") != 0.5)
    .group_by("window_days", "experiment", "version")
    .agg(
        markets=pl.len(),
        clusters=pl.col("cluster").n_unique(),
        edge=pl.col("edge").mean(),
        brier=pl.col("brier").mean(),
    )
    .sort("window_days", "edge", descending=[False, True])
)
print(edges)
```

DuckDB (its shell, or `duckdb.sql("""...""")` after `pip install duckdb`):

```sql
WITH newest AS (
    SELECT * FROM 'scores.parquet'
    QUALIFY attempt = max(attempt) OVER (PARTITION BY run_date, window_days, market_id, experiment, version)
)
SELECT window_days, experiment, version, count(*) AS markets, count(DISTINCT cluster) AS clusters,
    avg(edge) AS edge, avg(brier) AS brier
FROM newest JOIN 'markets.parquet' USING (run_date, window_days, market_id)
WHERE price_quality = 'good' AND outcome <> 0.5
GROUP BY window_days, experiment, version
ORDER BY window_days, edge DESC
```

With Predictbench itself (`make setup` in a clone of it), which leaves out forecasts that came too late, and has
intervals:

```python
import predictbench_assets as pb

bench = pb.open_benchmark(release=".")
board = bench.boards(board="full")
print(board[["window_days", "experiment", "version", "n_markets", "n_events", "mean_edge", "edge_low", "edge_high"]])
```
'''

_CHECK: Final = f"""\
## Checksums

`{MANIFEST}` has the SHA-256 of every other file and of each cohort's rows. `predictbench verify --release .` compares
all of it, reads both formats and computes the digests again. Without Predictbench:

```python
import hashlib
import json
from pathlib import Path

for file in json.loads(Path("{MANIFEST}").read_text())["files"]:
    found = hashlib.sha256(Path(file["name"]).read_bytes()).hexdigest()
    assert found == file["sha256"], file["name"]
```
"""

_UNKNOWN: Final = """\
## What it does not know

- Prices are those of one moment, the freeze, and so are bid, ask and volume: nothing of how they moved before or after.
- Markets that opened after the freeze, or that closed on another day than the run's target, are not in it.
- Markets of one `cluster` settle together and are no independent evidence: count clusters, not rows. Groups of which
  one market at most can be yes are in it only as far as `event_id` and `cluster` have them.
- A resolution is the newest that was observed by the moment of the release. It may be corrected afterwards, and what
  settles early leans to Yes: a cohort of which less than 95 % is final is provisional.
- Why an experiment gave no forecast is left out, as is whatever else it wrote: free text may hold what is private.
- Runs that failed or never ended are left out, and so are forecasts that were stored after a run was released first.
"""


def dataset_card(
    *,
    version: str,
    as_of: datetime,
    rows: Mapping[str, int],
    cohorts: Sequence[Cohort],
    experiments: Sequence[str],
    simulated: bool = False,
) -> str:
    """The text of `README.md`: what the release is, how to ask it something, and what each column means.

    Args:
        rows: by table.
        experiments: name and version of each.
        simulated: whether the markets are a sandbox's.
    """
    name = f"Predictbench {version}{' (simulated)' if simulated else ''}"
    return "\n".join(
        [
            _head(name, rows[RELEASED_FORECASTS.name], simulated=simulated),
            f"# {name}",
            "",
            *([_SIMULATED, ""] if simulated else []),
            _REAL,
            "",
            *_facts(as_of, rows, cohorts, experiments),
            "",
            _QUERIES,
            _UNKNOWN,
            _CHECK,
            f"## Terms\n\nWhose the data are, and what that means for their use, is in [{NOTICE}]({NOTICE}).\n",
            _citation(name, version, as_of, len(cohorts)),
            re.sub(r"^#", "##", data_dictionary(), flags=re.MULTILINE),
        ]
    )


def _head(name: str, forecasts: int, *, simulated: bool) -> str:
    """The front matter; a text in JSON is one in YAML."""
    size = next((label for bound, label in _SIZES if forecasts < bound), _LARGER)
    tags = ["forecasting", "prediction-markets", "calibration", "tabular", *(["synthetic"] if simulated else [])]
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        "license: other",
        "license_name: see-notice",
        f"license_link: {NOTICE}",
        "language:",
        "- en",
        "size_categories:",
        f"- {size}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "configs:",
    ]
    for table in RELEASED_TABLES:
        lines += [f"- config_name: {table.name}", f"  data_files: {table.name}.parquet"]
        lines += ["  default: true"] if table is RELEASED_FORECASTS else []
    return "\n".join([*lines, "---", ""])


def _facts(
    as_of: datetime, rows: Mapping[str, int], cohorts: Sequence[Cohort], experiments: Sequence[str]
) -> list[str]:
    """What is in it, in numbers."""
    dates = [cohort.run_date for cohort in cohorts]
    windows = sorted({cohort.window_days for cohort in cohorts})
    left_out = sum(cohort.left_out for cohort in cohorts)
    days = f"{min(dates)} to {max(dates)}, of markets that close {', '.join(map(str, windows))} days ahead"
    return [
        f"- **As of** {as_of.isoformat()}: what was stored or observed later is not in it.",
        f"- **Cohorts**: {len(cohorts):,} runs from {days}.",
        f"- **Rows**: {', '.join(f'{count:,} {table}' for table, count in rows.items())}.",
        f"- **Experiments** (name and version; more in `experiments`): {', '.join(f'`{one}`' for one in experiments)}.",
        f"- **Left out**: {left_out:,} forecasts that were stored after their cohort was released first.",
    ]


def _citation(name: str, version: str, as_of: datetime, cohorts: int) -> str:
    return f"""\
## Citation

```bibtex
@misc{{predictbench-{version},
  title = {{{name}: daily forecasts of questions on prediction markets}},
  year = {{{as_of.year}}},
  note = {{As of {as_of.isoformat()}, {cohorts:,} cohorts}}
}}
```

Add who published it and where, and the SHA-256 of its `{MANIFEST}`, which stands for the whole release.
"""
