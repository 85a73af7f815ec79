"""The texts of a release: its card with a head that hubs of data sets read and queries that work, and its notice."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from predictbench_assets.dataset.manifest import MANIFEST, ReleasedCohort
from predictbench_assets.dataset.tables import RELEASED_FORECASTS, RELEASED_TABLES, dictionary_markdown

CARD: Final = "README.md"
NOTICE: Final = "LICENSE-NOTICE.md"

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

_RECONSTRUCTED: Final = (
    "Nobody captured these days as they passed: they were put together afterwards, and so were their forecasts. Texts "
    "and ends are those of `captured_at`, prices (of quality `history`) those of `as_of`, which the manifest has. They "
    "prove nothing about foresight and are in no mean with the others."
)

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


_HOW_TO_READ: Final = f"""
## Files

Each table is there twice, as `TABLE.parquet` and as `TABLE.jsonl.zst` (JSON lines under zstd), with the same rows in
the same order. `{MANIFEST}` has the SHA-256 of every file, and of each cohort's rows. A cohort is what one run
captured: its run date and window. `predictbench verify --release FOLDER` checks all of it.

From release to release resolutions may change, and the scores that follow from them. Everything else of a cohort stays
as it was released first: forecasts that were stored afterwards are in no release (`left_out` in the manifest counts
them).

## Digests

A digest is made when a run ends, which is before its markets close, and published at once. It is the SHA-256 of these
lines in UTF-8, each ended by a line feed: first `predictbench-forecasts-1`, run date and window, parted by tabs; then
one for each completed forecast of the run that was stored by then (`stored_at` up to `made_at`): experiment, version,
attempt, market_id, probability, forecast_at, snapshot_hash and config_hash, parted by tabs, in the order of the table.
A probability is the shortest decimal that reads back as the same double (`0`, `1`, `0.25`, `1e-05`), an instant is
`2026-11-23T07:01:12.000000Z`, a null is `\\N`, and control characters and backslashes are escaped as by Postgres' COPY.
"""

_ALL_MADE_UP: Final = """\
**Simulated.** The markets of this release come from Predictbench's sandbox exchange: questions, prices and results are
made up. Where a column speaks of Polymarket, read the sandbox.
"""

_FROM_POLYMARKET: Final = """\
## From Polymarket

Questions, slugs, names of outcomes, titles of events, ids, closing times, prices, volumes, liquidity and resolutions
were read from Polymarket's public interfaces. Rights in them stay with Polymarket and its sources; its terms apply to
their use. Predictbench is not affiliated with Polymarket, nor endorsed by it.
"""

_FROM_A_SANDBOX: Final = f"""\
## From a simulated exchange

{_ALL_MADE_UP}
Nothing in this release was read from Polymarket, and nothing in it is about the real world.
"""

_NOTICE: Final = f"""\
# Whose the data are

This notice says where the data of this release come from. It grants no licence: whoever publishes the release says,
beside it, under which terms their own part may be used.

## The program

Predictbench, the program that made this release, is under the Apache License 2.0 (SPDX: Apache-2.0,
https://www.apache.org/licenses/LICENSE-2.0). That licence covers the program and its documents, the data dictionary
among them. It does not cover the data.

## Made by the benchmark

Forecasts, scores, digests, and what was derived for them: run dates, windows, clusters, categories, the core sample and
its weights, the quality of prices, and the manifest. They are those of whoever ran this installation of Predictbench.
Forecasts of an experiment that asks a provider's model are that provider's output and may be under its terms.

{_FROM_POLYMARKET}
## No warranty, no advice

The data are given as they are, without warranty of any kind, express or implied, of accuracy, completeness or fitness
for a purpose. Nobody is liable for what is made of them. Nothing in them is advice to trade, and prices of the past say
nothing about those of the future. A resolution may be corrected after the release.

## No persons

The release holds no data about traders: no wallets, no orders, no comments. Questions may name public persons, as they
do at Polymarket.
"""


def dataset_card(
    *,
    version: str,
    as_of: datetime,
    rows: Mapping[str, int],
    cohorts: Sequence[ReleasedCohort],
    experiments: Sequence[str],
    simulated: bool = False,
) -> str:
    """Write the text of `README.md`: what the release is, how to ask it something, and what each column means.

    Args:
        rows: by table.
        experiments: name and version of each.
        simulated: True where the markets are a sandbox's.
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
            re.sub(r"^#", "##", dictionary_markdown(RELEASED_TABLES) + _HOW_TO_READ, flags=re.MULTILINE),
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
    as_of: datetime, rows: Mapping[str, int], cohorts: Sequence[ReleasedCohort], experiments: Sequence[str]
) -> list[str]:
    """Lines about the contents, in numbers."""
    dates = [cohort.run_date for cohort in cohorts]
    windows = sorted({cohort.window_days for cohort in cohorts})
    left_out = sum(cohort.left_out for cohort in cohorts)
    put_together = sum(1 for cohort in cohorts if cohort.as_of is not None)
    days = f"{min(dates)} to {max(dates)}, of markets that close {', '.join(map(str, windows))} days ahead"
    return [
        f"- **As of** {as_of.isoformat()}: what was stored or observed later is not in it.",
        f"- **Cohorts**: {len(cohorts):,} runs from {days}.",
        f"- **Rows**: {', '.join(f'{count:,} {table}' for table, count in rows.items())}.",
        f"- **Experiments** (name and version; more in `experiments`): {', '.join(f'`{one}`' for one in experiments)}.",
        f"- **Left out**: {left_out:,} forecasts that were stored after their cohort was released first.",
        *([f"- **Reconstructed**: {put_together:,} cohorts. {_RECONSTRUCTED}"] if put_together else []),
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


def license_notice(*, simulated: bool = False) -> str:
    """State the origin of the data; of a simulated exchange's, that nothing in them is real."""
    return _NOTICE.replace(_FROM_POLYMARKET, _FROM_A_SANDBOX) if simulated else _NOTICE
