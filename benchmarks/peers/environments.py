"""Installs each service into a separate environment."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalogue import ROOT, Peer

# Where a peer names these without a version, it gets that of our tests.
OURS = ("transformers", "numpy")


def install(peer: Peer, folder: Path) -> str:
    """Creates the environment of a peer below `folder`, unless it is there with the same packages and Python.

    Returns why it cannot be installed, or nothing.
    """
    home = folder / peer.name
    torch, packages = _packages(peer)
    wanted = " ".join([platform.python_version(), torch, *packages])
    marker = home / "installed.txt"
    if marker.is_file() and marker.read_text() == wanted:
        return ""
    shutil.rmtree(home, ignore_errors=True)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    index = os.environ.get("TORCH_INDEX", "")
    options = ["--index-url", index] if index not in ("", "any") else []
    create = [sys.executable, "-m", "venv", str(home)]
    # Torch first, because its index may have nothing else.
    for words in (create, [*pip, *options, torch], [*pip, torch, *packages]):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(home, ignore_errors=True)
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return lines[0] if lines else f"{words[0]} ended with status {done.returncode}"
    marker.write_text(wanted)
    return ""


def version(peer: Peer, folder: Path) -> str:
    """The installed version of the first package of a peer."""
    name = peer.packages[0].partition("[")[0]
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    words = [str(folder / peer.name / "bin/python"), "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _packages(peer: Peer) -> tuple[str, list[str]]:
    """The build of torch, and the other packages."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    torch = f"torch=={pins['torch']}" + ("" if os.environ.get("TORCH_INDEX") else "+cpu")
    return torch, [f"{name}=={pins[name]}" if name in OURS else name for name in peer.packages]
