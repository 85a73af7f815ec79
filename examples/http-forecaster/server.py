"""A forecaster that Predictbench asks over HTTP; nothing but Python is needed.

    python server.py [PORT]

Change `forecast`. Where the variable FORECASTER_TOKEN is set, who asks has to send it: `Authorization: Bearer ...`.
"""

import hmac
import json
import os
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_BYTES = 8_000_000


def forecast(market: dict[str, Any]) -> dict[str, Any]:
    """The forecast of one market: deadlines are missed more often than not, and of anything else we know nothing."""
    outcomes = market["outcomes"]
    if len(outcomes) != 2:
        return {"probabilities": {name: 1 / len(outcomes) for name in outcomes}}
    if outcomes[0].lower() == "yes" and " by " in market["title"].lower():
        return {"p_yes": 0.2, "rationale": "A deadline; most of them pass."}
    return {"p_yes": 0.5, "rationale": "Nothing is known."}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to a market, or to an event with several."""
    if "markets" in question:
        return {"forecasts": {market["market_ticker"]: forecast(market) for market in question["markets"]}}
    return forecast(question)


class Handler(BaseHTTPRequestHandler):
    """Answers each POST."""

    protocol_version = "HTTP/1.1"  # keeps connections open
    timeout = 60

    def do_POST(self) -> None:
        token = os.environ.get("FORECASTER_TOKEN", "")
        given = self.headers.get("Authorization", "")
        size = self.headers.get("Content-Length", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            self.reply(401, {"error": "the token is missing or wrong"})
        elif not size.isdecimal() or int(size) > MOST_BYTES:
            self.reply(413, {"error": "the question has no length, or is too long"})
        else:
            try:
                said = answer(json.loads(self.rfile.read(int(size))))
            except (ValueError, KeyError, TypeError) as error:
                self.reply(400, {"error": f"this is no market and no event: {type(error).__name__}"})
            else:
                self.reply(200, said)

    def reply(self, status: int, body: dict[str, Any]) -> None:
        """Send a JSON answer; after a failure the connection is closed, since its body may not have been read."""
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status != 200:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """Takes the connections of many calls at once."""

    request_queue_size = 128


def main() -> None:
    """Serve this machine until Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8123
    with Server(("127.0.0.1", port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/forecast", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
