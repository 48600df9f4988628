"""Hugging Face inference: `POST /` and `POST /models/{model}`, for `InferenceClient.text_classification`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, WithJsonSchema

from api.asgi.http import Answer
from api.compat.dialect import Alive, Dialect, Route, json_answer
from api.compat.fields import ClosedFields, Fields, Ignored, Positive, Unsupported
from api.compat.reading import TextOrTexts, only_value, refused, texts_of
from api.compat.service import Call, Classified, Scores
from api.schemas import LabelScore
from batcher.core.snapshot import ModelRecord
from batcher.errors import RevisionsMixed

ZERO_SHOT = Annotated[Any, Unsupported("zero-shot classification is not supported by this model")]
NO_CACHE = "the cache cannot be left out"
# "none" is never answered.
_APPLIED = {"anyOf": [{"type": "string", "enum": ["sigmoid", "softmax"]}, {"type": "null"}]}
Function = Annotated[Literal["sigmoid", "softmax", "none"] | None, WithJsonSchema(_APPLIED)]


class HuggingFaceParameters(ClosedFields):
    """Parameters of a pipeline of transformers."""

    top_k: Positive | None = Field(default=None, description="Only so many, the best first")
    function_to_apply: Function = Field(default=None, description="What the model applies anyway")
    candidate_labels: ZERO_SHOT = None
    hypothesis_template: ZERO_SHOT = None
    multi_label: ZERO_SHOT = None
    return_all_scores: Annotated[Any, Unsupported("send top_k=1 for the best label only", (True,))] = None
    max_length: Annotated[Any, Unsupported("texts are cut at the model's limit only")] = None
    truncation: Annotated[
        Any, Unsupported("texts that are too long are always cut", (True, "longest_first", "only_first"))
    ] = None
    padding: Ignored = None
    batch_size: Ignored = None


class HuggingFaceOptions(ClosedFields):
    """Options of the inference API."""

    use_cache: Annotated[Any, Unsupported(NO_CACHE, (True,))] = None
    wait_for_model: Ignored = None
    use_gpu: Ignored = None


class HuggingFaceRequest(Fields):
    inputs: TextOrTexts
    parameters: HuggingFaceParameters | None = None
    options: HuggingFaceOptions | None = None
    stream: Annotated[Any, Unsupported("answers are not streamed", (False,))] = None


class HuggingFaceAnswer(RootModel[list[list[LabelScore]]]):
    """One list per text: labels with their scores, the most probable first."""


class HuggingFace(Dialect):
    """Answers are nested also for one text, because the clients take the first element."""

    def routes(self) -> Sequence[Route]:
        forms = (self._classify, "Classify texts as Hugging Face does", HuggingFaceRequest, HuggingFaceAnswer)
        return [
            *(Route(path, *forms) for path in ("/", "/models/{model}")),
            Route("/models/{model}/health", self.ready, "Health of a model", answer=Alive),
        ]

    async def _classify(self, call: Call) -> Answer:
        asked = await self.service.read(call, HuggingFaceRequest)
        check_cache(call)
        found = await self.service.classify(call, texts_of(asked.inputs, "inputs"))
        return json_answer(
            as_asked(asked.parameters, found), [*found.headers, found.tokens_header, *found.time_headers]
        )


def check_cache(call: Call) -> None:
    """Raises Problem 422 for a header that asks to leave out the cache."""
    if only_value(call.context.headers, b"x-use-cache").lower() in (b"0", b"false", b"no"):
        raise refused(f"x-use-cache: {NO_CACHE}")


def as_asked(parameters: HuggingFaceParameters | None, found: Classified) -> Iterator[list[dict[str, Any]]]:
    """The labels of each text. Raises what `check_function` raises."""
    parameters = parameters or HuggingFaceParameters()
    if parameters.function_to_apply is not None:
        check_function(parameters.function_to_apply, found.record)
    return (best_first(scores, parameters.top_k) for scores in found.scores)


def best_first(scores: Scores, most: int | None = None) -> list[dict[str, Any]]:
    """Labels and scores as objects, the most probable first."""
    ordered = sorted(scores, key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in ordered[:most]]


def check_function(wanted: str, model: ModelRecord | None) -> None:
    """Raises Problem 422 unless the scores are what `wanted` makes of the logits of the model that answered.

    The service knows scores only, and logits cannot be computed from rounded scores. Raises RevisionsMixed if
    what the model applies is not known.
    """
    if model is None:
        raise RevisionsMixed(
            "a revision answered that this process does not know yet, and so not which function its scores "
            "come from; try again shortly"
        )
    given = "sigmoid" if model.multi_label else "softmax"
    if wanted != given:
        raise refused(f'function_to_apply "{wanted}" is not supported: the scores of this model are {given}')
