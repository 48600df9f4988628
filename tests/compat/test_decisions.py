"""Questions to a classifier, by the openai package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.compat.decisions import Labels, confidence, mean
from api.settings import ApiSettings
from tests.compat.service import Service
from tests.unit.api.service import running
from tests.unit.fakes import FakeCache, FakeHub, prediction

TEXT = "a text to decide on"
BOTH = [{"value": "Positive"}, {"value": "negative"}]


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    openai = pytest.importorskip("openai", reason="openai is not installed (compat-tests)")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_openai_package_reads_each_kind_of_answer(service: Service, client: Any) -> None:
    (scores,) = service.scores(TEXT)
    message = {"role": "user", "content": [{"type": "input_text", "text": TEXT}]}
    questions = [
        {"type": "predicate", "name": "negative", "instructions": "Is it negative?"},
        {"type": "choice", "name": "mood", "instructions": "Which?", "choices": BOTH},
        {"type": "score", "instructions": "How?", "levels": [{"label": "NEGATIVE"}, {"label": "POSITIVE"}]},
        {"type": "choice", "name": "day", "instructions": "?", "choices": [{"value": "Monday"}, *BOTH]},
        {"type": "choice", "name": "twice", "instructions": "?", "choices": [BOTH[0], {"value": "POSITIVE"}]},
        {"type": "predicate", "instructions": "Is it Monday?"},
    ]
    for given in (TEXT, [message]):
        found = client.decisions.create(model="stub", input=given, questions=questions)
        predicate, choice, scale, *refused = found.answers
        assert predicate.probability == scores["NEGATIVE"]
        best = max(scores, key=lambda label: scores[label])
        assert choice.choice.upper() == best
        assert [pair.probability for pair in choice.probabilities] == [scores["POSITIVE"], scores["NEGATIVE"]]
        assert choice.confidence == pytest.approx(2 * scores[best] - 1)
        assert scale.score == scores["POSITIVE"]
        assert [level.value for level in scale.probabilities] == [0, 1]
        assert [(answer.type, answer.name) for answer in refused] == [
            ("refusal", "day"),
            ("refusal", "twice"),
            ("refusal", None),
        ]
    assert found.usage.total_tokens == found.usage.input_tokens_details.cached_tokens == 7


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": "a", "questions": []}, "questions: List should have at least 1 item"),
        ({"input": [{"role": "system", "content": "a"}]}, 'the field "questions" is missing'),
        (
            {"input": [{"role": "system", "content": "a"}], "questions": [{"type": "predicate"}]},
            "input: must be a string, or one user message with one text",
        ),
    ],
)
def test_a_wrong_request_is_refused(service: Service, body: Any, said: str) -> None:
    answer = service.http.post("/v1/decisions", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(said)


async def test_other_names_of_labels_come_from_a_file(tmp_path: Path) -> None:
    names = tmp_path / "questions.toml"
    names.write_text('POSITIVE = ["Is it good?", "good"]\nNEGATIVE = ["bad", "positive"]\n')
    settings = ApiSettings(questions=names, compat="decisions")
    async with running(FakeHub(), FakeCache(), settings) as service:
        body = {
            "input": "a",
            "questions": [
                {"type": "predicate", "instructions": "is it good?"},
                {"type": "choice", "choices": [{"value": "GOOD"}, {"value": "bad"}]},
                {"type": "predicate", "name": "positive"},
            ],
        }
        answers = (await service.client.post("/v1/decisions", json=body)).json()["answers"]
    expected = prediction("a").fragment
    for answer in (answers[0]["probability"], answers[1]["probabilities"][0]["probability"]):
        assert f'"POSITIVE","score":{answer}'.encode() in expected
    assert answers[2] == answers[0] | {"name": "positive"}, "a label goes before a name of another"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "POSITIVE = 1",
            'the names of POSITIVE must be a list of strings: POSITIVE = ["good"]',
        ),
        ("POSITIVE", "Expected '='"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_wrong_is_refused_at_start(tmp_path: Path, content: str | None, said: str) -> None:
    names = tmp_path / "questions.toml"
    if content is not None:
        names.write_text(content)
    with pytest.raises(ValueError, match="questions") as caught:
        ApiSettings(questions=names)
    assert said in str(caught.value)


def test_labels_that_differ_in_case_only_have_their_own_scores() -> None:
    labels = Labels([("us", 0.2), ("US", 0.7), ("Them", 0.1)], {"Them": ["they"]})
    assert (labels.one("US"), labels.one("us"), labels.one("them"), labels.one("THEY")) == (
        0.7,
        0.2,
        0.1,
        0.1,
    )
    assert labels.several(["US", "us"]) == [round(0.7 / 0.9, 7), round(0.2 / 0.9, 7)]
    assert labels.one("Us") is None, "it may be either"
    assert labels.several(["Us", "Them"]) is None
    assert labels.several(["US", "Us"]) is None


def test_a_name_of_two_labels_is_neither() -> None:
    labels = Labels([("good", 0.2), ("fine", 0.8)], {"good": ["OK", "ok"], "fine": ["Ok", "nice"]})
    assert (labels.one("ok"), labels.one("Ok"), labels.one("oK")) == (0.2, 0.8, None)
    assert labels.one("good", "nice") is None, "two different labels are asked for"
    assert labels.one("good", "a sentence", "GOOD") == 0.2


def test_probabilities_of_some_labels_sum_to_one() -> None:
    labels = Labels([("a", 0.2), ("b", 0.6), ("c", 0.2)], {})
    assert labels.several(["B", "a"]) == [0.75, 0.25]
    assert labels.several(["a", "d"]) is None
    assert labels.several(["a"]) is None
    assert confidence([0.75, 0.25]) == 0.5
    assert confidence([0.25] * 4) == 0
    assert mean([0.25, 0.25, 0.5]) == 1.25
    assert (confidence([2 / 3, 1 / 3]), mean([1 / 3, 2 / 3])) == (0.3333333, 0.6666667)
    assert Labels([("a", 0.0), ("b", 0.0)], {}).several(["a", "b"]) == [0.5, 0.5]
