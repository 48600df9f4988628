"""Jobs: many texts as one job on RQ, and the process that runs them."""

from __future__ import annotations


def run(job_id: str) -> str:
    """Runs a job; RQ calls this by name. Returns the job's status; raises Interrupted to be retried."""
    from batcher.jobs.main import run_prepared

    return run_prepared(job_id)
