"""What MILLRACE_MODEL may be, and which models a snapshot lists."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from batcher.models import ROUTES, ModelSpec, is_name, listing, parse_models, queue_of, read_listed
from batcher.settings import QueueSettings, WorkerSettings


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("default", [("", "default")]),
        ("default, topics=./topics", [("", "default"), ("topics", "./topics")]),
        ("org/name@0123abc,b=/models/a=b", [("", "org/name@0123abc"), ("b", "/models/a=b")]),
        ("./a=b", [("", "./a=b")]),
        ("-,topics=./topics", [("", "-"), ("topics", "./topics")]),
    ],
)
def test_models_are_read(text: str, specs: list[tuple[str, str]]) -> None:
    assert parse_models(text) == tuple(ModelSpec(*spec) for spec in specs)


@pytest.mark.parametrize("text", ["", "default,", ",default", "-", "default,-", "a=x,a=y", "a=,b=x"])
def test_unclear_models_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(model=text)


def test_queues_of_models_are_those_of_no_service() -> None:
    assert queue_of("default", "") == "default"
    assert queue_of("default", "org/topics") == "default/org/topics"
    with pytest.raises(ValidationError):
        QueueSettings(name=queue_of("default", "topics"))


def test_the_settings_of_another_queue_have_its_keys() -> None:
    settings = QueueSettings(redis_url="redis://a redis://b")
    first = settings.queue_shards
    topics = settings.for_model("topics").queue_shards
    assert [shard.prefix for shard in topics] == [
        "{millrace:2:default/topics}",
        "{millrace:2:default/topics:1}",
    ]
    assert [shard.cache_name for shard in topics] == ["default/topics"] * 2
    assert settings.queue_shards == first
    assert settings.for_model("").queue_shards == first


@pytest.mark.parametrize(
    ("name", "valid"),
    [("topics", True), ("org/name", True), ("a.b_c-d", True), ("a/b/c", False), ("", False), ("a}b", False)],
)
def test_names_can_stand_in_urls_and_keys(name: str, valid: bool) -> None:
    assert is_name(name) is valid


@pytest.mark.parametrize("last", ROUTES.split("|"))
def test_the_path_of_a_model_was_that_of_a_route_below_another_one(last: str) -> None:
    """Requests for such a model were answered for another one, or not found."""
    assert not is_name(f"org/{last}")
    assert is_name(last)
    assert is_name(f"org/{last}-1")
    with pytest.raises(ValueError, match=f"org/{last} cannot be the name of a model"):
        ApiSettings(compat_models=f"alias,org/{last}")


def test_a_snapshot_lists_models_until_their_time_is_over() -> None:
    fields = {name: str(until) for one in ("topics", "spam") for name, until in listing(one).items()}
    fields |= {"model:gone": str(int(time.time()) - 1), "model:broken": "soon", "workers": "3"}
    assert list(read_listed(fields)) == ["spam", "topics"]
