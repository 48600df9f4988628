"""The least value of each setting whose least value is small."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from batcher.settings import WorkerSettings

MAY_BE_0 = """jobs_port port local_cache_entries local_cache_bytes drain_s quiet_s max_client_texts
    first_client_texts moderation_threshold abstain threads window_ms bulk_wait_ms batch_tokens worker_port
    stub_batch_ms stub_token_ms"""
AT_LEAST_1 = """shards cache_ttl_s max_attempts result_ttl_s max_waiting_cost max_waiting_cost_bulk
    job_timeout_s job_in_flight max_waiting_jobs usage_days processes max_texts max_text_chars max_windows
    batch_texts"""
ABOVE_0 = "default_budget_s body_timeout_s"
LEAST = [
    *((name, 0, -1) for name in MAY_BE_0.split()),
    *((name, 1, 0) for name in AT_LEAST_1.split()),
    *((name, 0.5, 0) for name in ABOVE_0.split()),
]


@pytest.mark.parametrize(("name", "least", "refused"), LEAST)
def test_the_least_value_of_a_setting_is_accepted(name: str, least: float, refused: float) -> None:
    settings = ApiSettings if name in ApiSettings.model_fields else WorkerSettings
    settings.model_validate({name: least})
    with pytest.raises(ValidationError, match=name):
        settings.model_validate({name: refused})
