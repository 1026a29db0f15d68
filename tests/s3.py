"""An S3 server on the loopback (moto's), and a proxy before it that delays, fails and truncates."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
HOST = "127.0.0.1"
ANSWERS = {"error": 500, "deny": 403, "no upload": 404}


@contextlib.contextmanager
def server(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Runs moto's server; its address. What it says goes to a file in `folder`."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with open(os.path.join(folder, "moto.log"), "wb") as log:  # noqa: PTH123, PTH118
        process = subprocess.Popen(words, stdout=log, stderr=log)
    url = f"http://{HOST}:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/moto-api/"):
                break
            assert process.poll() is None, "the server ended at once"
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait(timeout=30)


def make_bucket(url: str, name: str) -> None:
    """A new bucket of that name."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT")):
        pass


Fault = Callable[[str, str], str]


class Proxy:
    """Passes requests on to `target`.

    Attributes:
        url: Its own address.
        fault: Called with method and path; "error" answers 500, "deny" 403, "truncate" breaks the
            body off, "drop" ends the connection, "lose" does so once the request was carried out,
            "no upload" answers as to parts that are not there, "" does no harm.
        delay_s: Before each request.
        requests: Method, path and Range of all that came.
    """

    def __init__(self, target: str) -> None:
        self.fault: Fault = lambda method, path: ""
        self.delay_s = 0.0
        self.requests: list[tuple[str, str, str]] = []
        self._address = target.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _pass_on(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((request.command, request.path, request.headers.get("Range", "")))
        fault = self.fault(request.command, request.path)
        time.sleep(self.delay_s)
        if fault == "drop":
            request.close_connection = True
            return
        if fault in ANSWERS:
            request.send_response(ANSWERS[fault])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        upstream = http.client.HTTPConnection(self._address)
        upstream.request(request.command, request.path, body, dict(request.headers))
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "lose":
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                request.send_header(name, value)
        size = answer.getheader("Content-Length") or str(len(content))
        request.send_header("Content-Length", size)
        request.end_headers()
        if fault == "truncate":
            content = content[: len(content) // 2]
            request.close_connection = True
        request.wfile.write(content)
