"""Boards, stored: the benchmark's results of a day, to be read at once and held against a rebuild."""

import hashlib
from collections.abc import Iterable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.as_of import run_is_known
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RUN_NAMESPACE
from predictbench_assets.scoring.boards import Leaderboard
from predictbench_assets.scoring.costs import RunCost, entrant_costs
from predictbench_assets.scoring.store.costs import load_costs

if TYPE_CHECKING:
    from predictbench_assets.scoring.forecasts import Forecasts

_BATCH: Final = 1_000

_LEFT_OUT = text(f"""
    SELECT count(*) FILTER (WHERE p.run_date < :since) AS older, count(*) FILTER (WHERE p.run_date > :until) AS newer
    FROM predictbench.processing_runs p WHERE {run_is_known(":as_of")}""")  # noqa: S608 - a text of ours

_ADD_BOARD = text("""
    INSERT INTO predictbench.leaderboards (leaderboard_id, as_of, computed_at, scoring_version, content_hash, detail)
    VALUES (:leaderboard_id, :as_of, :computed_at, :scoring_version, :content_hash, CAST(:detail AS jsonb))
    ON CONFLICT (leaderboard_id) DO NOTHING""")

_ADD_ROWS = text("""
    INSERT INTO predictbench.leaderboard_rows (leaderboard_id, position, board, window_days, category, price_bin,
        experiment, version, n_markets, n_events, mean_edge, edge_low, edge_high, rank, row)
    SELECT :leaderboard_id, x.position, y.board, y.window_days, y.category, y.price_bin, y.experiment, y.version,
        y.n_markets, y.n_events, y.mean_edge, y.edge_low, y.edge_high, y.rank, x.row
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(position integer, row jsonb),
        jsonb_to_record(x.row) AS y(board text, window_days integer, category text, price_bin text, experiment text,
            version text, n_markets integer, n_events integer, mean_edge float8, edge_low float8, edge_high float8,
            rank integer)
    ON CONFLICT (leaderboard_id, position) DO NOTHING""")

_NEWEST = text("""
    SELECT leaderboard_id, as_of, computed_at, scoring_version, content_hash, detail::text AS detail
    FROM predictbench.leaderboards WHERE as_of <= :as_of
    ORDER BY as_of DESC, computed_at DESC, leaderboard_id LIMIT 1""")

_ROWS = text("""
    SELECT row::text FROM predictbench.leaderboard_rows WHERE leaderboard_id = :leaderboard_id ORDER BY position""")


def rebuild_leaderboard(
    engine: Engine, as_of: datetime, *, since: date | None = None, until: date | None = None
) -> Leaderboard:
    """Build all boards as known on an instant, from the forecasts and the ledgers.

    A stored board comes out again with its own `as_of`, `since` and `until`.

    Args:
        since: the first run date that counts; default: that of the first run there is.
        until: the last one, itself included.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    # Arrays and statistics are slow to load, and a stored board needs none.
    from predictbench_assets.scoring.store.forecasts import load_forecasts

    forecasts = load_forecasts(engine, as_of, since=since, until=until)
    return leaderboard_of(engine, forecasts, load_costs(engine, as_of, since=since, until=until), since, until)


def leaderboard_of(
    engine: Engine, forecasts: "Forecasts", costs: Iterable[RunCost], since: date | None, until: date | None
) -> Leaderboard:
    """Build all boards of forecasts and costs that were loaded, with the run dates that they were loaded of.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    from predictbench_assets.scoring.build import build_leaderboard

    values = {"as_of": forecasts.as_of, "since": since or date.min, "until": until or date.max}
    left_out = in_transaction(engine, lambda connection: connection.execute(_LEFT_OUT, values).one())
    return msgspec.structs.replace(
        build_leaderboard(forecasts),
        costs=entrant_costs(costs),
        since=since if left_out.older else None,
        until=until if left_out.newer else None,
    )


def encoded_leaderboard(leaderboard: Leaderboard) -> bytes:
    """A board as JSON; the same board gives the same bytes."""
    return msgspec.json.encode(leaderboard, order="deterministic")


def content_hash(leaderboard: Leaderboard) -> str:
    """SHA-256 of `encoded_leaderboard`, in hex."""
    return hashlib.sha256(encoded_leaderboard(leaderboard)).hexdigest()


def store_leaderboard(engine: Engine, leaderboard: Leaderboard, now: datetime) -> UUID:
    """Keep a board; the same board of the same moment again is the one that is stored already.

    Args:
        now: instant of the computation.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    digest = content_hash(leaderboard)
    named = {"leaderboard_id": uuid5(RUN_NAMESPACE, f"leaderboard|{leaderboard.as_of.isoformat()}|{digest}")}
    fields = msgspec.structs.asdict(leaderboard)
    detail = {name: value for name, value in fields.items() if name != "rows" and value is not None}
    board = named | {
        "as_of": leaderboard.as_of,
        "computed_at": now,
        "scoring_version": leaderboard.scoring_version,
        "content_hash": digest,
        "detail": msgspec.json.encode(detail).decode(),
    }
    rows = [{"position": position, "row": row} for position, row in enumerate(leaderboard.rows)]
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]

    def work(connection: Connection) -> None:
        if connection.execute(_ADD_BOARD, board).rowcount:
            for batch in batches:
                connection.execute(_ADD_ROWS, named | {"rows": msgspec.json.encode(batch).decode()})

    in_transaction(engine, work)
    return named["leaderboard_id"]


class StoredBoardUnreadable(PermanentError):
    """A stored board that was edited by hand; the text names it."""


def stored_leaderboard(engine: Engine, as_of: datetime) -> Leaderboard | None:
    """Load the newest stored board of an instant not after `as_of`, or None where none is stored.

    Raises:
        StoredBoardUnreadable, DatabaseUnavailable, DatabaseRefused: the board or the database cannot be read.
    """

    def work(connection: Connection) -> Leaderboard | None:
        board = connection.execute(_NEWEST, {"as_of": as_of}).one_or_none()
        if board is None:
            return None
        rows = connection.execute(_ROWS, {"leaderboard_id": board.leaderboard_id}).scalars()
        try:
            detail = msgspec.json.decode(board.detail, type=dict[str, Any])
            return msgspec.convert(detail | {"rows": [msgspec.json.decode(row) for row in rows]}, Leaderboard)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StoredBoardUnreadable(
                f"the stored board {board.leaderboard_id} of {board.as_of.isoformat()} cannot be read "
                f"({on_one_line(str(error))}): "
                "nothing of ours writes that, so remove it, and the next scoring stores another"
            ) from error

    return in_transaction(engine, work)
