"""What commands print on a terminal, into a pipe, and where colours or a clever terminal are missing."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from predictbench_assets.observability.console import PIPED_WIDTH

PROGRAM = [sys.executable, "-m", "predictbench_assets.cli.main"]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def on_terminal(columns: int, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and output of a command whose stdin, stdout and stderr are a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"} | variables,
    ) as child:
        os.close(theirs)
        output = b""
        try:
            while part := os.read(ours, 65536):
                output += part
        except OSError:  # Linux's way to say that nobody holds the other end any more
            pass
        os.close(ours)
    return child.returncode, output.decode().replace("\r\n", "\n")


def piped(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [*PROGRAM, *arguments], env=environment | variables, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("columns", [80, 68, 120])
def test_a_table_keeps_to_the_terminal_and_uses_what_is_there(columns: int) -> None:
    code, output = on_terminal(columns, "experiments")
    lines = plain(output)
    assert code == 0
    assert columns - 15 < max(map(len, lines)) <= columns
    assert lines[0].split() == ["experiment", "information", "needs", "description"]
    whole = piped("experiments").split()
    assert sorted(" ".join(lines).split()) == sorted(whole)


def test_settings_and_their_meaning_are_whole_words_at_80_columns() -> None:
    code, output = on_terminal(80, "config")
    lines = plain(output)
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert "DB_POOL_MAX_SIZE = 2  (default)" in lines
    assert set(" ".join(lines).split()) >= {word for word in piped("config").split() if len(word) <= 40}


def test_an_error_wraps_between_words() -> None:
    code, output = on_terminal(80, "daily", "--experiment", "shrunk_markt")
    assert code == 2
    assert max(map(len, output.splitlines())) <= 80
    assert "Did you mean 'shrunk_market'?" in " ".join(output.split())
    code, output = on_terminal(80, "experiments", PROCESSING_EXPERIMENTS="nowhere:Nothing")
    assert code == 1
    assert max(map(len, output.splitlines())) <= 80
    assert output.startswith("Error: ")


def test_a_pipe_has_one_width_everywhere() -> None:
    lines = piped("experiments", TERM="dumb").splitlines()
    assert 80 < max(map(len, lines)) <= PIPED_WIDTH
    assert lines == piped("experiments", TERM="xterm-256color").splitlines()
    assert max(map(len, piped("experiments", COLUMNS="60").splitlines())) <= 60


def test_an_error_in_a_pipe_is_one_line() -> None:
    said = piped("experiments", PROCESSING_EXPERIMENTS="nowhere:Nothing", COLUMNS="60")
    assert len(said.splitlines()) == 1


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    code, output = on_terminal(80, "experiments", NO_COLOR="1")
    assert code == 0
    assert COLOUR.search(output) is None
    assert "\x1b" not in on_terminal(80, "experiments", TERM="dumb")[1]
    assert "\x1b" not in piped("experiments")


def test_an_error_does_not_steer_the_terminal() -> None:
    arguments = ("daily", "--experiment", "x\x1b[2J")
    code, output = on_terminal(80, *arguments)
    assert code == 2
    for shown in (output, piped(*arguments)):
        assert "\x1b[2J" not in shown
        assert r"\x1b[2J" in shown


@pytest.mark.parametrize("arguments", [("config",), ("experiments",), ("daily", "--help"), ("config", "--json")])
def test_a_reader_that_leaves_early_is_no_error(arguments: tuple[str, ...]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PROGRAM, *arguments], stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert done.stderr == ""
