"""What a lease needs of Google's store: single objects, put on condition of their generation."""

import contextlib
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Its address."""
    objects: dict[str, tuple[bytes, int]] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = 200, b""
            with lock:
                _, generation = objects.get(self.path, (b"", 0))
                if self.command == "PUT":
                    wanted = self.headers.get("x-goog-if-generation-match")
                    if wanted is None or int(wanted) == generation:
                        generation += 1
                        objects[self.path] = body, generation
                    else:
                        status = 412
                elif self.path not in objects:
                    status = 404
                elif self.command == "DELETE":
                    del objects[self.path]
                else:
                    content = objects[self.path][0]
            self.send_response(status)
            self.send_header("ETag", '"the same for all"')
            self.send_header("Last-Modified", formatdate(usegmt=True))
            self.send_header("x-goog-generation", str(generation))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = do_HEAD = answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
