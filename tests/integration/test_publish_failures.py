"""Revisions that are published, but that no worker can serve."""

from __future__ import annotations

import gc
import weakref

import fakeredis
import pytest

from model_store.stub import StubClassifier
from tests.many import Many


async def test_finding_50_a_revision_that_fails_its_warm_up_leaves_no_connection_and_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its model and its connections stayed in a worker that goes on, with each one that was published."""
    loaded, closed = weakref.WeakSet[StubClassifier](), list[str]()

    def fails(classifier: StubClassifier) -> None:
        loaded.add(classifier)
        raise ValueError("the engine has no memory")

    async with Many(monkeypatch) as many:
        served = many.worker("stub,topics=stub@t")
        with monkeypatch.context() as patched:
            patched.setattr("batcher.worker.loop.warm_up", fails)
            patched.setattr(StubClassifier, "close", lambda self: closed.append("model"))
            patched.setattr(fakeredis.FakeRedis, "close", lambda self: closed.append("connection"))
            with pytest.raises(ValueError, match="has no memory"):
                served.add("topics", "topics@1", "stub@bad")
        assert sorted(closed) == [*4 * ["connection"], "model"]
        assert list(served.names) == ["", "topics"]
        gc.collect()
        assert not loaded
