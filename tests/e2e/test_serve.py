"""`millrace serve` as SageMaker and Vertex AI start an image: everything on one port."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from millrace.settings_loader import free_port
from tests.servers import needs_server
from tests.service import Process, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


def test_both_platforms_are_answered_until_the_container_is_stopped(tmp_path: Path) -> None:
    needs_server()
    port = free_port()
    settings = {"AIP_HTTP_PORT": str(port), "MILLRACE_MODEL": "stub", "TMPDIR": str(tmp_path)}
    served = Process("serve", millrace("serve"), settings, tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: "ready after" in served.said() or not served.running, "millrace serve", 90)
        assert served.running, served.said()
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            assert client.get("/ping").status_code == 200
            (scores,) = client.post("/invocations", json={"inputs": ["I love you."]}).json()
            vertex = client.post("/vertex/predict", json={"instances": ["I love you."]}).json()
            assert {pair["label"] for pair in scores} == {"NEGATIVE", "POSITIVE"}
            assert {pair["label"]: pair["score"] for pair in vertex["predictions"][0]} == {
                pair["label"]: pair["score"] for pair in scores
            }
        assert served.stop() == 0, served.said()
    finally:
        served.close()
