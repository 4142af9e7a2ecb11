"""`chat`: one question, or a conversation, answered as the tokens come."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from cloudcrest.cli.choose import first_model
from cloudcrest.cli.client import Client
from cloudcrest.cli.connection import inference
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import note, print_json, show_text
from cloudcrest.kernel.errors import CloudcrestError, EngineFault

Message = dict[str, str]


def chat(
    message: Annotated[str | None, Parameter(help="What to ask; else from a pipe, or line by line.")] = None,
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="Which model; else the first chat model.", env_var="CLOUDCREST_MODEL")
    ] = None,
    system: Annotated[str | None, Parameter(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int | None, Parameter(help="The longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, Parameter(help="0: always the likeliest token.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Asks a model.

    With an argument or a pipe, prints the answer and nothing else; without, holds a conversation.
    """
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    with Client(inference(options)) as cloud:
        request: dict[str, Any] = {"model": model or first_model(cloud, "chat")}
        request.update({name: value for name, value in settings.items() if value is not None})
        if message is None and sys.stdin.isatty():
            converse(cloud, request, start)
            return
        question = message if message is not None else sys.stdin.read().strip()
        if not question:
            raise WrongUsage(
                "there is nothing to ask", hint='write for example `cloudcrest chat "Why is the sky blue?"`'
            )
        messages = [*start, {"role": "user", "content": question}]
        if options.format == "json":
            print_json(cloud.post("/v1/chat/completions", {**request, "messages": messages}))
        else:
            answer(cloud, {**request, "messages": messages})


def converse(cloud: Client, request: dict[str, Any], start: list[Message]) -> None:
    """Asks line by line until Ctrl-D. Ctrl-C ends an answer, an error ends a turn; both leave the conversation open."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` has editing and a history once it is there

    messages = list(start)
    note(f"{request['model']} · Ctrl-D ends, /new starts over")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if question == "/new":
            messages = list(start)
        if not question or question == "/new":
            continue
        messages.append({"role": "user", "content": question})
        try:
            said = answer(cloud, {**request, "messages": messages})
        except KeyboardInterrupt:
            print()
            messages.pop()
        except CloudcrestError as error:
            note(str(error))
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": said})


def answer(cloud: Client, request: dict[str, Any]) -> str:
    """Prints one answer as it comes; returns it whole."""
    parts = []
    with cloud.stream("/v1/chat/completions", {**request, "stream": True}) as response:
        for part in deltas(response.iter_lines()):
            parts.append(part)
            show_text(part)
    show_text("\n")
    return "".join(parts)


def deltas(lines: Iterator[str]) -> Iterator[str]:
    """The pieces of text in a stream of server-sent events. Raises `EngineFault` for an error or an early end."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise EngineFault(str(event["error"].get("message", "the answer broke off")), hint="try again")
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                yield text
    raise EngineFault("the answer broke off", hint="try again")
