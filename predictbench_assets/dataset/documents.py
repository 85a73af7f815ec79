"""The texts that go with a release: its data dictionary, and whose the data are."""

from typing import Final

from predictbench_assets.dataset.frozen_tables import RELEASED_TABLES
from predictbench_assets.dataset.manifest import MANIFEST
from predictbench_assets.dataset.tables import dictionary_markdown

NOTICE: Final = "LICENSE-NOTICE.md"

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

_SIMULATED: Final = """\
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

{_SIMULATED}
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


def data_dictionary() -> str:
    """Describe every column of every table, and how the files belong together."""
    return dictionary_markdown(RELEASED_TABLES) + _HOW_TO_READ


def license_notice(*, simulated: bool = False) -> str:
    """State the origin of the data; of a simulated exchange's, that nothing in them is real."""
    return _NOTICE.replace(_FROM_POLYMARKET, _FROM_A_SANDBOX) if simulated else _NOTICE
