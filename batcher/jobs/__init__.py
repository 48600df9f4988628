"""Jobs: many texts as one job, and the process that runs them and shows them to RQ."""

from __future__ import annotations


def run(job_id: str) -> None:
    """What RQ's own workers call. They run no jobs: `millrace jobs` does. Always raises RuntimeError."""
    raise RuntimeError("jobs of Millrace are run by `millrace jobs`, and not by a worker of RQ")
