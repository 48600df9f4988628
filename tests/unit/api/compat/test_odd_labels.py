"""Unexpected labels, through every dialect and page that names them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.dialect_names import DIALECTS as NAMES
from batcher.messages import Prediction, fragment
from tests.dialects import DIALECTS, PREDICT
from tests.unit.api.service import Start
from tests.unit.fakes import MODEL, REVISION, RUNNING, FakeHub

SCORES = (0.5, 0.25, 0.125, 0.0625, 0.0625)
LABELS = [
    ("=1+1", '"', "a\nb", "a,b", "a:b"),
    ("US", "us", "Us", "U S", "US "),
    ("\u00df", "SS", "\u0073\u0073", "\U0001f600", "\u202eabc"),
    ("caf\u00e9", "cafe\u0301", "", " ", "\t"),
    ("0", "1", "-1", "1e3", "null"),
    ("<script>alert(1)</script>", "</table>", "\\", "{}", "%s"),
    ("error", "label", "score", "predictions", "__proto__"),
    tuple(f"label {number}" for number in range(256)),
]
NAMED = [name for name in DIALECTS if name not in ("openai", "decisions")]


def scores_of(labels: tuple[str, ...]) -> tuple[float, ...]:
    return SCORES if len(labels) == len(SCORES) else tuple((256 - at) / 2**16 for at in range(256))


def hub(labels: tuple[str, ...]) -> FakeHub:
    found = Prediction(fragment(labels, scores_of(labels)), REVISION, 3, model="stub")
    snapshot = replace(RUNNING, model=replace(MODEL, labels=labels))
    return FakeHub(snapshot=snapshot, answer=lambda text: found)


@pytest.mark.parametrize("labels", LABELS, ids=str)
async def test_every_route_keeps_labels_apart_and_as_they_are(start: Start, labels: tuple[str, ...]) -> None:
    service = await start(hub(labels), compat=",".join(NAMES), vertex_predict="/vertex/predict")
    right = dict(zip(labels, scores_of(labels), strict=True))
    assert len(right) == len(labels)
    for name in ["predict", *NAMED]:
        dialect = DIALECTS.get(name, PREDICT)
        for _ in range(2):  # computed, and from the cache
            answer = await service.client.post(dialect.path, json=dialect.ask(["a"]))
            assert answer.status_code == 200, f"{name}: {answer.text[:300]}"
            (row,) = dialect.rows(answer)
            assert row.best in (None, labels[0]), name
            if row.labels is None:
                assert list(row.scores) == pytest.approx(list(right.values()), abs=1e-6), name
            else:
                found = dict(zip(row.labels, row.scores, strict=True))
                assert found == pytest.approx({one: right[one] for one in found}, abs=1e-6), name
                assert len(found) == len(row.labels) == min(len(labels), 99 if name == "oip classes" else 256)
    (model,) = (await service.client.get("/models")).json()["models"]
    assert tuple(model["labels"]) == labels
    ids = (await service.client.get("/info")).json()["model_type"]["classifier"]["id2label"]
    assert [ids[str(at)] for at in range(len(labels))] == list(labels)
    metrics = (await service.client.get("/metrics")).text
    assert list(text_string_to_metric_families(metrics))
