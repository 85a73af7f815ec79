"""Metrics: what a run counted, in a textfile or at a push gateway; neither can fail a run."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from predictbench_assets.observability.metrics import export_metrics
from predictbench_assets.reporting.summary import ApiUse, ExperimentSummary, RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings

KEY = RunKey(date(2026, 11, 23), 7)


def summary(status: str = "completed") -> RunSummary:
    return RunSummary.failed(
        KEY,
        stage=None,
        reason="",
        status=status,
        offered_markets=10,
        rejected_markets=3,
        total_markets=7,
        processed_markets=7,
        experiments={"uniform": ExperimentSummary(version="1", status="completed", completed=7, seconds=2.0)},
        api=ApiUse(pages=4, requests=6, retries=2, bytes=1000),
        duration_seconds=12.5,
    )


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("state") or sample.labels.get("status") or ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_textfile_has_the_counts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "predictbench.prom"
    export_metrics(summary(), load_settings(prometheus_textfile=file))
    found = samples((tmp_path / "new" / "predictbench_w7.prom").read_text())
    assert found["predictbench_markets_total", "offered"] == 10
    assert found["predictbench_markets_total", "processed"] == 7
    assert found["predictbench_experiment_results_total", "completed"] == 7
    assert found["predictbench_experiment_seconds_sum", ""] == 2.0
    assert found["predictbench_api_retries_total", ""] == 2
    assert found["predictbench_run_duration_seconds", ""] == 12.5
    assert found["predictbench_last_success_timestamp_seconds", ""] > 1.7e9


def test_the_runs_of_two_windows_are_both_kept(tmp_path: Path) -> None:
    settings = load_settings(prometheus_textfile=tmp_path / "predictbench.prom")
    export_metrics(summary(), settings)
    export_metrics(summary().model_copy(update={"window_days": 30}), settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictbench_w30.prom", "predictbench_w7.prom"]
    # What the node exporter makes of them: no number is there twice, and no name means two things.
    samples_of = {
        path.name: {
            (family.name, family.documentation, tuple(sorted(sample.labels.items())))
            for family in text_string_to_metric_families(path.read_text())
            for sample in family.samples
        }
        for path in tmp_path.iterdir()
    }
    one, other = samples_of.values()
    assert not one & other
    assert {sample[:2] for sample in one} == {sample[:2] for sample in other}


def test_a_failed_run_is_no_success(tmp_path: Path) -> None:
    file = tmp_path / "predictbench.prom"
    export_metrics(summary("failed"), load_settings(prometheus_textfile=file))
    found = samples((tmp_path / "predictbench_w7.prom").read_text())
    assert found["predictbench_runs_total", "failed"] == 1
    assert ("predictbench_last_success_timestamp_seconds", "") not in found


def test_nothing_is_written_when_nothing_is_set(tmp_path: Path) -> None:
    export_metrics(summary(), load_settings())
    assert list(tmp_path.iterdir()) == []


@contextmanager
def gateway(received: list[tuple[str, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_push_gateway_gets_them() -> None:
    received: list[tuple[str, bytes]] = []
    with gateway(received) as url:
        export_metrics(summary(), load_settings(prometheus_push_gateway=url))
    ((path, body),) = received
    assert path == "/metrics/job/predictbench/window_days/7"
    assert b"predictbench_markets_total" in body


def test_a_gateway_that_is_down_and_a_file_that_cannot_be_are_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "file").write_text("not a folder")
    settings = load_settings(
        prometheus_push_gateway=f"http://127.0.0.1:{port}", prometheus_textfile=tmp_path / "file" / "x.prom"
    )
    with caplog.at_level(logging.WARNING):
        export_metrics(summary(), settings)
    assert ["PROMETHEUS_TEXTFILE" in caplog.text, "PROMETHEUS_PUSH_GATEWAY" in caplog.text] == [True, True]
