"""Frames out of a database and out of a release: the same columns and rows, of one moment, and only ever read."""

import builtins
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal
from sqlalchemy import Engine, event, make_url, text

import predictbench_assets as pb
from predictbench_assets.cli.main import main
from predictbench_assets.database.errors import DatabaseUnavailable
from predictbench_assets.database.revisions import SchemaOutdated
from predictbench_assets.dataset.frames.benchmark import FramesMissing, UnknownExperiment
from predictbench_assets.dataset.frames.boards import BOARDS
from predictbench_assets.dataset.frames.released import ReleaseDamaged, ReleaseMissing
from predictbench_assets.dataset.frames.source import TABLES
from predictbench_assets.dataset.frames.stored import DEMO_FOLDER, NothingStored
from predictbench_assets.dataset.manifest import ManifestUnreadable
from predictbench_assets.dataset.tables import RELEASED_TABLES
from predictbench_assets.launch import demo
from predictbench_assets.scoring.boards import BoardRow
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.integration.dataset.planted import DAYS, EXPERIMENTS, LATER, LEAKED, MARKETS, THEN, plant

World = tuple[str, Path]

READ = [table.name for table in RELEASED_TABLES]


def test_the_public_names() -> None:
    assert pb.__all__ == ["Benchmark", "__version__", "open_benchmark"]
    assert set(dir(pb)) == set(pb.__all__)
    methods = {name for name in vars(pb.Benchmark) if not name.startswith("_")}
    assert methods == {
        *("arrow", "as_of", "boards", "columns", "experiments", "forecasts", "markets", "resolutions", "scores")
    }
    assert (Path(pb.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'open_bench'"):
        _ = pb.open_bench


def test_the_import_loads_nothing() -> None:
    code = "import sys, predictbench_assets as pb; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = ("dagster", "sqlalchemy", "pandas", "polars", "pyarrow", "numpy", "pydantic", "msgspec", "click")
    assert not [name for name in heavy if f"'{name}'" in done.stdout]
    code = "import sys, predictbench_assets as pb; pb.open_benchmark; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not [name for name in ("dagster", "pandas", "polars", "matplotlib") if f"'{name}'" in done.stdout]


@pytest.mark.parametrize("table", READ)
def test_a_database_and_a_release_give_the_same(
    from_database: pb.Benchmark, from_release: pb.Benchmark, table: str
) -> None:
    stored, released = from_database.arrow(table), from_release.arrow(table)
    assert stored.schema.equals(released.schema, check_metadata=True)
    assert stored.schema.names == [column.name for column in TABLES[table].columns]
    rows = stored.read_all()
    assert rows.num_rows > 0, "a comparison of nothing"
    assert rows.equals(released.read_all())


def test_boards_are_the_same_too_in_every_cut(from_database: pb.Benchmark, from_release: pb.Benchmark) -> None:
    for cut in ({}, {"category": "every", "price_bin": "every"}, {"since": "2026-02-03", "until": date(2026, 2, 4)}):
        stored = from_database.boards(**cut)
        assert set(stored["board"]) == {"core", "full", "backfill"}
        assert_frame_equal(stored, from_release.boards(**cut), check_exact=True)
        assert "news" not in set(stored["experiment"])


def test_forecasts_that_cite_a_price_are_there_and_on_no_board(
    from_database: pb.Benchmark, from_release: pb.Benchmark
) -> None:
    for source in (from_database, from_release):
        leaked = source.forecasts().filter(pl.col("status") == "leaked")
        assert set(leaked["market_id"]) == LEAKED
        assert leaked["probability"].null_count() == 0
        [whole] = source.boards().filter((pl.col("experiment") == "bold") & (pl.col("board") == "full")).to_dicts()
        assert (whole["n_leaked"], source.boards()["n_leaked"].sum()) == (3, 6)


def command(url: str, *arguments: str) -> Any:
    variables = dict.fromkeys(all_variables()) | {
        "PREDICTBENCH_ENV_FILE": "",
        "DATABASE_URL": url,
        "PREDICTBENCH_NOW": LATER.isoformat(),
    }
    return CliRunner(env=variables).invoke(main, arguments)


@pytest.mark.parametrize("moment", [THEN, LATER])
def test_boards_have_the_numbers_of_the_command(world: World, moment: datetime) -> None:
    cuts = ("--price-bin", "every", "--category", "every")
    done = command(world[0], "leaderboard", "--as-of", moment.isoformat(), *cuts, "--format", "json")
    assert done.exit_code == 0, done.output
    # All but costs, which a release does not have.
    names = [column.name for column in BOARDS.columns]
    rows = [{name: row[name] for name in names} for row in json.loads(done.stdout)]
    boards = pb.open_benchmark(url=world[0], as_of=moment).boards(category="every", price_bin="every")
    assert boards.to_dicts() == rows
    assert ("newcomer" in boards["experiment"].to_list()) == (moment == LATER)


def test_every_column_is_explained(from_release: pb.Benchmark) -> None:
    assert [column.name for column in BOARDS.columns] == [field.name for field in msgspec.structs.fields(BoardRow)]
    for name, table in TABLES.items():
        told = from_release.columns(name)
        assert told.columns == ["name", "type", "unit", "nullable", "meaning"]
        assert told["name"].to_list() == [column.name for column in table.columns]
        assert all(told["meaning"])
    price = from_release.arrow("markets").schema.field("price").metadata
    assert price[b"unit"] == b"probability"
    assert b"first outcome" in price[b"meaning"]


def test_what_is_in_the_frames(from_database: pb.Benchmark) -> None:
    markets = from_database.markets()
    assert len(markets) == DAYS * MARKETS
    assert markets.schema["captured_at"] == pl.Datetime("us", "UTC")
    assert markets.schema["run_date"] == pl.Date
    assert markets.schema["category"] == markets.schema["market_id"] == pl.String
    assert markets["price"].null_count() == DAYS
    assert markets["withdrawn_at"].count() == 1
    forecasts = from_database.forecasts(experiment="bold")
    assert len(forecasts) == DAYS * MARKETS + MARKETS - 1
    assert forecasts["attempt"].unique().sort().to_list() == [1, 2]
    assert forecasts["probability"].is_between(0, 1).all()
    assert set(from_database.experiments()["experiment"]) == set(EXPERIMENTS)
    resolutions = from_database.resolutions()
    assert set(resolutions["state"]) == {"final", "proposed"}
    assert resolutions["outcome"].drop_nulls().unique().sort().to_list() == [0.0, 0.5, 1.0]
    scores = from_database.scores(columns=["experiment", "edge"])
    assert scores.columns == ["experiment", "edge"]
    assert set(scores["experiment"]) == set(EXPERIMENTS)


@pytest.mark.parametrize("opened", ["from_database", "from_release"])
def test_rows_and_columns_are_chosen_alike(opened: str, request: pytest.FixtureRequest) -> None:
    bench: pb.Benchmark = request.getfixturevalue(opened)
    everything = bench.forecasts()
    two = bench.forecasts(
        experiment=["oracle", "uniform"], since="2026-02-03", until=date(2026, 2, 4), columns=("probability", "version")
    )
    wanted = everything.filter(
        pl.col("experiment").is_in(["oracle", "uniform"]),
        pl.col("run_date").is_between(date(2026, 2, 3), date(2026, 2, 4)),
    ).select("probability", "version")
    assert len(two) == 2 * 2 * MARKETS
    assert_frame_equal(two, wanted)
    assert bench.markets(since="2026-02-05", columns="market_id").columns == ["market_id"]
    assert len(bench.markets(since=datetime(2026, 2, 5, 9, tzinfo=UTC))) == MARKETS
    assert len(bench.scores(since="2026-03-01")) == 0
    assert bench.boards(since="2026-03-01").columns == bench.boards().columns
    assert set(bench.boards(board="core")["board"]) == {"core"}
    with pytest.raises(UnknownExperiment, match=r"no experiment 'orakel' has run; there are .*, oracle, tardy"):
        bench.forecasts(experiment=["oracle", "orakel"])
    for wrong, said in (
        (lambda: bench.markets(columns=["prize"]), r"markets has no column 'prize'; there are run_date, "),
        (lambda: bench.markets(columns=[]), r"columns is empty"),
        (lambda: bench.markets(since="yesterday"), r"since is 'yesterday': write a day as 2026-11-23"),
        (lambda: bench.boards(board="cores"), r"board is 'cores'; there are core, full, backfill"),
        (lambda: bench.boards(category="sport"), r"category is 'sport'; there are all, every, politics, sports"),
        (lambda: bench.boards(window_days=3), r"window_days is 3; there are 7"),
        (lambda: bench.boards(price_bin="0-50"), r"price_bin is '0-50'; there are all, every, 0-5"),
        (lambda: bench.arrow("prices"), r"no table 'prices'; there are markets"),
        (lambda: bench.arrow("boards"), r"call boards\(\)"),
        (lambda: bench.arrow("resolutions", since="2026-02-02"), r"have no run date"),
        (lambda: bench.arrow("markets", experiment="oracle"), r"not of single experiments"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    for mistyped in (lambda: bench.markets(since=5), lambda: bench.boards(since=5)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"since is 5: give a date, or a day as '2026-11-23'"):
            mistyped()


def test_pandas_does_as_well_and_polars_comes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(pb.open_benchmark(release=world[1]).experiments(), pl.DataFrame)
    bench = pb.open_benchmark(release=world[1], frames="pandas")
    markets = bench.markets()
    assert isinstance(markets, pd.DataFrame)
    assert str(markets["captured_at"].dt.tz) == "UTC"
    assert (markets["run_date"] >= "2026-02-03").sum() == (DAYS - 1) * MARKETS
    assert_frame_equal(pl.from_pandas(markets[["market_id", "price"]]),
                       pb.open_benchmark(release=world[1]).markets(columns=["market_id", "price"]))  # fmt: skip
    assert len(bench.boards()) > 0
    _hide(monkeypatch, "polars")
    assert isinstance(pb.open_benchmark(release=world[1]).experiments(), pd.DataFrame)
    with pytest.raises(FramesMissing, match="polars is not installed: `pip install polars`"):
        pb.open_benchmark(release=world[1], frames="polars").experiments()
    _hide(monkeypatch, "polars", "pandas")
    bare = pb.open_benchmark(release=world[1])
    with pytest.raises(FramesMissing, match=r"polars and pandas are not installed: `pip install polars` \(or pandas\)"):
        bare.experiments()
    assert bare.arrow("experiments").read_all().num_rows == len(EXPERIMENTS)


def _hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As on a machine that has not installed them."""
    real = builtins.__import__

    def hidden(name: str, *arguments: Any, **more: Any) -> Any:
        if name in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", hidden)


def test_arguments_that_do_not_go_together(world: World) -> None:
    url, folder = world
    for wrong, said in (
        (lambda: pb.open_benchmark(url=url, release=folder), "at most one of release, url and demo"),
        (lambda: pb.open_benchmark(release=folder, as_of="2026-02-20"), r"one moment, 2026-02-20T07:00:00\+00:00"),
        (lambda: pb.open_benchmark(url=url, as_of="2999-01-01"), "is in the future"),
        (lambda: pb.open_benchmark(url=url, as_of="last week"), "'last week' is no moment"),
        (lambda: pb.open_benchmark(url=url, as_of=datetime(2026, 2, 20)), "has no zone"),  # noqa: DTZ001
        (lambda: pb.open_benchmark(url="mysql://host/db"), "url speaks mysql"),
        (lambda: pb.open_benchmark(release=folder, frames="dask"), "'dask'; there are polars, pandas"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    with pytest.raises(TypeError, match=r"as_of is 5: give a date, an instant"):
        pb.open_benchmark(url=url, as_of=5)  # type: ignore[arg-type]


def test_the_moment_of_a_day_is_its_end(world: World) -> None:
    url, _ = world
    assert pb.open_benchmark(url=url, as_of=date(2026, 2, 20)).as_of == datetime(2026, 2, 20, 23, 59, 59, 999999, UTC)
    assert pb.open_benchmark(url=url, as_of="2026-02-20T08:00+01:00").as_of == THEN
    opened = pb.open_benchmark(url=url)
    assert opened.as_of.tzinfo is UTC
    assert "m90000" in opened.markets()["market_id"]
    assert "m90000" not in pb.open_benchmark(url=url, as_of=THEN).markets()["market_id"]


def test_a_release_that_is_none_or_not_as_it_was(world: World, tmp_path: Path) -> None:
    _, folder = world
    with pytest.raises(ReleaseMissing, match="there is no release at"):
        pb.open_benchmark(release=tmp_path / "nowhere")
    with pytest.raises(ManifestUnreadable, match="name the folder of a release"):
        pb.open_benchmark(release=tmp_path)
    archive = shutil.make_archive(str(tmp_path / "release"), "zip", folder)
    with pytest.raises(ReleaseMissing, match="unpack it"):
        pb.open_benchmark(release=archive)
    assert len(pb.open_benchmark(release=str(folder / "MANIFEST.json")).markets()) == DAYS * MARKETS
    copy = shutil.copytree(folder, tmp_path / "copy")
    table = pq.read_table(copy / "forecasts.parquet")
    pq.write_table(table.slice(1), copy / "forecasts.parquet")
    (copy / "scores.parquet").unlink()
    bench = pb.open_benchmark(release=copy)
    assert len(bench.markets()) == DAYS * MARKETS
    with pytest.raises(ReleaseDamaged, match=r"forecasts\.parquet is not as it was released"):
        bench.forecasts()
    with pytest.raises(ReleaseDamaged, match=r"forecasts\.parquet is not as it was released"):
        bench.boards()
    with pytest.raises(ReleaseDamaged, match=r"scores\.parquet cannot be read \(FileNotFoundError"):
        bench.arrow("scores").read_all()


def test_a_database_that_is_not_there_or_not_migrated(empty_database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match=r"revision none, .*`predictbench db upgrade`"):
        pb.open_benchmark(url=empty_database_url)
    with pytest.raises(DatabaseUnavailable) as raised:
        pb.open_benchmark(url="postgresql://reader:planted-password@127.0.0.1:1/predictbench")
    assert "planted-password" not in str(raised.value)
    assert str(raised.value).endswith(". Is the server of the argument url up?")


def test_an_empty_database_has_the_columns(database_url: str) -> None:
    bench = pb.open_benchmark(url=database_url)
    for name in READ:
        assert bench.arrow(name).read_all().num_rows == 0
    assert bench.forecasts().columns == [column.name for column in TABLES["forecasts"].columns]
    assert bench.boards().columns == [column.name for column in BOARDS.columns]
    with pytest.raises(UnknownExperiment, match="none has run yet"):
        bench.forecasts(experiment="bold")


def test_nothing_can_be_written_and_no_password_is_shown(world: World) -> None:
    url = make_url(world[0]).set(password="planted-password").render_as_string(hide_password=False)
    bench = pb.open_benchmark(url=url)
    assert "planted-password" not in repr(bench)
    assert repr(bench).startswith("<Benchmark: postgresql+psycopg://")
    modes: list[str] = []

    def watch(connection: Any, *_: Any) -> None:
        modes.append(connection.exec_driver_sql("SHOW transaction_read_only").scalar_one())

    source: Any = bench._source
    event.listen(source._engine, "begin", watch)
    bench.markets()
    bench.boards()
    assert len(modes) > 3
    assert set(modes) == {"on"}


def test_what_is_stored_while_a_notebook_is_open_is_not_seen(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    ledger = plant(engine)
    bench = pb.open_benchmark(url=url, as_of=THEN)
    stream = bench.arrow("forecasts")
    first = stream.read_next_batch()
    ledger.execute("DELETE FROM predictbench.experiment_results")
    rest = stream.read_all()
    assert first.num_rows + rest.num_rows == DAYS * MARKETS * len(EXPERIMENTS) + 2 * (MARKETS - 1)
    with engine.connect() as connection:
        held = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'predictbench notebook'")
        # The server notices a closed connection a moment later; each question takes one.
        counts = (connection.execute(held).scalar_one() for _ in range(50_000))
        assert 0 in counts, "no connection is held between reads"


def test_settings_are_found_from_a_folder_below(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in all_variables():
        monkeypatch.delenv(name, raising=False)
    below = tmp_path / "project" / "examples"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with pytest.raises(NothingStored, match=r"examples/\.predictbench/postgres: .*demo=True"):
        pb.open_benchmark()
    with pytest.raises(NothingStored, match=r"`predictbench demo --past 8`"):
        pb.open_benchmark(demo=True)
    assert not (below / ".predictbench").exists(), "looking makes nothing"
    (tmp_path / "project" / ".env").write_text(f"DATABASE_URL={world[0]}\nPREDICTBENCH_NOW={THEN.isoformat()}\n")
    bench = pb.open_benchmark()
    assert bench.as_of == THEN
    assert len(bench.markets()) == DAYS * MARKETS
    monkeypatch.setenv("PREDICTBENCH_NOW", LATER.isoformat())
    assert pb.open_benchmark().as_of == LATER
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    with pytest.raises(NothingStored, match=r"project/\.predictbench/postgres"):
        pb.open_benchmark()


def test_the_embedded_databases_are_started(demo_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEMO_FOLDER == demo.FOLDER
    for name in all_variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://somebody@127.0.0.1:1/else")
    monkeypatch.chdir(demo_project / "examples")
    before = dict(os.environ)
    assert len(pb.open_benchmark(demo=True).markets()) == DAYS * MARKETS
    assert dict(os.environ) == before
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("PREDICTBENCH_HOME", ".predictbench/demo")
    assert len(pb.open_benchmark().markets()) == DAYS * MARKETS
