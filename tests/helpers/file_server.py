"""Files behind an address whose connection is lost in the middle."""

import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        content = (self.server.folder / Path(self.path).name).read_bytes()
        start, stop, asked = 0, len(content), self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else stop, stop)
        lost = with_body and start <= self.server.lost_at < stop and self.server.losses > 0
        if lost and self.server.status:
            self.server.losses -= 1
            self.send_error(self.server.status)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        if self.server.says_length or not with_body:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if lost:
            self.server.losses -= 1
            stop = self.server.lost_at
        if with_body:
            self.wfile.write(content[start:stop])
        if lost:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):  # readers may hang up
        pass


@contextmanager
def losing(folder, *, lost_at, losses, says_length=True, status=None):
    """The address of a server of a folder's files; it has `losses` left, and `url`.

    Args:
        lost_at: the byte of a file at which the connection is lost.
        losses: how often that happens, each time that the byte is asked for.
        says_length: whether a response says how long it is; without it, its end looks like that of the file.
        status: what is answered in place of a response that ends early.
    """
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.lost_at, server.losses = Path(folder), lost_at, losses
    server.says_length, server.status = says_length, status
    server.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
