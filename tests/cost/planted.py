"""Repairs whose absence is noticed: by what requests cost, or else by the tests that are named."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.running import copy_of_repository
from tests.planted import Edit, Planted

COST = "tests/cost/test_cost.py::test_"
GAP = f"{COST}a_batch_with_megabytes_between_two_lines_costs_no_more_than_it_weighs"
SUBMIT = ["tests/unit/api/jobs/test_submit.py", "-k", "client"]
TYPED = ["tests/unit/text_files/test_typed.py", "--timeout", "60"]
LEAST = f"{COST}nothing_is_computed_for_an_answer_that_can_only_be_too_large"


def of_route(route: str) -> list[str]:
    return [f"{COST}no_request_costs_more_than_it_weighs[{route}]"]


_LEAST = Edit(
    "api/predict/handler.py",
    "if (least := len(texts) * lookup.models.shortest) > most_bytes:",
    "if (least := 0) > most_bytes:",
)
PLANTED = (
    Planted(
        "an output is written as often as it is named",
        [Edit("api/compat/oip.py", "if names.count(name) > 1]", "if False]")],
        of_route("POST /v2/models/{model:model}/infer"),
    ),
    Planted(
        "a text is repeated for each label, whatever its size",
        [
            Edit("api/compat/fms.py", "least=_repeated(texts, [all_labels] * len(texts))", "least=0"),
            Edit(
                "api/compat/fms.py",
                "check_size(size + _repeated(texts, reached), self.service",
                "check_size(0, self.service",
            ),
        ],
        of_route("POST /api/v1/text/contents"),
    ),
    Planted(
        "the answers of /predict have no bound",
        [
            _LEAST,
            Edit(
                "api/predict/handler.py",
                "        check_size(sum([len(result.fragment) for result in results]), most_bytes)\n",
                "",
            ),
        ],
        of_route("POST /predict"),
    ),
    Planted("texts are computed whose answer can only be too large", [_LEAST], [LEAST]),
    Planted(
        "looking for repeated columns takes the square of their number",
        [
            Edit(
                "text_files/rows.py",
                "        self.names = tuple(names)\n",
                "        self.names = tuple(names)\n        [one for one in names if names.count(one) > 1]\n",
            )
        ],
        of_route("POST /jobs"),
    ),
    Planted(
        "a mistyped column is compared with every name",
        [
            Edit(
                "text_files/rows.py",
                "near = {name.lower(): name for name in short(names)}",
                "near = {name.lower(): name for name in names}",
            ),
            Edit("text_files/rows.py", "wanted[:MAX_CHARS], near", "wanted, near"),
        ],
        of_route("POST /jobs"),
    ),
    Planted(
        "a record has no limit",
        [Edit("text_files/tables.py", "if self._size > MAX_FIELD:", "if False:")],
        of_route("POST /jobs"),
    ),
    Planted(
        "a table may have any number of columns",
        [Edit("text_files/tables.py", "if len(row) > MAX_COLUMNS:", "if False:")],
        ["tests/unit/text_files/test_formats.py"],
    ),
    Planted(
        "an upload is read on after its client has left",
        [Edit("api/jobs/body.py", "            if self.gone:\n                raise ClientDisconnect\n", "")],
        SUBMIT,
    ),
    Planted(
        "the end of a connection is seen once all before it has been read",
        [Edit("api/jobs/body.py", "[0] and not self._left():", "[0]:")],
        SUBMIT,
    ),
    Planted(
        "a file that is sent again is read on after its client has left",
        [Edit("api/jobs/service.py", "lambda part: sender.waited_for(counted(part))", "counted")],
        of_route("POST /jobs/{job_id}/labelled"),
    ),
    Planted(
        "the first part of an answer is read on after its client has left",
        [
            Edit(
                "api/jobs/service.py",
                "unless_disconnected(receiver.receive, following())",
                "following()",
            )
        ],
        ["tests/unit/api/jobs/test_streaming.py"],
    ),
    Planted(
        "the rest of an answer is read on after its client has left",
        [Edit("api/jobs/service.py", "            self._receiver.leave()\n", "")],
        ["tests/unit/api/jobs/test_streaming.py"],
    ),
    Planted(
        "each unknown field of a body takes a kilobyte",
        [Edit("api/admin/schemas.py", "len(given) > 10_000", "False")],
        ["tests/unit/api/admin/test_clients.py"],
    ),
    Planted(
        "a table is read on by its process after the client has left",
        [Edit("text_files/isolated.py", "if not ready.poll(_PAUSE_MS):", "if not ready.poll():")],
        TYPED,
    ),
    Planted(
        "a process that reads tables says more than a pipe takes",
        [
            Edit("text_files/errors.py", "message[:MAX_MESSAGE]", "message"),
            Edit("text_files/arrow.py", "{str(kind)[:64]}", "{kind}"),
        ],
        TYPED,
    ),
    Planted(
        "a table of any size may take two minutes",
        [
            Edit(
                "text_files/__main__.py", "min(CPU_S + MIB_CPU_S * len(content) // 1024**2, MAX_CPU_S)", "120"
            )
        ],
        TYPED,
    ),
    Planted(
        "any number of tables is written at a time",
        [
            Edit(
                "api/jobs/labelled.py",
                "if output.source.typed:\n                copy",
                "if False:\n                copy",
            )
        ],
        ["tests/unit/api/jobs/test_labelled.py"],
    ),
    Planted(
        "naming repeated columns takes the square of their number",
        [Edit("text_files/output.py", "max(number, following.get(base, 0))", "number")],
        TYPED,
    ),
    Planted(
        "blank lines are read one by one",
        [
            Edit(
                "text_files/decoding.py",
                "                found = _filled(text, at)\n"
                "                at = max(text.rfind(end, at, found.start() if found else len(text)) + 1, "
                "at)\n                number += text.count(end, stop, at)\n",
                "                pass\n",
            )
        ],
        [GAP],
    ),
    Planted(
        "a parameter of a form in two forms is an error of the service",
        [
            Edit(
                "api/batches/multipart.py",
                "            except (ValueError, TypeError):\n                raise malformed(",
                "            except ValueError:\n                raise malformed(",
            )
        ],
        of_route("POST /v1/files"),
    ),
    Planted(
        "a batch's results are written to say how large they are",
        [
            Edit(
                "api/batches/service.py",
                "        return output_body(",
                "        list(self._results(given, Receiver(lambda: None), failed=False))\n"
                "        return output_body(",
            )
        ],
        of_route("GET /v1/files/{file_id}"),
    ),
    Planted(
        "the console's memory of requests has no bound",
        [Edit("api/predict/request_log.py", " or self._bytes > MAX_BYTES)", ")")],
        ["tests/unit/api/predict/test_recent.py"],
    ),
    Planted(
        "an error while preparing keeps the turn",
        [
            Edit(
                "batcher/worker/turns.py",
                "            self._running.acquire()\n        finally:\n",
                "        finally:\n            self._running.acquire()\n",
            )
        ],
        ["tests/unit/batcher/worker/test_turns.py", "--timeout", "60"],
    ),
    Planted(
        "a process that was suspended takes Redis for lost",
        [Edit("batcher/connection/pipeline.py", "if left_s > 0 or not overdue:", "if left_s > 0:")],
        ["tests/unit/batcher/connection/test_pipeline.py"],
    ),
    Planted(
        "kernels of all shapes are kept",
        [
            Edit("model_store/engines/openvino_ir.py", '"CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,', ""),
            Edit(
                "model_store/engines/openvino_ir.py",
                '"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"',
                '"NONE", "64"',
            ),
        ],
        ["tests/unit/model_store/test_engines.py", "-k", "kernels"],
    ),
)


def find(names: Sequence[str]) -> int:
    """Says for each whether its tests notice it. Returns the exit status."""
    missed = [name for name in names if not _noticed(name)]
    print(
        f"{len(names) - len(missed)} of {len(names)} noticed" + "".join(f"\nMISSED {one}" for one in missed)
    )
    return 1 if missed else 0


def _noticed(name: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="cost-planted-") as made:
        folder = copy_of_repository(Path(made))
        planted = next(one for one in PLANTED if one.name == name)
        planted.apply(folder)
        paths = os.pathsep.join([str(folder), str(folder / "client")])
        command = [sys.executable, "-B", "-m", "pytest", "-n", "0", "-q", "-x", "--timeout", "600"]
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": paths}
        run = subprocess.run(
            [*command, *planted.tests], cwd=folder, env=environment, capture_output=True, text=True
        )
    noticed = run.returncode == 1
    print(f"{time.monotonic() - began:6.0f} s  {name}: {'noticed' if noticed else 'MISSED'}", flush=True)
    why = [line for line in run.stdout.splitlines() if line.startswith("E  ")]
    print("\n".join(line[:300] for line in why[:4]) or run.stdout[-600:] + run.stderr[-600:], flush=True)
    return noticed
