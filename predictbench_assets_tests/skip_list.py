"""A pytest plugin: a skip that `allowed_skips.txt` does not list fails the session."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("allowed_skips.txt")


class SkipList:
    """Compares the skips of a session with those that are expected."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.splitlines())
        self._allowed = [line.partition(" | ") for line in lines if line and not line.startswith("#")]
        self.unexpected: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that was skipped."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that was skipped as a whole."""
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail a session that would have passed."""
        if self.unexpected and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which, and what to do."""
        if not self.unexpected:
            return
        terminalreporter.section("skips that are not expected", red=True)
        for test, reason in self.unexpected:
            terminalreporter.line(f"{test} | {reason}")
        terminalreporter.line(f"make them run, or list them in {LIST.name} with the reason")

    def _note(self, test: str, representation: object) -> None:
        # (file, line, "Skipped: reason")
        text = str(representation[2]) if isinstance(representation, tuple) else str(representation)
        reason = text.removeprefix("Skipped: ")
        if not any(fnmatchcase(test, ids) and fnmatchcase(reason, why or "*") for ids, _, why in self._allowed):
            self.unexpected.append((test, reason))


def pytest_configure(config: pytest.Config) -> None:
    """Watch this session."""
    config.pluginmanager.register(SkipList(LIST.read_text(encoding="utf-8")), "predictbench-skip-list")
