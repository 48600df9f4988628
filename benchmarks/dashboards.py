"""Draws the dashboards under the acceptance load: python -m benchmarks.dashboards [--out docs/images]

Starts Millrace and a Prometheus server, runs k6/load.js and a job meanwhile, and sends a few texts to a
cascade and to a model with a shadow. Draws each dashboard of k8s/components/monitoring from Prometheus'
answers to the queries of its panels. Grafana itself does not run.
Needs prometheus on PATH, k6 (extra dev) and matplotlib (extra bench).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks import report
from benchmarks.dashboards_plot import Range, draw
from benchmarks.service import process, ready, until
from millrace.settings_loader import free_port

ROOT = Path(__file__).resolve().parents[1]
DASHBOARDS = ROOT / "k8s/components/monitoring/dashboards"
COMPONENTS = ("api", "worker", "jobs")
READY_S = 180.0
JOB_TEXTS = 600
KEY = "of a client and an operator"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
CALM_S = 10.0  # before the load, so that the start is no longer in the rates


def configuration(ports: dict[str, int]) -> str:
    """Prometheus' configuration: a job for each kind of process, as everywhere (JSON is YAML)."""
    return json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for name, port in ports.items()
        ],
    })  # fmt: skip


def send_job(url: str) -> None:
    """Submits a job of texts that no client has sent before."""
    texts = [f"text {number} of a job that runs beside the load" for number in range(JOB_TEXTS)]
    body = json.dumps({"text": texts}).encode()
    with urlopen(Request(f"{url}/jobs", body, HEADERS), timeout=30) as response:
        response.read()


def publish_shadow(url: str, work: Path) -> None:
    """Compares half of the texts of `fast` with another version of it."""
    (work / "operator.key").write_text(KEY)
    words = ["publish", "stub@next", "--model", "fast", "--shadow", "0.5", "--url", url]
    words = [sys.executable, "-m", "millrace", *words, "--admin-key-file", str(work / "operator.key")]
    subprocess.run(words, check=True, stdout=sys.stderr)


def use(url: str, over: threading.Event) -> None:
    """Sends new texts, a few each second."""
    for number in itertools.count():
        for model in ("fast", "quick"):
            body = json.dumps({"text": [f"{model} {number}"]}).encode()
            urlopen(Request(f"{url}/models/{model}/predict", body, HEADERS), timeout=30).close()
        if over.wait(0.3):
            return


def main() -> int:
    """Draws all dashboards. Returns 1 if one of them has no data at all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images", help="folder for the pictures")
    parser.add_argument("--profile", default="short", help="of k6/load.js (short)")
    args = parser.parse_args()
    if (server := shutil.which("prometheus")) is None:
        sys.exit("prometheus is not on PATH: install it, for example from your distribution")
    ports = {name: free_port("127.0.0.1") for name in (*COMPONENTS, "prometheus")}
    url, prometheus = (f"http://127.0.0.1:{ports[name]}" for name in ("api", "prometheus"))
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dashboards-")))
        up = [sys.executable, "-m", "millrace", "up", f"--port={ports['api']}", f"--data-dir={work}/data"]
        up.append("--model=default,fast=stub")
        env = {f"MILLRACE_{name.upper()}_PORT": str(ports[name]) for name in ("worker", "jobs")}
        digest = sha256(KEY.encode()).hexdigest()
        env |= {"MILLRACE_API_KEYS": f"web:{digest}", "MILLRACE_ADMIN_KEYS": f"operator:{digest}"}
        env["MILLRACE_CASCADES"] = "quick=fast:default:0.7"
        stack.enter_context(process(up, env, work / "server.log"))
        (work / "prometheus.yml").write_text(configuration({name: ports[name] for name in COMPONENTS}))
        words = [server, f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/tsdb"]
        words.append(f"--web.listen-address=127.0.0.1:{ports['prometheus']}")
        stack.enter_context(process(words, log=work / "prometheus.log"))
        until(lambda: ready(ports["api"]) and ready(ports["prometheus"], "/-/ready"), READY_S, work)
        publish_shadow(url, work)
        ended = threading.Event()
        client = threading.Thread(target=use, args=(url, ended))
        client.start()
        stack.callback(client.join)
        stack.callback(ended.set)
        time.sleep(CALM_S)
        start = time.time()
        run_load(url, args.profile)
        over = Range(prometheus, start, time.time())
        return pictures(over, args.out)


def run_load(url: str, profile: str) -> None:
    report.progress(f"k6/load.js, profile {profile}, and a job of {JOB_TEXTS:,} texts")
    send_job(url)
    k6 = str(Path(sys.executable).parent / "k6")
    env = {**os.environ, "BASE_URL": url, "API_KEY": KEY, "PROFILE": profile, "SUMMARY": os.devnull}
    words = [k6, "run", "--quiet", "--no-usage-report", str(ROOT / "k6/load.js")]
    subprocess.run(words, env=env, check=True, stdout=sys.stderr)


def pictures(over: Range, out: Path) -> int:
    empty = 0
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        picture = out / f"dashboard-{path.stem.removeprefix('millrace-')}.png"
        filled = draw(dashboard, over, picture)
        empty += not filled
        print(f"{picture}: {filled} of {len(dashboard['panels'])} panels have data")
    return int(empty > 0)


if __name__ == "__main__":
    sys.exit(main())
