"""An nginx in front of a service."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port
from tests.service import wait_until
from tests.tools import needs

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location {location} {{ proxy_pass http://127.0.0.1:{to}; {more} }} }}
}}
"""


@contextlib.contextmanager
def nginx(to: int, folder: Path, prefix: str = "") -> Iterator[int]:
    """The port of an nginx with `proxy_pass` alone, or one that removes a prefix and says so."""
    binary = needs("nginx")
    port = free_port()
    more = f"proxy_set_header X-Forwarded-Prefix {prefix};" if prefix else ""
    (folder / "nginx.conf").write_text(
        NGINX.format(
            folder=folder, port=port, to=f"{to}/" if prefix else to, location=f"{prefix}/", more=more
        )
    )
    command = [binary, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), "-p", str(folder)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        assert running.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "nginx to listen")
        yield port
    finally:
        running.terminate()
        running.wait(timeout=30)
