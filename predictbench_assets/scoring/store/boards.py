"""Boards, stored: the benchmark's results of a day, to be read at once and held against a rebuild."""

import hashlib
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec
from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RUN_NAMESPACE
from predictbench_assets.scoring.boards import Leaderboard
from predictbench_assets.scoring.costs import entrant_costs
from predictbench_assets.scoring.store.costs import load_costs

_BATCH: Final = 1_000

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

    Args:
        since: the first run date that counts.
        until: the last one, itself included.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    # Arrays and statistics are slow to load, and a stored board needs none.
    from predictbench_assets.scoring.build import build_leaderboard
    from predictbench_assets.scoring.store.forecasts import load_forecasts

    built = build_leaderboard(load_forecasts(engine, as_of, since=since, until=until))
    costs = entrant_costs(load_costs(engine, as_of, since=since, until=until))
    return msgspec.structs.replace(built, costs=costs)


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
    detail = {name: value for name, value in msgspec.structs.asdict(leaderboard).items() if name != "rows"}
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
