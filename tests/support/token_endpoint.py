"""A provider's token endpoint (RFC 6749): it counts the requests and answers what the test wants."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs


class TokenEndpoint:
    """Listens on loopback while entered. `forms`: the requests. `answers`: (status, body) for the next ones.

    Without an answer that is set, each request gets a new token: token-1, token-2, …
    """

    def __init__(self, *, expires_in: object = 3600, delay: float = 0.0) -> None:
        self.forms: list[dict[str, str]] = []
        self.answers: list[tuple[int, Any]] = []
        self.headers: dict[str, str] = {}
        self.expires_in = expires_in
        self.delay = delay

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def answer(self, form: dict[str, str]) -> tuple[int, Any]:
        self.forms.append(form)
        time.sleep(self.delay)
        if self.answers:
            return self.answers.pop(0)
        token = {"access_token": f"token-{len(self.forms)}", "token_type": "Bearer", "expires_in": self.expires_in}
        return 200, {key: value for key, value in token.items() if value is not None}

    def __enter__(self) -> Self:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, answer = endpoint.answer({key: values[0] for key, values in parse_qs(body).items()})
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="token endpoint", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
