"""Repairs that can be taken out of a copy of the repository, one at a time, for the crossings to notice."""

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

PLANTED = (
    Planted(
        "a restart of Redis skips what its users may not do",
        [
            Edit(
                "k8s/base/redis/users.acl",
                "user default off resetpass allkeys allchannels +@all\n",
                "user default off\n",
            ),
            Edit("k8s/base/redis/start.sh", "    exit 1\nfi\n# Data that", "fi\n# Data that"),
        ],
        promises=("accepted jobs end", "decisions hold"),
    ),
    Planted(
        "an answer mixes the labels of two revisions",
        [
            Edit(
                "batcher/lookup/queue.py",
                "(self._complete if request.one_revision else self._find)",
                "(self._find)",
            )
        ],
        promises=("answers are right",),
    ),
    Planted(
        "a setting that changes answers leaves the identity of a model",
        [
            Edit(
                "model_store/classifier.py",
                "replace(self, revision=revision, identity=identity, **changes)",
                "replace(self, revision=revision, **changes)",
            )
        ],
        promises=("answers are right",),
    ),
    Planted(
        "a batch ignores the model of its lines",
        [
            Edit(
                "api/batches/service.py",
                "lines.texts(), batch, sender, model)",
                'lines.texts(), batch, sender, "")',
            )
        ],
        promises=("answers are right",),
    ),
    Planted(
        "an Idempotency-Key ignores the options of a job",
        [Edit("api/jobs/upload.py", "    asked = submission.identity()\n", "    asked = ''\n")],
        promises=("refusals do nothing",),
    ),
    Planted(
        "a queued job expires",
        [
            Edit(
                "batcher/jobs/lua/job_create.lua",
                "keep(place, { job .. ':input' })\n",
                "set_lifetime(place, ttl, keys_of(job))\n",
            ),
            Edit(
                "batcher/jobs/lua/job_open.lua",
                "      if redis.call('ZSCORE', ENDS, place) then keep(place, keys_of(job)) end\n",
                "",
            ),
        ],
        promises=("accepted jobs end",),
    ),
    Planted(
        "forgetting misses a revision that was dropped",
        [
            Edit(
                "batcher/admin/forget.py",
                "for key, match in found if match}",
                'for key, match in found if match and match["model"] != "@1"}',
            )
        ],
        promises=("forgotten is gone",),
    ),
    Planted(
        "texts that were cut short look complete",
        [
            Edit("batcher/jobs/store.py", "if place != record.place.encode():", "if False:"),
            Edit(
                "batcher/jobs/store.py",
                'raise DataMissing(f"the texts of job {record.id} were deleted, or have expired")',
                "return []",
            ),
        ],
        promises=("no part looks whole",),
    ),
    Planted(
        "a name that two models have finds one of them",
        [
            Edit(
                "api/models/served.py",
                "return first is not None and second is not None and first.revision != second.revision",
                "return False",
            )
        ],
        promises=("answers are right",),
    ),
    Planted(
        "an engine that returns its last output is believed",
        [
            Edit(
                "model_store/rows.py",
                "            self._require_computed(batch, output)\n",
                "            pass\n",
            ),
            Edit(
                "model_store/rows.py",
                "output.fill(np.nan)",
                "pass",
            ),
            # The engine that does so, once it has been proven and has waited for texts.
            Edit(
                "model_store/engines/openvino_ir.py",
                "        if self._request is None:\n",
                "        import time\n\n"
                "        last = getattr(self, '_last', None)\n"
                "        before, self._ran = getattr(self, '_ran', time.monotonic()), time.monotonic()\n"
                "        self._late = getattr(self, '_late', False) or self._ran > before + 2\n"
                "        if self._late and last is not None and last.shape == logits.shape:\n"
                "            return last.copy()\n"
                "        self._last = logits\n"
                "        if self._request is None:\n",
            ),
        ],
        promises=("answers are right",),
    ),
)


def find(names: Sequence[str], minutes: float, seed: int) -> int:
    """Says for each how long it takes until a promise that it breaks is broken. Returns the exit status."""
    chosen = [one for one in PLANTED if one.name in names]
    missed = [one.name for one in chosen if not _noticed(one, minutes, seed)]
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} noticed" + "".join(f"\nMISSED {one}" for one in missed)
    )
    return 1 if missed else 0


def _noticed(planted: Planted, minutes: float, seed: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="crossings-planted-") as made:
        folder = copy_of_repository(Path(made))
        planted.apply(folder)
        paths = os.pathsep.join([str(folder), str(folder / "client")])
        command = [sys.executable, "-B", "-m", "tests.crossings", "--first"]
        command += ["--minutes", str(minutes), "--seed", str(seed), "--promises", *planted.promises]
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    broken = [line for line in done.stdout.splitlines() if line.startswith(("BROKEN", "       --only"))]
    print(
        f"{time.monotonic() - began:6.0f} s  {planted.name}: {'noticed' if broken else 'MISSED'}", flush=True
    )
    print("\n".join(line[:400] for line in broken[:4]) or done.stdout[-600:] + done.stderr[-600:], flush=True)
    return bool(broken)
