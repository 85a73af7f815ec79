"""The embedded server: it outlives who starts it, comes back after a crash, and is shared by all who ask."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text

from predictbench_assets.database.embedded import EmbeddedPostgres, EmbeddedPostgresError
from predictbench_assets.database.engine import make_engine

STARTER = (
    "import sys; from pathlib import Path; from predictbench_assets.database.embedded import EmbeddedPostgres;"
    "print(EmbeddedPostgres(Path(sys.argv[1]), durable=False).start(), flush=True); input()"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pb-e-", ignore_cleanup_errors=True) as name:
        yield Path(name) / "pg"
        EmbeddedPostgres(Path(name) / "pg").stop()


def version_seen(url: str) -> str:
    engine = make_engine(url, pool_size=0)
    with engine.connect() as connection:
        return str(connection.execute(text("SHOW server_version")).scalar_one())


def pid_of(server: EmbeddedPostgres) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def test_it_starts_stops_and_says_where_it_is(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    assert not server.status().running
    server.stop()  # nothing there yet
    assert server.start() == server.url
    assert version_seen(server.url).startswith("18")
    first = pid_of(server)
    assert EmbeddedPostgres(folder).start() == server.url
    assert pid_of(server) == first
    server.stop()
    server.stop()
    assert server.status().pid is None
    server.start()
    assert pid_of(server) != first


def test_it_outlives_a_starter_that_is_killed_with_its_group(folder: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().decode().strip()
        os.killpg(starter.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
        os.killpg(starter.pid, signal.SIGKILL)
    assert version_seen(url).startswith("18")


def test_it_comes_back_after_a_crash_with_what_was_committed(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    engine = make_engine(server.start(), pool_size=0)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept AS SELECT 1 AS one"))
    pid = pid_of(server)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.01)
    server.start()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT one FROM kept")).scalar_one() == 1


def test_a_pid_file_that_names_someone_else_is_no_obstacle(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    left_behind = (folder / "data" / "postmaster.pid").read_text().split("\n")
    server.stop()
    (folder / "data" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *left_behind[1:]]))
    server.start()
    assert server.status().running


def test_an_interrupted_first_start_is_begun_anew(folder: Path) -> None:
    (folder / "data.partial").mkdir(parents=True)
    (folder / "data.partial" / "PG_VERSION").write_text("18\n")
    assert version_seen(EmbeddedPostgres(folder, durable=False).start())


def test_starts_at_once_make_one_server(folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    urls = {process.communicate(timeout=60)[0] for process in processes}
    assert len(urls) == 1
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(lambda _: EmbeddedPostgres(folder, durable=False).start(), range(3)))) == 1
    servers = [p for p in psutil.process_iter(["cmdline"]) if str(folder / "data") in (p.info["cmdline"] or [])]
    assert len(servers) == 1


def test_a_long_path_gets_a_short_socket(folder: Path) -> None:
    deep = folder / ("d" * 90) / "with space"
    server = EmbeddedPostgres(deep, durable=False)
    try:
        assert version_seen(server.start())
        assert "d" * 90 not in server.url
    finally:
        server.stop()


def test_it_works_below_a_folder_that_only_we_may_enter(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(parents=True, mode=0o700)
    with EmbeddedPostgres(closed / "pg", durable=False) as server:
        assert version_seen(server.url)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_nobody_else_may_enter_its_folder(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False):
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "socket").stat().st_mode & 0o077 == 0


def test_a_cluster_that_cannot_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predictbench_assets.database.embedded._START_SECONDS", 0.0)
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.stop()
    (folder / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)does not start.*pg_control.*DATABASE_URL"):
        server.start()
