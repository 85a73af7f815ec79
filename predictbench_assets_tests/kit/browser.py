"""Pages in Debian's Chromium, with what they complained about."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from typing import Any, Literal

from playwright.sync_api import Page

Scheme = Literal["light", "dark"]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@dataclass
class Visit:
    """An open page, and what it complained about or asked for."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        """Open another page of the folder."""
        self.page.goto(f"{self.address}/{path}")
        return self.page


Open = Callable[..., Visit]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""
