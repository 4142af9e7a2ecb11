"""An OpenAI-shaped server that answers with recorded steps, to stand behind an `upstream` deployment.

Command lines that drive a model send prompts of thousands of tokens, minutes of prefill on two cores. What is to be
tried is the way through the cloud, so the model's part is written down:

    with replay(Step(calls=[Call("Read", {"file_path": "notes.txt"})]), Step("The word is heliotrope.")) as engine:
        … an upstream deployment with engine_options {"base_url": engine.base_url} …
        assert engine.requests[1]["messages"][-1]["role"] == "tool"

Each request takes the first step that fits its last message and was not taken before.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "recorded"
_PIECE_CHARACTERS = 5


@dataclass(frozen=True)
class Call:
    """A tool call: the tool's name and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One answer: text, tool calls, or both.

    `when`: a pattern that is to be found in the text of the request's last message. `thought`: what the model says to
    itself before it answers. `repeats`: it may be taken again and again.
    """

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    when: str = ""
    thought: str = ""
    finish_reason: str = ""
    repeats: bool = False

    def fits(self, request: dict[str, Any]) -> bool:
        return re.search(self.when, text_of(request["messages"][-1])) is not None

    @property
    def reason(self) -> str:
        return self.finish_reason or ("tool_calls" if self.calls else "stop")


class Replay:
    """A running server. `requests`: the bodies it got, in order; `unanswered`: those that no step fitted."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.unanswered: list[dict[str, Any]] = []
        self.base_url = ""
        self._left = list(steps)
        self._lock = threading.Lock()

    def take(self, request: dict[str, Any]) -> Step | None:
        """The step that answers a request."""
        with self._lock:
            self.requests.append(request)
            step = next((step for step in self._left if step.fits(request)), None)
            if step is None:
                self.unanswered.append(request)
            elif not step.repeats:
                self._left.remove(step)
            return step


@contextlib.contextmanager
def replay(*steps: Step) -> Iterator[Replay]:
    """A server on a free port of this machine; its `base_url` is what an upstream deployment takes."""
    engine = Replay(steps)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Handler(engine, *args))
    server.daemon_threads = True
    engine.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def text_of(message: dict[str, Any]) -> str:
    """What a message says, its parts joined."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def answer_of(step: Step, request: dict[str, Any]) -> dict[str, Any]:
    """A whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": step.text or None}
    if step.thought:
        message["reasoning_content"] = step.thought
    if step.calls:
        message["tool_calls"] = [
            {"id": _call_id(step, at), "type": "function", "function": {"name": call.name, "arguments": _text(call)}}
            for at, call in enumerate(step.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": step.reason}
    return {**_base("chat.completion"), "choices": [choice], "usage": usage_of(step, request)}


def chunks_of(step: Step, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same as a stream: the role, the thought, the text, each call by its name and then in pieces, the end."""

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**_base("chat.completion.chunk"), "choices": [choice]}

    yield chunk({"role": "assistant", "content": None})
    for piece in _pieces(step.thought):
        yield chunk({"reasoning_content": piece})
    for piece in _pieces(step.text):
        yield chunk({"content": piece})
    for at, call in enumerate(step.calls):
        function = {"name": call.name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": at, "id": _call_id(step, at), "type": "function", "function": function}]})
        for piece in _pieces(_text(call)):
            yield chunk({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    yield chunk({}, step.reason)
    yield {**_base("chat.completion.chunk"), "choices": [], "usage": usage_of(step, request)}


def usage_of(step: Step, request: dict[str, Any]) -> dict[str, Any]:
    """Tokens as if four characters made one; half of a long prompt was in the cache."""
    prompt = len(json.dumps(request.get("messages", ""))) // 4 + len(json.dumps(request.get("tools", ""))) // 4
    said = step.thought + step.text + "".join(_text(call) for call in step.calls)
    completion = len(said) // 4 + 1
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
    }


def _base(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-recorded", "object": kind, "created": 1_700_000_000, "model": MODEL}


def _call_id(step: Step, at: int) -> str:
    """The same wherever the step is answered, and no other step's."""
    return f"call_{abs(hash((step.text, *(_text(call) for call in step.calls), at))):x}"


def _text(call: Call) -> str:
    return json.dumps(call.arguments)


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield text[start : start + _PIECE_CHARACTERS]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, engine: Replay, *args: Any) -> None:
        self._engine = engine
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        step = self._engine.take(request)
        if step is None:
            said = text_of(request["messages"][-1])[:200]
            self._answer(400, {"error": {"message": f"no step fits: {said}", "type": "invalid_request_error"}})
        elif not request.get("stream"):
            self._answer(200, answer_of(step, request))
        else:
            events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks_of(step, request)]
            self._stream([*events, b"data: [DONE]\n\n"])

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self._head(status, "application/json", {"content-length": str(len(body))})
        self.wfile.write(body)

    def _stream(self, events: list[bytes]) -> None:
        self._head(200, "text/event-stream", {"transfer-encoding": "chunked"})
        for event in events:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": content_type, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
