"""A deployment to run workflows on: a clone, an exchange, a database, an object store, and who is notified."""

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.integration.workflows.actions_runner import Job, Runner

NOW = datetime(2026, 3, 2, 7, 4, tzinfo=UTC)
STORE_KEYS = ("STAGING_S3_ACCESS_KEY_ID", "STAGING_S3_SECRET_ACCESS_KEY")


PASSWORD = "planted-password"
EXPERIMENTS = "predictbench_assets.experiments.builtin.baseline:BaselineSnapshotExperiment"


class Told:
    """A server that is notified: `/hook` stands for the webhook, `/alive` for the dead man's switch."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                told.requests.append((self.command, self.path, body))
                self.send_response(200)
                self.end_headers()

            do_GET = do_POST = _take  # noqa: N815 - named by the library

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def notes(self) -> list[str]:
        """Texts of the notes to the webhook."""
        return [json.loads(body)["text"] for _, path, body in self.requests if path == "/hook"]

    @property
    def signs_of_life(self) -> int:
        """Number of requests to the dead man's switch."""
        return sum(path == "/alive" for _, path, _ in self.requests)


@dataclass
class Repository:
    """A GitHub repository with its variables and secrets, and what they point to."""

    runner: Runner
    exchange: SandboxServer
    database_url: str
    told: Told
    variables: dict[str, str]
    secrets: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    """All that were run."""

    def run(self, workflow: str, *, event: str = "workflow_dispatch", **inputs: Any) -> dict[str, list[Job]]:
        """Run a workflow."""
        done = self.runner.run(workflow, event=event, inputs=inputs, variables=self.variables, secrets=self.secrets)
        self.jobs += [job for cells in done.values() for job in cells]
        return done

    def leaks(self) -> list[str]:
        """Places where a secret can be read: logs, summaries, notes, and files that are left."""
        secrets = {"planted", self.told.address}
        texts = {f"log of {job.name}": f"{job.log}\n{job.summary}" for job in self.jobs}
        texts |= {f"note {number}": note for number, note in enumerate(self.told.notes)}
        files = [file for file in self.runner.folder.rglob("*") if file.is_file() and not file.is_symlink()]
        texts |= {str(file): file.read_text(errors="replace") for file in files}
        return [place for place, text in texts.items() if any(secret in text for secret in secrets)]

    def at(self, now: datetime) -> None:
        """Take this instant for now, here and at the exchange."""
        self.machine["PREDICTBENCH_NOW"] = now.isoformat()
        self.exchange.set_time(now)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        url = make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()

    def stored(self) -> list[tuple[Any, ...]]:
        """Run date, window, status and number of markets of each stored run."""
        columns = "run_date::text, window_days, status, processed_markets"
        return self.rows(f"SELECT {columns} FROM predictbench.processing_runs ORDER BY 1, 2")


def with_password(database_url: str, **parts: str) -> str:
    """The address with a password, which the server does not ask for, and other parts replaced."""
    return make_url(database_url).set(password=PASSWORD, **parts).render_as_string(hide_password=False)
