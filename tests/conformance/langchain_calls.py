"""Run by the `langchain-openai` package's own Python: calls a cloud with it and prints what came back, as JSON.

python langchain_calls.py <base URL of the cloud> <key> <chat model> <embedding model> <model with recorded steps>
"""

import json
import sys
from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr


class Weather(BaseModel):
    """What the weather is like."""

    city: Literal["Paris", "Rome"]
    is_warm: bool


def look_up(word: str) -> str:
    """Looks a word up."""
    return f"{word} is a flower"


def main(url: str, key: str, model: str, vectors: str, recorded: str) -> None:
    known: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": SecretStr(key), "max_retries": 0}
    # Elsewhere than at OpenAI it asks for a stream's usage only where it is told to.
    chat = ChatOpenAI(model=recorded, stream_usage=True, **known)
    small = ChatOpenAI(model=model, max_tokens=60, **known)
    tool = StructuredTool.from_function(look_up)
    able = chat.bind_tools([tool])
    asked: list[Any] = [HumanMessage("use it")]
    first = able.invoke(asked)
    [call] = first.tool_calls
    asked += [first, ToolMessage(tool.invoke(call["args"]), tool_call_id=call["id"])]
    pieces = list(chat.stream("say it"))
    # Its own way to cut long texts needs a vocabulary from OpenAI's servers.
    embeddings = OpenAIEmbeddings(model=vectors, check_embedding_ctx_length=False, **known)
    whole = small.invoke("Say hello.")
    told = {
        "invoked": chat.invoke("say it").content,
        "streamed": "".join(str(piece.content) for piece in pieces),
        "usage": [piece.usage_metadata for piece in pieces if piece.usage_metadata],
        "call": [call["name"], call["args"]],
        "answer": able.invoke(asked).content,
        "structured": {
            method: type(small.with_structured_output(Weather, method=method).invoke("Is Rome warm?")).__name__
            for method in ("json_schema", "function_calling")
        },
        "here": [whole.content, whole.usage_metadata],
        "vectors": [len(vector) for vector in embeddings.embed_documents(["a cat", "a dog"])],
        "query": len(embeddings.embed_query("a cat")),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
