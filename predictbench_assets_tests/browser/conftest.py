"""Debian's Chromium, steered; one for all tests, and a context of its own for each."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, sync_playwright

from predictbench_assets.site.build import ReportSummary
from predictbench_assets_tests.kit.browser import CHROMIUM, Open, QuietHandler, Scheme, Visit


@pytest.fixture(scope="module")  # its event loop goes on for as long, and nobody else may start one meanwhile
def chromium() -> Iterator[Browser]:
    """A browser for all tests of a file."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        # In a container, as root, there is no sandbox to be had; nothing but our own files is opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(planted_report: ReportSummary) -> Iterator[str]:
    """The address of a plain static host of the page, in a folder below its root."""
    handler = partial(QuietHandler, directory=str(planted_report.folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{planted_report.folder.name}"
        server.shutdown()
        thread.join()


@pytest.fixture
def visit(chromium: Browser, planted_report: ReportSummary) -> Iterator[Open]:
    """Opens the page from the disk, or from an `address`; whatever goes elsewhere is stopped and written down."""
    contexts = []

    def opened(
        *, width: int = 1280, scheme: Scheme = "light", address: str | None = None, script: bool = True
    ) -> Visit:
        here = address or planted_report.folder.as_uri()
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            java_script_enabled=script,
        )
        contexts.append(context)
        found = Visit(context.new_page(), here)

        def judge(route: Route) -> None:
            url = route.request.url
            if url.startswith((here, "data:")):
                route.continue_()
            else:
                found.outside.append(url)
                route.abort()

        context.route("**/*", judge)
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("requestfailed", lambda request: found.complaints.append(f"failed: {request.url}"))
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def paths(planted_report: ReportSummary) -> tuple[str, ...]:
    """A page of each kind, and every hostile market."""
    folder: Path = planted_report.folder
    markets = sorted((folder / "markets").iterdir())
    hostile = [path for path in markets if not path.stem.startswith("5")]
    chosen = [next((folder / "experiments").glob("deep*")), next((folder / "cohorts").glob("2026-09-01*")), *hostile]
    return ("index.html", *(str(path.relative_to(folder)) for path in chosen))
