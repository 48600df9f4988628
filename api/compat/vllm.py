"""Classification as vLLM and SGLang offer it: `/classify` and `/v1/classify`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.asgi.http import Answer
from api.compat.dialect import BAD_REQUEST, Route, json_answer
from api.compat.fields import INTEGRAL, Fields, Ignored, Unsupported
from api.compat.openai_error import OpenAIDialect
from api.compat.reading import TextOrTexts, refused, texts_of
from api.compat.service import Call, Classified, Scores

CHAT = Annotated[Any, Unsupported("chats are not supported: send input")]
ACTIVATION = Annotated[Any, Unsupported("logits are not available, only probabilities", (True,))]

# A text has at most so many tokens more than bytes.
MAX_SPECIAL = 8


class ClassifyRequest(Fields):
    """`truncate_prompt_tokens` may be -1 or any number that cuts no text."""

    model: str | None = None
    input: TextOrTexts
    truncate_prompt_tokens: Annotated[int, Field(strict=True, ge=-1), INTEGRAL] | None = None
    truncation_side: Literal["left", "right"] | None = None
    messages: CHAT = None
    chat_template: CHAT = None
    chat_template_kwargs: CHAT = None
    use_activation: ACTIVATION = None
    softmax: ACTIVATION = None
    activation: ACTIVATION = None
    # That of infinity, whose route is the same.
    raw_scores: Annotated[Any, Unsupported("logits are not available, only probabilities", (False,))] = None
    add_special_tokens: Annotated[Any, Unsupported("special tokens are always added", (True,))] = None
    mm_processor_kwargs: Annotated[Any, Unsupported("only texts are supported", ({},))] = None
    additional_data: Annotated[Any, Unsupported("it has no meaning for this model")] = None
    user: Ignored = None
    priority: Ignored = None
    request_id: Ignored = None
    cache_salt: Ignored = None


class ClassifyResult(BaseModel):
    """`probs` are in label id order; `label` is the most probable one."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifyUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    # As vLLM has it: null here.
    prompt_tokens_details: dict[str, int] | None = None


class ClassifyAnswer(BaseModel):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassifyResult]
    usage: ClassifyUsage


class Vllm(OpenAIDialect):
    statuses = BAD_REQUEST

    def routes(self) -> Sequence[Route]:
        return [
            Route(path, self._classify, "Classify texts as vLLM does", ClassifyRequest, ClassifyAnswer)
            for path in ("/classify", "/v1/classify")
        ]

    async def _classify(self, call: Call) -> Answer:
        asked = await self.service.read(call, ClassifyRequest)
        call.served = self.service.find(asked.model)
        found = await self.service.classify(call, texts_of(asked.input, "input"))
        _check_truncation(asked, found)
        tokens = sum(found.tokens)
        answer = {
            "id": f"classify-{call.context.headers.id}",
            "object": "list",
            "created": int(time.time()),
            "model": found.model,
            "data": [classify_result(index, scores) for index, scores in enumerate(found.scores)],
            "usage": {
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "completion_tokens": 0,
                "prompt_tokens_details": None,
            },
        }
        return json_answer(answer, found.headers)


def check_uncut(asked: ClassifyRequest, texts: Sequence[str]) -> None:
    """Raises Problem 422 if a text might be cut in another way than a job does, which learns it too late."""
    most = asked.truncate_prompt_tokens
    if most is not None and 0 <= most < max(len(text.encode()) for text in texts) + MAX_SPECIAL:
        detail = "truncate_prompt_tokens: may cut the text; leave it out, or send -1"
        raise refused(detail, "truncate_prompt_tokens")
    if asked.truncation_side == "left":
        raise refused("truncation_side: left is not supported in a batch", "truncation_side")


def _check_truncation(asked: ClassifyRequest, found: Classified) -> None:
    """Raises Problem 400 if the client asked to cut a text elsewhere than at the model's limit."""
    most, longest = asked.truncate_prompt_tokens, found.record.longest if found.record else math.inf
    if most is not None and 0 <= most < longest and max(found.tokens) > most:
        detail = f"truncate_prompt_tokens: a text has more than {most} tokens; leave it out, or send -1"
        raise refused(detail, "truncate_prompt_tokens")
    if asked.truncation_side == "left" and True in found.truncated:
        index = found.truncated.index(True)
        raise refused(
            f"text {index} is too long, and truncation_side left is not supported", "truncation_side"
        )


def classify_result(index: int, scores: Scores) -> dict[str, Any]:
    """The probabilities of one text, in the order of the label ids, and its best label."""
    label, _ = max(scores, key=lambda pair: pair[1])
    return {"index": index, "label": label, "probs": [p for _, p in scores], "num_classes": len(scores)}
