"""Runs programs that moderate with OpenAI's route, in an environment that `make other-clients` creates.

The arguments are the URL of the service and a name below; it prints what the program returned, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any


def litellm(url: str) -> Any:
    import litellm as program

    named = program.moderation(
        input="one text", model="omni-moderation-latest", api_key="x", api_base=f"{url}/v1"
    )
    return named.model_dump()["results"][0]["category_scores"]["harassment"]


def guardrails(url: str) -> Any:
    from guardrails.checks.text.moderation import ModerationCfg, moderation
    from openai import AsyncOpenAI

    class Context:
        guardrail_llm = AsyncOpenAI(base_url=f"{url}/v1", api_key="x")

    found = asyncio.run(moderation(Context(), "one text", ModerationCfg(categories=["harassment"])))
    return found.tripwire_triggered


def langchain(url: str) -> Any:
    from langchain_core.messages import HumanMessage
    from langchain_openai.middleware import OpenAIModerationMiddleware
    from openai import OpenAI

    moderates = OpenAIModerationMiddleware(client=OpenAI(base_url=f"{url}/v1", api_key="x"))
    found = moderates.before_model({"messages": [HumanMessage("one text")]}, None)
    return found is not None and found["jump_to"] == "end"


def langchain_classic(url: str) -> Any:
    from langchain_classic.chains import OpenAIModerationChain

    # The chain does not use its `openai_api_base`.
    os.environ["OPENAI_BASE_URL"] = f"{url}/v1"
    found = OpenAIModerationChain(openai_api_key="x").invoke({"input": "one text"})
    return found["output"] != "one text"


PROGRAMS = {
    "litellm": litellm,
    "guardrails": guardrails,
    "langchain": langchain,
    "langchain_classic": langchain_classic,
}
print(json.dumps(PROGRAMS[sys.argv[2]](sys.argv[1])))
