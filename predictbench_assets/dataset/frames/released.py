"""Frames out of a release: its Parquet files, checked against the manifest, and boards computed from them alone."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from predictbench_assets.dataset.files import CHUNK, batch_rows, file_of, sha256_of
from predictbench_assets.dataset.frames.source import Choice, frame_schema, narrowed
from predictbench_assets.dataset.manifest import ReleasedCohort, manifest_of, read_manifest
from predictbench_assets.dataset.tables import (
    LEAKED,
    RELEASED_EXPERIMENTS,
    RELEASED_FORECASTS,
    RELEASED_MARKETS,
    RELEASED_RESOLUTIONS,
    Table,
)
from predictbench_assets.failures import PermanentError
from predictbench_assets.markets.market import REFERENCE
from predictbench_assets.printable import on_one_line
from predictbench_assets.scoring.boards import BoardRow
from predictbench_assets.scoring.collection import (
    EPOCH_US,
    MARKET_COLUMNS,
    NEVER,
    Attempt,
    ForecastCollection,
    Results,
)
from predictbench_assets.scoring.forecasts import Entrant, Forecasts

_ROWS_PER_BATCH: Final = 10 * CHUNK
"""Rows in memory at a time."""

_MARKETS: Final = narrowed(
    RELEASED_MARKETS,
    (
        *("market_id", "category", "cluster", "event_id", "game_id", "close_time", "captured_at", "withdrawn_at"),
        *("price", "price_quality", "core", "reconstructed", "snapshot_hash"),
    ),
)
_FORECASTS: Final = narrowed(
    RELEASED_FORECASTS,
    ("market_id", "experiment", "version", "attempt", "status", "probability", "forecast_at", "snapshot_hash"),
)
_RESOLUTIONS: Final = narrowed(RELEASED_RESOLUTIONS, ("market_id", "state", "outcome", "closed_time"))


class ReleaseMissing(PermanentError):
    """There is no release in that place."""


class ReleaseDamaged(PermanentError):
    """A file of the release is not the one that its manifest describes."""


class ReleaseSource:
    """The tables of a release, at its moment. A file is checked against the manifest before it is read first.

    Args:
        place: the folder, or the manifest in it.

    Raises:
        ReleaseMissing: there is nothing.
        ManifestUnreadable: it is no release.
    """

    def __init__(self, place: Path) -> None:
        place = place.expanduser()
        if not place.exists():
            raise ReleaseMissing(
                f"there is no release at {place.absolute()}: name the folder that `predictbench release` has written"
            )
        if place.is_file() and place.name != manifest_of(place.parent).name:
            raise ReleaseMissing(f"{place} is a file: unpack it, and name the folder that holds the manifest")
        self._manifest = read_manifest(place)
        self._folder = place if place.is_dir() else place.parent
        self._checked: set[str] = set()

    def __str__(self) -> str:
        return f"release {self._manifest.version} in {self._folder}"

    @property
    def as_of(self) -> datetime:
        """The moment that the release was made for."""
        return self._manifest.as_of

    def batches(self, table: Table, choice: Choice) -> Iterator[pa.RecordBatch]:
        """Rows of a table.

        Raises:
            ReleaseDamaged: a file is not the one that the manifest names.
        """
        schema = frame_schema(table)
        for batch in self._read(table, [*schema.names, *_columns_of(choice)]):
            found = batch.filter(_condition(batch, choice)) if _columns_of(choice) else batch
            yield pa.RecordBatch.from_arrays(
                [found.column(field.name).cast(field.type) for field in schema], schema=schema
            )

    def board_rows(self, since: date | None, until: date | None) -> Sequence[BoardRow]:
        """Rows of the boards, computed out of the files as `predictbench leaderboard` does.

        Neg-risk groups are in a release only as far as they are in `cluster` and `event_id`: markets of one group that
        were captured on different days, in different events, are not linked, which intervals may show.
        """
        from predictbench_assets.scoring.build import build_leaderboard  # slow to load

        return build_leaderboard(self._forecasts(since, until)).rows

    def _read(self, table: Table, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        path = file_of(self._folder, table, "parquet")
        try:
            if path.name not in self._checked:
                expected = {file.name: file.sha256 for file in self._manifest.files}.get(path.name)
                if sha256_of(path) != expected:
                    raise ReleaseDamaged(
                        f"{path} is not as it was released: fetch it again; `predictbench verify --release` checks all"
                    )
                self._checked.add(path.name)
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_rows(file, _ROWS_PER_BATCH), columns=list(dict.fromkeys(names)))
        except (OSError, pa.ArrowException) as error:
            raise ReleaseDamaged(
                f"{path} cannot be read ({type(error).__name__}: {on_one_line(str(error))})"
            ) from error

    def _forecasts(self, since: date | None, until: date | None) -> Forecasts:
        entrants = {(one.experiment, one.version): one for one in self._entrants()}
        settled = {row["market_id"]: row for row in self._rows(_RESOLUTIONS)}
        markets, forecasts = (_InTurn(frame_schema(one), self._all(one)) for one in (_MARKETS, _FORECASTS))
        collection = ForecastCollection(entrants.values())
        nothing = np.empty(0, np.int64)
        collection.add((), dict.fromkeys(MARKET_COLUMNS, ()), _results(forecasts.take(0), (), nothing))
        for cohort in self._manifest.cohorts:
            there = markets.take(cohort.tables[RELEASED_MARKETS.name].rows)
            forecast_table = forecasts.take(cohort.tables[RELEASED_FORECASTS.name].rows)
            if (since or date.min) <= cohort.run_date <= (until or date.max):
                column = self._columns(cohort, there.to_pylist(), settled)
                attempts, numbers = _attempts(forecast_table, entrants)
                collection.add(attempts, column, _results(forecast_table, column["market_id"], numbers))
        return collection.forecasts(self.as_of)

    def _entrants(self) -> Iterator[Entrant]:
        for row in self._rows(RELEASED_EXPERIMENTS):
            is_reference = row["experiment"] == REFERENCE
            yield Entrant(
                experiment=row["experiment"],
                version=row["version"],
                information=row["information"],
                control=row["control"],
                reference=is_reference,
                description=row["description"],
                knowledge_cutoff=self._manifest.knowledge_cutoffs.get(f"{row['experiment']} {row['version']}"),
            )

    def _columns(
        self, cohort: ReleasedCohort, rows: Sequence[dict[str, Any]], settled: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Sequence[Any]]:
        """The markets of a cohort that are listed at the moment, as they are scored."""
        columns: dict[str, list[Any]] = {name: [] for name in MARKET_COLUMNS}
        for row in rows:
            withdrawn = row["withdrawn_at"] is not None and row["withdrawn_at"] <= self.as_of
            if withdrawn or row["captured_at"] > self.as_of:
                continue
            resolution = settled.get(row["market_id"], {})
            values = row | {
                "run_date": cohort.run_date,
                "window_days": cohort.window_days,
                "end_date": row["close_time"].date(),
                "neg_risk_market_id": None,
                "good": row["price"] is not None and row["price_quality"] == "good",
                "captured_at": row["captured_at"].replace(tzinfo=None),
                "closed_at": (resolution.get("closed_time") or row["close_time"]).replace(tzinfo=None),
                "as_of": (cohort.as_of or row["captured_at"]).astimezone(UTC).date(),
                "outcome": resolution.get("outcome") if resolution.get("state") == "final" else None,
            }
            for name, held in columns.items():
                held.append(values[name])
        return columns

    def _all(self, table: Table) -> Iterator[pa.RecordBatch]:
        return self.batches(table, Choice())

    def _rows(self, table: Table) -> Iterator[dict[str, Any]]:
        for batch in self._all(table):
            yield from batch.to_pylist()


class _InTurn:
    """Rows of a table, taken from its front."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held = schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """The next rows."""
        while self._held.num_rows < count:
            self._held = pa.Table.from_batches([*self._held.to_batches(), next(self._batches)])
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return taken


def _columns_of(choice: Choice) -> list[str]:
    """The columns that a choice is made by."""
    dated = choice.since is not None or choice.until is not None
    return ["run_date"] * dated + ["experiment"] * (choice.experiments is not None)


def _condition(batch: pa.RecordBatch, choice: Choice) -> pa.Array:
    """Mask of the rows that are chosen."""
    chosen = pa.array(np.ones(len(batch), np.bool_))
    if choice.since is not None:
        chosen = pc.and_(chosen, pc.greater_equal(batch.column("run_date"), pa.scalar(choice.since, pa.date32())))
    if choice.until is not None:
        chosen = pc.and_(chosen, pc.less_equal(batch.column("run_date"), pa.scalar(choice.until, pa.date32())))
    if choice.experiments is not None:
        names = batch.column("experiment").cast(pa.string())
        chosen = pc.and_(chosen, pc.is_in(names, value_set=pa.array(choice.experiments, pa.string())))
    return chosen


def _attempts(
    forecast_table: pa.Table, entrants: Mapping[tuple[str, str], Entrant]
) -> tuple[list[Attempt], NDArray[np.int64]]:
    """The attempts of a cohort, and the number of each row's."""
    key = np.column_stack(
        [
            *(
                forecast_table[name].combine_chunks().dictionary_encode().indices.to_numpy()
                for name in ("experiment", "version")
            ),
            forecast_table["attempt"].to_numpy(),
        ]
    )
    _, first, numbers = np.unique(key, axis=0, return_index=True, return_inverse=True)
    rows = forecast_table.take(pa.array(first)).to_pylist()
    made = [Attempt(entrants[row["experiment"], row["version"]], row["attempt"], row["snapshot_hash"]) for row in rows]
    return made, numbers.reshape(-1)


def _results(forecast_table: pa.Table, markets: Sequence[str], attempts: NDArray[np.int64]) -> Results:
    """Results of the attempts, for markets that are listed."""
    place = pc.index_in(forecast_table["market_id"], value_set=pa.array(markets, pa.string())).fill_null(-1).to_numpy()
    known = place >= 0
    leaked = pc.equal(forecast_table["status"], LEAKED)
    given = pc.or_(pc.equal(forecast_table["status"], "completed"), leaked)
    completed = pc.if_else(given, forecast_table["probability"], None)
    made_at = pc.subtract(forecast_table["forecast_at"].cast(pa.int64()), EPOCH_US).fill_null(NEVER).to_numpy()
    return Results(
        market=place[known].astype(np.int64),
        attempt=attempts[known],
        probability=completed.fill_null(np.nan).to_numpy()[known],
        made_at=made_at[known],
        ran=pc.not_equal(forecast_table["status"], "not_run").to_numpy()[known],
        leaked=leaked.to_numpy()[known],
    )
