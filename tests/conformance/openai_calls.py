"""Run by the `openai` package's own Python: calls a cloud with it and prints what came back, as JSON.

python openai_calls.py <base URL of the cloud> <key> <chat model> <embedding model> <model with recorded steps>
"""

import asyncio
import json
import sys
from typing import Any, Literal

import openai
from openai import OpenAI
from openai.types import Batch
from pydantic import BaseModel

from tests.support.waiting import until

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
ASKED: list[Any] = [{"role": "user", "content": "use it"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
        },
    }
]


class Weather(BaseModel):
    """Closed, so that a small model ends it."""

    city: Literal["Paris", "Rome"]
    is_warm: bool


def chats(client: OpenAI, model: str) -> dict[str, Any]:
    """A model that runs here."""
    create = client.chat.completions.create
    whole = create(model=model, messages=HELLO, max_tokens=8, temperature=0)
    stream = create(
        model=model, messages=HELLO, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    last = chunks[-1]
    assert last.usage is not None
    parsed = client.chat.completions.parse(model=model, messages=HELLO, response_format=Weather, max_tokens=60)
    weighed = create(model=model, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2)
    assert weighed.choices[0].logprobs is not None
    forced: Any = {"type": "function", "function": {"name": "look_up"}}
    called = create(model=model, messages=HELLO, max_tokens=100, tools=TOOLS, tool_choice=forced)
    return {
        "whole": whole.to_dict(),
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "usage": last.usage.to_dict(),
        "parsed": type(parsed.choices[0].message.parsed).__name__,
        "logprobs": [len(token.top_logprobs) for token in weighed.choices[0].logprobs.content or ()],
        "called": [call.to_dict() for call in called.choices[0].message.tool_calls or ()],
        "ids": [whole._request_id, stream.response.headers["x-request-id"]],
    }


def tools(client: OpenAI, model: str) -> dict[str, Any]:
    """A call streamed with the client's accumulator, and the answer to its result."""
    with client.chat.completions.stream(model=model, messages=ASKED, tools=TOOLS) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        message = stream.get_final_completion().choices[0].message
    [call] = list(message.tool_calls or [])
    turns: list[Any] = [*ASKED, message, {"role": "tool", "tool_call_id": call.id, "content": "a flower"}]
    answer = client.chat.completions.create(model=model, messages=turns, tools=TOOLS)
    return {"done": [(event.name, event.arguments) for event in done], "answer": answer.choices[0].message.content}


def responses(client: OpenAI, model: str) -> dict[str, Any]:
    """Whole, streamed, and following one that is stored."""
    first = client.responses.create(model=model, input="say it")
    with client.responses.stream(model=model, input="say it", previous_response_id=first.id) as stream:
        kinds = [event.type for event in stream]
        second = stream.get_final_response()
    told = {"whole": first.output_text, "streamed": second.output_text, "kinds": kinds}
    client.responses.delete(first.id)
    return told


def files(client: OpenAI, model: str) -> dict[str, Any]:
    """A file, and the batch that is made of it."""
    body = {"model": model, "messages": [{"role": "user", "content": "say it"}]}
    line = json.dumps({"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body})
    file = client.files.create(file=("in.jsonl", line.encode()), purpose="batch")
    listed = file.id in {each.id for each in client.files.list(purpose="batch")}
    same = client.files.content(file.id).text == line
    begun = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    def ended() -> Batch | None:
        batch = client.batches.retrieve(begun.id)
        return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

    batch = until(ended, "the batch has ended", seconds=90, pause_seconds=0.2)
    assert batch is not None
    assert batch.output_file_id is not None
    [answer] = client.files.content(batch.output_file_id).text.splitlines()
    content = json.loads(answer)["response"]["body"]["choices"][0]["message"]["content"]
    return {"listed": listed, "same": same, "deleted": client.files.delete(file.id).deleted, "content": content}


def others(client: OpenAI, model: str, vectors: str) -> dict[str, Any]:
    """What is neither chat nor file."""
    embedded = client.embeddings.create(model=vectors, input=["a cat", "a dog"])
    floats = client.embeddings.create(model=vectors, input="a cat", encoding_format="float")
    completed = client.completions.create(model=model, prompt="Once upon a time", max_tokens=4)
    judged = client.moderations.create(input=["hello", "i will kill you"])
    return {
        "models": [each.id for each in client.models.list()],
        "model": client.models.retrieve(model).id,
        "vectors": [len(each.embedding) for each in (*embedded.data, *floats.data)],
        "completed": completed.choices[0].text,
        "flagged": [each.flagged for each in judged.results],
    }


def errors(client: OpenAI, model: str) -> dict[str, Any]:
    """How the client names what is refused."""
    told: dict[str, Any] = {}
    wrong: dict[str, dict[str, Any]] = {
        "no model": {"model": "none"},
        "unknown": {"extra_body": {"mood": 1}},
        "too hot": {"temperature": 3},
    }
    for name, changes in wrong.items():
        try:
            client.chat.completions.create(**{"model": model, "messages": HELLO, **changes})
        except openai.APIStatusError as error:
            told[name] = [type(error).__name__, error.code, error.param]
    try:
        client.with_options(api_key="sk-cc-nobody").models.list()
    except openai.APIStatusError as error:
        told["no key"] = [type(error).__name__, error.code, error.param]
    return told


async def asynchronously(base_url: str, key: str, model: str) -> str:
    async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "say it"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def main(url: str, key: str, model: str, vectors: str, recorded: str) -> None:
    base_url = f"{url}/v1"
    with OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        told = {
            "version": openai.__version__,
            "chats": chats(client, model),
            "tools": tools(client, recorded),
            "responses": responses(client, recorded),
            "files": files(client, recorded),
            "others": others(client, model, vectors),
            "errors": errors(client, model),
            "async": asyncio.run(asynchronously(base_url, key, recorded)),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
