"""Settings for a deployment of a test's own, and services that answer as they are told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.settings import Settings
from predictbench_assets_tests.kit.doctor import NOW, MakeSettings, Service


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings as given and at their defaults otherwise, whatever the machine has set."""

    def make(**values: Any) -> Settings:
        given = {"predictbench_home": tmp_path / "home", "predictbench_now": NOW} | values
        defaults = {name: field.default for name, field in Settings.model_fields.items() if not field.validation_alias}
        return Settings(_env_file=None, **(defaults | given))

    return make


@pytest.fixture
def service() -> Iterator[Service]:
    """A running service."""
    told = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = json.dumps(told.body).encode()
            self.send_response(told.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        told.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        yield told
        server.shutdown()
