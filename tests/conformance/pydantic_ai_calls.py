"""Run by the `pydantic-ai-slim` package's own Python: agents with a tool and with structure; prints JSON.

python pydantic_ai_calls.py <base URL of the cloud> <key> <chat model> <model with recorded steps>
"""

import asyncio
import json
import sys
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Weather(BaseModel):
    """What the weather is like."""

    city: Literal["Paris", "Rome"]
    is_warm: bool


def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word} is a flower"


async def main(url: str, key: str, model: str, recorded: str) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    chat = OpenAIChatModel(recorded, provider=provider)
    gardener = Agent(chat, tools=[look_up], instructions="Look words up.")
    whole = await gardener.run("use it")
    async with gardener.run_stream("use it") as stream:
        streamed = await stream.get_output()
    by_tool = await Agent(chat, output_type=Weather).run("the weather")
    small = OpenAIChatModel(model, provider=provider)
    limits: Any = {"max_tokens": 60}
    by_schema = await Agent(small, output_type=NativeOutput(Weather)).run("Is Rome warm?", model_settings=limits)
    told = {
        "whole": whole.output,
        "streamed": streamed,
        "by tool": by_tool.output.model_dump(),
        "by schema": by_schema.output.model_dump(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
