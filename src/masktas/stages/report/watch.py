"""`masktas report --watch`: the report of a run that trains, for browsers on this machine only.

The server has one page, which is in memory. It reads the run folder, writes nothing and serves no
file of it.
"""

from __future__ import annotations

import errno
import hashlib
import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from masktas.errors import ConfigError
from masktas.formats import shown
from masktas.stages.report.live import LivePage
from masktas.stages.report.render import policy, report_packages
from masktas.stages.report.stage import reported_of

ADDRESS = "127.0.0.1"  # no other machine can connect
# What this machine calls itself. A request for another name is that of a foreign page whose name
# was made to lead here, to read what is served (DNS rebinding).
HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves one page to browsers on this machine.

    Args:
        port: 0 for any free one.
        page: what is served.
    """

    daemon_threads = True

    def __init__(self, port: int, page: LivePage) -> None:
        self.page = page
        super().__init__((ADDRESS, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that leave before they have got the page; report anything else."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of `/`; all else is an error."""

    server: Server
    timeout = 30  # seconds that a connection may be silent
    server_version, sys_version = "masktas", ""

    def do_GET(self) -> None:
        self._answer(with_page=True)

    def do_HEAD(self) -> None:
        self._answer(with_page=False)

    def _answer(self, *, with_page: bool) -> None:
        if not HOSTS.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "Open this page as localhost")
            return
        if self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = self.server.page.content()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'")
        self.send_header("ETag", tag)
        if not known:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_page and not known:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""


def watch(run: str | Path, *, port: int, beside: str | Path | None = None) -> None:
    """Serve the report of a run, which may still train, until Ctrl-C.

    Args:
        run: the run folder; it need not exist yet.
        port: of this machine; 0 for any free one.
        beside: as in `report`.

    Raises:
        ConfigError: if the port is used by another program, or `run` or `beside` is no folder.
    """
    report_packages()
    if Path(run).exists() and not Path(run).is_dir():
        raise ConfigError(f"{run}: not a folder. Give the run folder, the --out of its stages.")
    page = LivePage(reported_of(run, beside))
    try:
        server = Server(port, page)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ConfigError(
            f"--port {port} is used by another program, or not allowed ({error.strerror}): give "
            "another one."
        ) from None
    print(
        f"http://localhost:{server.server_port}/ shows {shown(str(run))}. Ctrl-C ends it.",
        flush=True,
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)  # behind the ^C of the terminal
    finally:
        server.server_close()
