"""The services that are compared: what each installs, and how it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVERS = Path(__file__).parent / "servers"
MODEL = ROOT / "model_store/default"


@dataclass(frozen=True, slots=True)
class Peer:
    """A service in an environment of its own.

    `packages` are what pip installs beside torch; the first one names the version. `command` begins with a
    program of the environment; PORT and MODEL in it are replaced. `form` is the shape of its requests in
    load.js.
    """

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    path: str = "/predict"
    form: str = ""
    engine: str = "torch f32"
    env: dict[str, str] = field(default_factory=dict)

    def words(self, folder: Path, port: int) -> list[str]:
        """The command in an environment below `folder`."""
        program, *rest = self.command
        values = {"PORT": str(port), "MODEL": str(MODEL)}
        return [str(folder / self.name / "bin" / program), *(values.get(word, word) for word in rest)]

    def version(self, folder: Path) -> str:
        """The installed version of the first package."""
        name = self.packages[0].partition("[")[0]
        script = f"import importlib.metadata as m; print(m.version({name!r}))"
        python = folder / self.name / "bin/python"
        return subprocess.run(
            [python, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()


TRANSFORMERS = ("transformers", "numpy")
PEERS = (
    Peer(
        "plain",
        ("fastapi", "uvicorn[standard]", *TRANSFORMERS),
        ("uvicorn", "plain:app", "--port", "PORT", "--log-level", "warning", "--no-access-log"),
    ),
    Peer(
        "mosec",
        ("mosec", *TRANSFORMERS),
        (
            *(
                "python",
                "serve_mosec.py",
                "--address",
                "127.0.0.1",
                "--port",
                "PORT",
                "--log-level",
                "warning",
            ),
            # Milliseconds: the usual 3 s end every request of a loaded machine.
            *("--timeout", "60000"),
        ),
        path="/inference",
    ),
    Peer("litserve", ("litserve", *TRANSFORMERS), ("python", "serve_litserve.py", "PORT")),
    Peer(
        "bentoml",
        ("bentoml", *TRANSFORMERS),
        ("bentoml", "serve", "serve_bentoml:Classify", "--host", "127.0.0.1", "--port", "PORT"),
        env={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        ("ray[serve]", *TRANSFORMERS),
        ("python", "serve_ray.py", "PORT"),
        env={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Peer(
        "infinity",
        ("infinity-emb[server,torch]",),
        (
            *("infinity_emb", "v2", "--model-id", "MODEL", "--served-model-name", "default"),
            *("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"),
            *("--port", "PORT"),
        ),
        path="/classify",
        form="infinity",
        env={"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    ),
)


def install(peer: Peer, folder: Path) -> str:
    """Creates the environment of a peer if it is missing. Returns why it cannot be installed, or nothing."""
    home = folder / peer.name
    if (home / "bin/python").exists():
        return ""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    torch = f"torch=={pins['torch']}"
    index = os.environ.get("TORCH_INDEX", "")
    options = ["--index-url", index] if index not in ("", "any") else []
    build = torch if index else f"{torch}+cpu"
    packages = [f"{name}=={pins[name]}" if name in TRANSFORMERS else name for name in peer.packages]
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Torch first, because its index may have nothing else.
    commands = (["python3", "-m", "venv", str(home)], [*pip, *options, build], [*pip, build, *packages])
    for words in commands:
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return lines[0] if lines else f"{words[0]} ended with status {done.returncode}"
    return ""
