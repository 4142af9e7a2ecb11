"""Run by the `openai-agents` package's own Python: an agent with a tool; prints what came back, as JSON.

python agents_calls.py <base URL of the cloud> <key> <model with recorded steps>
"""

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word} is a flower"


async def worked(model: Model) -> dict[str, Any]:
    """One task, whole and streamed."""
    agent = Agent(name="Gardener", instructions="Look words up.", tools=[function_tool(look_up)], model=model)
    whole = await Runner.run(agent, "use it", max_turns=4)
    stream = Runner.run_streamed(agent, "use it", max_turns=4)
    kinds = [event.type async for event in stream.stream_events()]
    usage = whole.context_wrapper.usage
    return {
        "whole": whole.final_output,
        "streamed": stream.final_output,
        "kinds": sorted(set(kinds)),
        "usage": [usage.requests, usage.input_tokens, usage.output_tokens],
    }


async def main(url: str, key: str, model: str) -> None:
    set_tracing_disabled(disabled=True)  # traces go to OpenAI's servers
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        told = {
            "chat": await worked(OpenAIChatCompletionsModel(model, client)),
            "responses": await worked(OpenAIResponsesModel(model, client)),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
