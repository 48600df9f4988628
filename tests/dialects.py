"""Every dialect as a client uses it, with its answers in the form that `tests.signing` checks."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from model_store.stub import SIGNED_LABELS
from tests.signing import Row, Said, names_in, rows_of


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect asks about texts, at most `most` in one request, and what its answer says of each."""

    path: str
    ask: Callable[[Sequence[str]], dict[str, Any]]
    rows: Callable[[httpx.Response], list[Row]]
    most: int = 32
    headers: dict[str, str] = field(default_factory=dict)
    # The model that is named in the body, if there is one.
    named: Callable[[Any], str] | None = None

    def said(self, answer: httpx.Response, texts: Sequence[str], **more: Any) -> Said:
        """What an answer with the status 200 says. `more` are further fields of `Said`."""
        names = names_in(answer.headers["x-model"])
        if self.named is not None:
            names.append(self.named(answer.json()))
        hit = answer.headers["x-cache"] == "HIT"
        return Said(texts, self.rows(answer), [*dict.fromkeys(names)], hit=hit, **more)


def tensor(texts: Sequence[str], **more: Any) -> dict[str, Any]:
    given = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return {"inputs": [given], **more}


def _matrix(answer: httpx.Response) -> list[Row]:
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    texts, labels = outputs["scores"]["shape"]
    return _cut(outputs["scores"]["data"], texts, labels, outputs["label"]["data"])


def _binary(answer: httpx.Response) -> list[Row]:
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    texts, labels = output["shape"]
    return _cut(struct.unpack(f"<{texts * labels}f", answer.content[length:]), texts, labels)


def _cut(data: Sequence[float], texts: int, labels: int, best: Sequence[str | None] = ()) -> list[Row]:
    assert len(data) == texts * labels, f"the shape is [{texts}, {labels}], with {len(data)} values"
    best = best or [None] * texts
    return [Row(data[at * labels : (at + 1) * labels], best=best[at]) for at in range(texts)]


def _classes(answer: httpx.Response) -> list[Row]:
    """Triton's `score:index:label`. Each index must be the label's place."""
    (output,) = answer.json()["outputs"]
    texts, labels = output["shape"]
    parts = [one.split(":", 2) for one in output["data"]]
    rows = [
        sorted(parts[at * labels : (at + 1) * labels], key=lambda one: int(one[1])) for at in range(texts)
    ]
    return [Row([float(score) for score, _, _ in row], [label for _, _, label in row]) for row in rows]


def _moderated(answer: httpx.Response) -> list[Row]:
    rows = []
    for result in answer.json()["results"]:
        scores = result["category_scores"]
        flags = {name: score >= 0.5 for name, score in scores.items()}
        assert (result["categories"], result["flagged"]) == (flags, any(flags.values())), result
        rows.append(Row([*scores.values()], [*scores], "none"))
    return rows


def _decided(answer: httpx.Response) -> list[Row]:
    """A label that the revision lacks is refused."""
    said = answer.json()["answers"]
    assert [one["name"] for one in said] == list(SIGNED_LABELS)
    return [Row([one.get("probability", 0.0) for one in said], SIGNED_LABELS, "none")]


def _by_key(answer: httpx.Response) -> list[Row]:
    return [Row([*scores.values()], [*scores]) for scores in answer.json()["predictions"]]


def _detected(answer: httpx.Response) -> list[Row]:
    return [
        Row([one["score"] for one in found], [one["detection"] for one in found]) for found in answer.json()
    ]


def _probs(answer: httpx.Response) -> list[Row]:
    return [Row(one["probs"], best=one["label"]) for one in answer.json()["data"]]


def _questions(texts: Sequence[str]) -> dict[str, Any]:
    questions = [{"type": "predicate", "name": label} for label in SIGNED_LABELS]
    return {"input": texts[0], "questions": questions}


def _best_first(answer: httpx.Response) -> list[Row]:
    return rows_of(answer.json(), "score")


def _predictions(answer: httpx.Response) -> list[Row]:
    return rows_of(answer.json()["predictions"])


def _version(said: Any) -> str:
    return f"{said['model_name']}@{said['model_version']}"


PREDICT = Dialect("/predict", lambda texts: {"text": list(texts)}, _predictions)
INFER = "/v2/models/stub/infer"
# Those whose answers are of one revision. The native route names the revisions of all texts.
DIALECTS = {
    "huggingface": Dialect("/", lambda texts: {"inputs": list(texts)}, _best_first),
    "tei": Dialect("/predict", lambda texts: {"inputs": [[text] for text in texts]}, _best_first),
    "oip": Dialect(INFER, tensor, _matrix, named=_version),
    "oip binary": Dialect(
        INFER,
        lambda texts: tensor(texts, outputs=[{"name": "scores", "parameters": {"binary_data": True}}]),
        _binary,
    ),
    "oip classes": Dialect(
        INFER,
        lambda texts: tensor(texts, outputs=[{"name": "scores", "parameters": {"classification": 99}}]),
        _classes,
        named=_version,
    ),
    "kserve": Dialect("/v1/models/stub:predict", lambda texts: {"instances": list(texts)}, _by_key),
    "vllm": Dialect("/classify", lambda texts: {"input": list(texts)}, _probs),
    "sglang": Dialect("/v1/classify", lambda texts: {"input": list(texts), "model": "stub"}, _probs),
    "openai": Dialect("/v1/moderations", lambda texts: {"input": list(texts)}, _moderated),
    "fms": Dialect(
        "/api/v1/text/contents",
        lambda texts: {"contents": list(texts), "detector_params": {"threshold": 0}},
        _detected,
    ),
    "decisions": Dialect("/v1/decisions", _questions, _decided, most=1),
    "sagemaker": Dialect("/invocations", lambda texts: {"inputs": list(texts)}, _best_first),
    "sagemaker text": Dialect("/invocations", lambda texts: {"text": list(texts)}, _predictions),
    "vertex": Dialect(
        "/vertex/predict",
        lambda texts: {"instances": list(texts)},
        lambda answer: rows_of(answer.json()["predictions"], "score"),
    ),
}
