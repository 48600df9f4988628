"""A small server in the shape of the Hugging Face Hub: model info with digests, files, ranges, faults.

As a program, it serves the files of the directory that it is given until its input ends.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_DATE = "2022-10-01T00:00:00.000Z"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes]
    repository: str = "org/name"
    branch: str = "main"
    # name -> bytes after which the connection is cut, once
    cut: dict[str, int] = field(default_factory=dict)
    # name -> what is served instead of the promised bytes
    served: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    # Whether uploads are allowed, whether there is the repository already, and what was uploaded
    writable: bool = True
    exists: bool = False
    uploaded: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def info(self) -> dict[str, Any]:
        """The answer of /api/models/REPOSITORY/revision/REVISION?blobs=true."""
        return {
            "id": self.repository,
            "modelId": self.repository,
            "sha": COMMIT,
            "siblings": [_sibling(name, content) for name, content in self.files.items()],
        }


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".bin")):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return sibling


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of the loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((path, self.headers.get("Range")))
            hub.agents.add(self.headers.get("User-Agent", ""))
            api, files = f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/{COMMIT}/"
            if path.startswith(f"{api}/commits/"):
                commit = {"id": COMMIT, "title": "", "message": "", "date": _DATE, "authors": []}
                self._json([commit])
            elif path.startswith(f"{api}/revision/"):
                if path.rpartition("/")[2] in (hub.branch, COMMIT):
                    self._json(hub.info())
                else:
                    self._refuse("RevisionNotFound")
            elif path.startswith(files) and path.removeprefix(files) in hub.files:
                self._file(path.removeprefix(files))
            else:
                self._refuse("EntryNotFound" if path.startswith(files) else "RepoNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append((path, None))
            hub.agents.add(self.headers.get("User-Agent", ""))
            if not hub.writable:
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif "/preupload/" in path:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                self._json({"files": [{"path": name, **modes} for name in names]})
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.uploaded[line["value"]["path"]] = b64decode(line["value"]["content"])
                url = f"{hub.url}/{hub.repository}"
                self._json({"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT, "commitMessage": ""})
            else:
                found = {"url": f"{hub.url}/{hub.repository}", "warnings": [], "errors": []}
                self._json(found, 409 if hub.exists and path == "/api/repos/create" else 200)

        def _json(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _file(self, name: str) -> None:
            content = hub.served.get(name, hub.files[name])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = hub.cut.pop(name, len(content))
            self.wfile.write(content[start:end])
            if end < len(content):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Tests print what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with running(Hub({path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()})) as served:
        print(served.url, flush=True)
        sys.stdin.read()
