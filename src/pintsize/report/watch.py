"""A report that follows its run: a small web server, reachable from this machine alone."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..errors import InputError, OperationError, PintsizeError
from . import live
from .page import filled, render
from .run import read

_WATCHED = ("metrics.json", "record.json", "recipe.yaml", "log.txt", "quantized.safetensors")
_HOSTS = frozenset({"127.0.0.1", "localhost"})


class ReportServer(ThreadingHTTPServer):
    """Serves the report of one run folder on loopback; `serve_forever` runs it, `shutdown` ends it."""

    daemon_threads = True

    def __init__(self, run_dir: str | os.PathLike[str], port: int) -> None:
        self.run_dir = Path(run_dir)
        self._drawing = threading.Lock()  # matplotlib's settings are one for all threads
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.server_port}/"

    def version(self) -> str:
        """Changes whenever a file does that the report is made from."""
        stamps = []
        for file in [*(self.run_dir / name for name in _WATCHED), *live.files(self.run_dir)]:
            try:
                found = file.stat()
            except FileNotFoundError:
                stamps.append("-")
            else:
                stamps.append(f"{found.st_mtime_ns:x}.{found.st_size:x}")
        return "_".join(stamps)

    def page(self) -> str:
        """The report as it is now; a file that is damaged at this moment is said on the page."""
        version = self.version()
        try:
            with self._drawing:
                return render(read(self.run_dir, unfinished=True), live=version)
        except PintsizeError as error:
            return filled("waiting.html.j2", live=version, message=str(error))


def watch(run_dir: str | os.PathLike[str], *, port: int = 0) -> ReportServer:
    """A server for the report of a run that goes on: it answers once `serve_forever` is called.

    Args:
        run_dir: the run folder; it may still be empty.
        port: 0 for any free one, which `.url` names.

    Raises:
        InputError: there is no such folder, or no such port.
        OperationError: the port is taken.
    """
    if not Path(run_dir).is_dir():
        raise InputError(
            str(run_dir), "there is no such run folder", "pass the --out folder of a pintsize run"
        )
    if not 0 <= port <= 65535:
        raise InputError(f"port={port}", "it is not from 0 to 65535", "pass 0 for any free port")
    try:
        return ReportServer(run_dir, port)
    except OSError as error:
        raise OperationError(
            f"port {port}", f"it cannot be used ({error.strerror})", "pass another, or 0 for any free one"
        ) from error


def serve(
    run_dir: str | os.PathLike[str], *, port: int = 0, ready: Callable[[str], None] | None = None
) -> None:
    """Serve the report of a run until interrupted; `ready` is called with the address.

    Raises: as for `watch`.
    """
    with watch(run_dir, port=port) as server:
        if ready is not None:
            ready(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Handler(BaseHTTPRequestHandler):
    """Two pages: the report, and the version of what it shows."""

    server: ReportServer

    def do_GET(self) -> None:
        # another site's script could reach loopback under its own name (DNS rebinding); it sends that name
        if (self.headers.get("Host") or "").rpartition(":")[0] not in _HOSTS:
            self.send_error(403)
        elif self.path == "/":
            self._send(self.server.page(), "text/html")
        elif self.path == "/version":
            self._send(self.server.version(), "text/plain")
        else:
            self.send_error(404)

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the reader has left, as a page that reloads itself does
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the page asks every two seconds."""
