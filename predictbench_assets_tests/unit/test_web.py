"""HTTP clients in the environments that companies, VPNs and container tools leave in a shell."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from predictbench_assets import web
from predictbench_assets.cli.main import main
from predictbench_assets.observability.notices import NotDelivered, Notice, send_notice
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.http_services import Webhook, webhook

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSLKEYLOGFILE")
NOBODY = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificate of the machine that the tests run on."""
    for name in (*VARIABLES, *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A server of this machine."""
    with webhook() as server:
        yield server


def elsewhere(hook: Webhook) -> str:
    """The server's address as one of another machine: it is not exempt from proxies."""
    return hook.url.replace("127.0.0.1", "0.0.0.0")


@contextmanager
def socks_proxy() -> Iterator[tuple[str, list[str]]]:
    """A SOCKS 5 proxy that leads everywhere to the port asked for on this machine; and the hosts asked for."""
    asked: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            client.recv(client.recv(2)[1])
            client.sendall(b"\x05\x00")
            kind = client.recv(4)[3]
            host = socket.inet_ntoa(client.recv(4)) if kind == 1 else client.recv(client.recv(1)[0]).decode()
            asked.append(host)
            with socket.create_connection(("127.0.0.1", int.from_bytes(client.recv(2), "big"))) as server:
                client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                server.sendall(client.recv(65536))
                while answer := server.recv(65536):
                    client.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def get(url: str) -> int:
    return web.ask("GET", url, limit_s=5).status_code


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_is_gone_through(monkeypatch: pytest.MonkeyPatch, hook: Webhook, scheme: str) -> None:
    with socks_proxy() as (address, asked):
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{address}")
        assert get(elsewhere(hook)) == 200
    assert asked == ["0.0.0.0"]
    assert len(hook.received) == 1


def test_this_machine_is_called_directly(monkeypatch: pytest.MonkeyPatch, hook: Webhook) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{NOBODY}")
    assert get(hook.url) == 200
    assert get(hook.url.replace("127.0.0.1", "localhost")) == 200


@pytest.mark.parametrize("others", ["[::1]", "fd00::/8", "10.0.0.0/8,::1", "exa mple/,ü..x:y"])
def test_an_exception_that_cannot_be_read_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, hook: Webhook, caplog: pytest.LogCaptureFixture, others: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{NOBODY}")
    monkeypatch.setenv("NO_PROXY", f"localhost, {others}, 0.0.0.0")
    assert get(elsewhere(hook)) == 200, "what can be read still counts"
    assert ("NO_PROXY" in caplog.text) == ("mple" in others)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "ftp://u:s3cret@h:1"),
        ("HTTPS_PROXY", "http://u:s3cret@h:99999999"),
        ("HTTPS_PROXY", "http://u:s3cret@:3128"),
        ("http_proxy", "http://u:s3cret@h:port"),
        ("SSL_CERT_FILE", "/nowhere.pem"),
        ("SSL_CERT_FILE", "garbage.pem"),
        ("SSL_CERT_DIR", "/nowhere"),
        ("REQUESTS_CA_BUNDLE", "garbage.pem"),
        ("SSLKEYLOGFILE", "/nowhere/keys"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_before_anything_is_begun(
    monkeypatch: pytest.MonkeyPatch, own_environment: Path, name: str, value: str
) -> None:
    (own_environment / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", "https://hooks.example/services/abcdefgh")
    commands = (["contract"], ["daily"], ["resolve"], ["notify", "--outcome", "missed"])
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1, (command, done.output)
        last = done.output.splitlines()[-1]
        assert last.startswith(("Error: " + name, f"Error: NOTIFY_WEBHOOK_URL: {name}")), (command, last)
        assert last.endswith("correct or unset it.")
        assert "s3cret" not in done.output
    assert not (own_environment / ".predictbench").exists(), "nothing was begun"


@pytest.mark.parametrize("command", [["daily"], ["doctor"]])
def test_the_certificates_of_a_store_are_looked_at_where_one_is_used(
    monkeypatch: pytest.MonkeyPatch, own_environment: Path, command: list[str]
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    web.check_environment()
    monkeypatch.setenv("STAGING_URI", "s3://bucket/prefix")
    monkeypatch.setenv("POLYMARKET_BASE_URL", f"http://{NOBODY}")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "AWS_CA_BUNDLE names /nowhere.pem, which holds no certificates that can be read" in done.output


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, hook: Webhook) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://{NOBODY}")
    monkeypatch.setenv("NOTIFY_WEBHOOK_URL", elsewhere(hook))
    with pytest.raises(NotDelivered, match=r"no answer \(ConnectError\) \(through the proxy of ALL_PROXY\)"):
        send_notice(Notice("missed"), load_settings(), pause_s=0.0)
    assert web.proxy_hint(hook.url) == ""
