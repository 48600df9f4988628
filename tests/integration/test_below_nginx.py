"""Behind nginx at /ml/, as docs/deploy.md configures it: links, redirects and the page lead back there."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import urljoin

import httpx
import uvicorn

from api.server.protocol import Connection
from api.server.run import Proxied
from millrace.testing import fake_app
from tests.nginx import nginx
from tests.service import wait_until


def test_below_a_prefix_of_nginx_links_and_redirects_led_out_of_the_service(tmp_path: Path) -> None:
    app = Proxied(fake_app(), ["127.0.0.1"])  # type: ignore[arg-type]
    config = uvicorn.Config(app, port=0, http=Connection, ws="none", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run)
    running.start()
    try:
        wait_until(lambda: server.started, "the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        with nginx(port, tmp_path, "/ml") as proxy, httpx.Client(trust_env=False, timeout=30) as client:
            base = f"http://127.0.0.1:{proxy}/ml/"
            assert client.post(f"{base}predict", json={"text": ["a"]}).status_code == 200
            for path in ("redoc", "swagger", "docs/"):
                answer = client.get(f"{base}{path}", follow_redirects=True)
                assert (answer.status_code, answer.url.path) == (200, "/ml/docs")
            help_page = client.get(f"{base}nothing").links["help"]["url"]
            assert urljoin(base, help_page) == f"{base}docs"
            page = client.get(base, headers={"accept": "text/html"})
            assert page.headers["content-type"].startswith("text/html")
            assert client.get(f"{base}static/page.js").status_code == 200
            assert client.get(f"{base}openapi.json").json()["servers"] == [{"url": "/ml"}]
    finally:
        server.should_exit = True
        running.join()
