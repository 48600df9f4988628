"""OpenAPI descriptions of POST /predict that FastAPI cannot derive."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.jobs.schemas import Job
from api.label_order import DESCRIPTION, LabelOrder
from api.schemas import (
    IDEMPOTENCY_KEY,
    STRING,
    LabelScore,
    Responses,
    ValidationFailed,
    body,
    error,
    errors,
    header,
)


class Predictions(BaseModel):
    """One list per text, in the order of the request: all labels, in the `order` that is asked for."""

    predictions: list[list[LabelScore]]
    models: list[str] | None = Field(
        default=None, description="For a cascade only: name@revision of the model that answered each text"
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "predictions": [
                    [{"label": "NEGATIVE", "score": 0.9814}, {"label": "POSITIVE", "score": 0.0186}],
                    [{"label": "NEGATIVE", "score": 0.0088}, {"label": "POSITIVE", "score": 0.9912}],
                ]
            }
        }
    )


PREDICT_RESPONSES: Responses = {
    200: {
        "description": "One list of labels per text, in order; or the existing job with this Idempotency-Key "
        "(Prefer: respond-async)",
        "headers": {
            "X-Request-ID": header("The id from the request, or a new one"),
            "X-Cache": header("HIT, MISS or PARTIAL: whether all, none or some of the texts were cached"),
            "X-Model": header("name@revision of the model; several for a cascade, or during a rollout"),
            "X-Truncated": header("Number of texts cut at the model's token limit; absent if none"),
            "X-Unknown": header("Number of texts mostly unknown to the model; absent if none"),
            "Server-Timing": header(
                "Milliseconds of cache, queue, tokenize, model and total; size of the batch"
            ),
        },
    },
    202: {
        "model": Job,
        "description": "The request became a job (Prefer: respond-async)",
        "headers": {"Location": header("The path of the job")},
    },
    **errors(401, 403, 408, 409, 413, 415, 503, 504, 507),
    422: error("Invalid request, or a text that makes workers crash (poison)", ValidationFailed),
    429: error(
        "Too much is waiting (queue_full, too_many_jobs), or a limit of this client is reached "
        "(client_limit, rate_limited); see Retry-After"
    ),
    500: error("The model failed on one text (inference_failed), or an unexpected error (internal)"),
}


def request_body(model: type[BaseModel], order: LabelOrder) -> dict[str, Any]:
    """The OpenAPI description of the request's query, headers and body. `order` is the default of labels."""
    parameters = [
        {
            "name": "order",
            "in": "query",
            "schema": {"type": "string", "enum": ["id", "score"], "default": order},
            "description": DESCRIPTION,
        },
        {
            "name": "Prefer",
            "in": "header",
            "schema": STRING,
            "description": "wait=N: budget in seconds; respond-async: respond with a job",
            "example": "wait=5",
        },
        # Without effect, unless the request becomes a job.
        {**IDEMPOTENCY_KEY, "schema": STRING},
        {
            "name": "X-Request-ID",
            "in": "header",
            "schema": STRING,
            "description": "1 to 128 letters, digits, '.', '_' and '-'; another value is replaced",
        },
    ]
    return {"parameters": parameters, **body({"application/json": model.model_json_schema()})}
