"""Commands of the soak are measured as they are, and watched while they run."""

import json
import os
import signal
import sys
from pathlib import Path

from soak.commands import Done, Running, run

HOLDS_50_MB = "x = bytearray(50 * 2**20)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
WAITS_FOR_A_LINE = f"import sys\nprint({json.dumps(json.dumps({'event': 'STEP_START', 'process_stage': 'raw_markets'}))}, flush=True)\nimport time\ntime.sleep(60)\n"  # noqa: E501


def python(text: str, folder: Path, **rest: object) -> Done:
    """Run a text as a program."""
    return run(["-c", text], dict(os.environ), folder, folder / "log", program=[sys.executable], **rest)  # type: ignore[arg-type]


def test_the_memory_of_a_command_is_its_own_and_not_that_of_who_started_it(tmp_path: Path) -> None:
    ballast = b"x" * (400 * 2**20)

    done = python(f"{HOLDS_50_MB}import time; time.sleep(0.5)", tmp_path)

    assert len(ballast) > 0
    assert 50 < done.peak_mb < 120
    assert (done.code, done.hung) == (0, False)
    assert done.files >= 3


def test_a_step_is_told_while_the_command_runs_and_can_be_its_end(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def on_event(running: Running, event: str, stage: str) -> None:
        told.append((event, stage))
        running.signal(signal.SIGKILL)

    done = python(WAITS_FOR_A_LINE, tmp_path, on_event=on_event)

    assert told == [("STEP_START", "raw_markets")]
    assert done.code == -signal.SIGKILL


def test_what_a_command_said_last_is_kept_for_the_report(tmp_path: Path) -> None:
    python("print('before')", tmp_path)

    done = python("import sys; print('one'); print('two'); sys.exit(3)", tmp_path)

    assert (done.code, done.tail) == (3, "two")
    assert "before" not in done.output
