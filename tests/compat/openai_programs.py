"""Runs programs that moderate with OpenAI's route, in an environment that `make other-clients` creates.

The arguments are the URL of the service and a name below; it prints what the program returned, as JSON.
"""

from __future__ import annotations

import asyncio
import json
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


print(json.dumps({"litellm": litellm, "guardrails": guardrails}[sys.argv[2]](sys.argv[1])))
