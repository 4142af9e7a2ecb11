"""A web server on this machine's loopback, for what is to reach it or not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextmanager
def serving() -> Iterator[int]:
    """Its port. It answers with what it was asked for, and as whom."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"served {self.path} to {self.headers['Host']}\n".encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
