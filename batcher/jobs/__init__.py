"""Jobs: many texts as one job on RQ, and the process that runs them."""

from __future__ import annotations


def run(job_id: str) -> str:
    """RQ calls this by name. Returns the status of the job; raises Interrupted to be run again."""
    from batcher.jobs.main import run_prepared

    return run_prepared(job_id)
