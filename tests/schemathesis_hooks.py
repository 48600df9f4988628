"""What schemathesis needs beside the OpenAPI document: content types, and rules that no schema can say.

For a service whose model applies softmax, and has a label that is a category of moderations.
"""

from __future__ import annotations

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson", "text/csv")
def lines(_: object, value: object) -> bytes:
    """A JSON line for each item."""
    items = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(item, default=str).encode() for item in items)


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leaves out what the schema allows, and the service refuses because of the model or another field."""
    body = case.body if isinstance(case.body, dict) else {}
    parameters = body.get("parameters")
    if isinstance(parameters, dict) and "function_to_apply" in parameters:
        return parameters["function_to_apply"] != "sigmoid"
    if (
        case.path == "/v1/moderations"
    ):  # an unknown model is 400 there: clients send texts elsewhere after 404
        return body.get("model") is None
    if case.path.endswith("/classify"):  # whether it cuts a text is known once it has been read
        return body.get("truncate_prompt_tokens") in (None, -1)
    # With `inputs`, answers of /predict have the order of text-embeddings-inference.
    return not ("order" in (case.query or {}) and "inputs" in body)


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """The shape of a tensor has to be that of its data."""
    if case.path.endswith("/infer") and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
        for tensor in case.body["inputs"]:
            tensor["data"] = ["a", *[one for one in tensor.get("data") or [] if isinstance(one, str)]]
            tensor |= {"shape": [len(tensor["data"])], "parameters": {}}
    return case
