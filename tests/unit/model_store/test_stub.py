"""The stub is deterministic, costs what it should, and misbehaves only when asked."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Event

import pytest

from model_store import load
from model_store.stub import StubClassifier


def test_the_same_text_always_gets_the_same_scores_and_others_get_others() -> None:
    stub, again = load("stub"), load("stub")
    texts = ["I love you.", "I hate you.", ""]
    rows = stub.classify(stub.tokenize(texts))
    assert rows == again.classify(again.tokenize(texts[:1])) + again.classify(again.tokenize(texts[1:]))
    assert len({row[0] for row in rows}) == 3
    assert all(sum(row) == pytest.approx(1) for row in rows)
    assert stub.info == again.info
    assert stub.info.labels == ("NEGATIVE", "POSITIVE")


def test_long_texts_are_cut_and_counted() -> None:
    stub = StubClassifier()
    fits, over = stub.tokenize(["word " * 510, "word " * 511])
    assert (len(fits), fits.truncated) == (512, 0)
    assert (len(over), over.truncated) == (512, 1)
    assert fits == over.__class__(over.ids, truncated=0, unknown=0)


def test_a_batch_takes_as_long_as_it_was_told() -> None:
    stub = StubClassifier(batch_ms=20, token_ms=1)
    tokens = stub.tokenize(["one two three"] * 4)
    assert sum(map(len, tokens)) == 20
    start = time.perf_counter()
    stub.classify(tokens)
    assert time.perf_counter() - start >= 0.04


def test_an_empty_batch_takes_no_time() -> None:
    assert StubClassifier(batch_ms=600_000).classify([]) == []


def test_raise_fails_the_batch_it_is_in() -> None:
    stub = StubClassifier()
    bad, good = stub.tokenize(["a text \0raise with a fault", "a text"])
    assert (len(bad), bad.truncated, bad.unknown) == (2, 0, 0)
    with pytest.raises(ValueError, match="asked to raise"):
        stub.classify([good, bad])
    assert stub.classify([good])


def test_a_null_alone_is_no_fault() -> None:
    stub = StubClassifier()
    assert len(stub.classify(stub.tokenize(["\0", "\0other", "\0gil"]))) == 3


def test_kill_ends_the_process() -> None:
    script = "from model_store import load; m = load('stub'); m.classify(m.tokenize(['\\0kill']))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL


def test_hang_does_not_come_back() -> None:
    context = multiprocessing.get_context("spawn")
    begins = context.Event()
    process = context.Process(target=_hang, args=(begins,), daemon=True)
    process.start()
    assert begins.wait(60)
    process.join(0.5)
    assert process.is_alive()
    process.kill()
    process.join()


def test_gil_stops_every_other_thread() -> None:
    stub = StubClassifier()
    tokens = stub.tokenize(["\0gil:0.4"])
    ticks = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.01):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    while len(ticks) < 2:
        time.sleep(0.01)
    stub.classify(tokens)
    done.set()
    thread.join()
    gaps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert max([*gaps, time.perf_counter() - ticks[-1]]) >= 0.39


def test_it_imports_nothing_heavy() -> None:
    script = (
        "import sys; from model_store import load; load('stub');"
        "heavy = {'torch', 'transformers', 'openvino', 'tokenizers', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _hang(begins: Event) -> None:
    stub = StubClassifier()
    tokens = stub.tokenize(["\0hang"])
    begins.set()
    stub.classify(tokens)
