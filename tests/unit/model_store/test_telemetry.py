"""What libraries of models report to others by themselves is turned off before they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("first", "reports"), [("import model_store", False), ("", True)])
def test_openvino_telemetry_is_not_imported_where_pip_has_installed_it(
    tmp_path: Path, first: str, reports: bool
) -> None:
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text("print('imported')\nraise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{first}\nimport openvino"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("imported" in done.stdout) is reports
