"""Run by the `dashscope` package's own Python: calls a cloud with it and prints what came back, as JSON.

python dashscope_calls.py <base URL of the cloud> <key> <chat model> <embedding model>
"""

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any

import dashscope
from dashscope.v2.client import Client
from dashscope.v2.errors import DashScopeError

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
DOCUMENTS = ["A recipe for bread.", "Penguins live in the Antarctic."]


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def seen(answer: Any) -> dict[str, Any]:
    """What matters of an answer of the first generation."""
    told: dict[str, Any] = {"status": int(answer.status_code), "code": answer.code or None, "id": answer.request_id}
    if answer.status_code == HTTPStatus.OK:
        told |= {"output": answer.output, "usage": answer.usage}
    else:
        told["message"] = answer.message
    return told


async def asynchronously(model: str) -> dict[str, Any]:
    answer = await dashscope.AioGeneration.call(model=model, messages=ask("say it"), result_format="message")
    return seen(answer)


def first_generation(model: str, vectors: str) -> dict[str, Any]:
    """The functions that there have always been."""
    call = dashscope.Generation.call
    said = {"model": model, "messages": ask("say it")}
    streamed = {**said, "stream": True}
    with_tools = {"model": model, "messages": ask("use it"), "tools": TOOLS, "result_format": "message"}
    parts = [{"role": "user", "content": [{"text": "say it"}]}]
    return {
        "text": seen(call(**said)),
        "prompt": seen(call(model=model, prompt="say it")),
        "message": seen(call(**said, result_format="message", max_tokens=50, temperature=0.5, seed=3)),
        "new": [seen(each) for each in call(**streamed, incremental_output=True, result_format="message")],
        "so far": [seen(each) for each in call(**streamed, incremental_output=False, result_format="message")],
        "as text": [seen(each) for each in call(**streamed)],
        "tools": seen(call(**with_tools)),
        "tools streamed": [seen(each) for each in call(**with_tools, stream=True, incremental_output=True)],
        "parts": seen(dashscope.MultiModalConversation.call(model=model, messages=parts)),
        "async": asyncio.run(asynchronously(model)),
        "vectors": seen(dashscope.TextEmbedding.call(model=vectors, input=["a cat", "a dog"])),
        "ranking": seen(
            dashscope.TextReRank.call(
                model=vectors, query="Where do penguins live?", documents=DOCUMENTS, top_n=1, return_documents=True
            )
        ),
        "search": seen(call(**said, enable_search=True)),
        "no model": seen(call(model="none", messages=ask("say it"))),
        "no key": seen(call(**said, api_key="sk-cc-nobody")),
    }


def second_generation(base_url: str, key: str, model: str, vectors: str) -> dict[str, Any]:
    """The client of version 2, in its own protocol and in OpenAI's."""
    native = Client(api_key=key, base_url=f"{base_url}/api/v1", protocol="native", max_retries=0)
    compatible = Client(api_key=key, base_url=f"{base_url}/compatible-mode/v1", protocol="openai", max_retries=0)
    told: dict[str, Any] = {}
    for name, client in (("native", native), ("compatible", compatible)):
        create = client.chat.completions.create
        whole = create(model=model, messages=ask("say it"))
        stream = create(model=model, messages=ask("say it"), stream=True)
        told[name] = {
            "text": whole.output_text,
            "usage": whole.usage.model_dump(),
            "streamed": "".join(chunk.delta.content or "" for chunk in stream if chunk.delta is not None),
            "calls": [
                call.model_dump()
                for call in create(model=model, messages=ask("use it"), tools=TOOLS).choices[0].message.tool_calls
            ],
        }
    told["vectors"] = len(native.embeddings.create(model=vectors, input=["a cat", "a dog"]).embeddings)
    ranking = native.rerank.create(model=vectors, query="Where do penguins live?", documents=DOCUMENTS)
    told["ranking"] = [result.index for result in ranking.results]
    for name, wrong in (("no model", {"model": "none"}), ("search", {"enable_search": True})):
        try:
            native.chat.completions.create(**{"model": model, "messages": ask("say it"), **wrong})
        except DashScopeError as error:
            told[name] = [type(error).__name__, error.code, error.message]
    return told


def main(base_url: str, key: str, model: str, vectors: str) -> None:
    dashscope.base_http_api_url = f"{base_url}/api/v1"
    dashscope.api_key = key
    told = {
        "version": dashscope.version.__version__,
        "first": first_generation(model, vectors),
        "second": second_generation(base_url, key, model, vectors),
    }
    print(json.dumps(told, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
