"""Runs KServe's own client in a separate environment, whose packages conflict with ours.

Reads `{"url": ..., "calls": [...]}` from stdin and writes a JSON list with what each call returned or raised.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


def _request(texts: list[str], *, binary: bool, name: str) -> InferRequest:
    column = InferInput(name="text", shape=[len(texts)], datatype="BYTES")
    if binary:
        import numpy

        column.set_data_from_numpy(numpy.array(texts, dtype=numpy.object_), binary_data=True)
    else:
        column.data = texts
    return InferRequest(model_name=name, infer_inputs=[column], request_id="7")


async def _call(url: str, call: dict[str, Any]) -> Any:
    version = call.get("version", "v2")
    client = InferenceRESTClient(RESTConfig(protocol=version, retries=0, timeout=60))
    name = call.get("model", "stub")
    match call["what"]:
        case "live":
            return await client.is_server_live(url)
        case "ready":
            return await client.is_server_ready(url)
        case "model":
            return await client.is_model_ready(url, name)
        case "infer" if version == "v1":
            return await client.infer(url, {"instances": call["texts"]}, model_name=name)
        case "infer":
            request = _request(call["texts"], binary=call.get("binary", False), name=name)
            answer = await client.infer(url, request, model_name=name)
            outputs = {one.name: one.as_numpy().tolist() for one in answer.outputs}
            return {"id": answer.id, "model": answer.model_name, "outputs": outputs}
    raise ValueError(call)


async def _main() -> None:
    work = json.load(sys.stdin)
    results: list[Any] = []
    for call in work["calls"]:
        try:
            results.append({"returned": await _call(work["url"], call)})
        except Exception as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            results.append({"raised": type(error).__name__, "status": status, "message": str(error)})
    json.dump(results, sys.stdout, default=lambda value: value.decode())


asyncio.run(_main())
