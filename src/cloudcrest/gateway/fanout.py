"""Several choices from an engine that counts only one: a request for each, merged into one answer with the right usage.

llama.cpp reports the usage of one choice whatever `n` is. So n choices become n requests with n = 1 and seeds seed + i.
The prompt is charged once, as everywhere; a list of prompts is handled in the same way. These streams are read chunk by
chunk, because index and id change: the price of the translation.
"""

from abc import ABC, abstractmethod
from typing import Any

import msgspec

from cloudcrest.gateway.call import Call
from cloudcrest.gateway.counting import CountJob, estimated_output_tokens
from cloudcrest.gateway.deadline import deadline_passed, refuse
from cloudcrest.gateway.errors import engine_error
from cloudcrest.gateway.fields import TEXT_BODIES
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.parts import MAX_ENGINE_ERROR_BYTES, Parts
from cloudcrest.gateway.resume import GREEDY_TEMPERATURE
from cloudcrest.gateway.resume_rewrite import usage_object
from cloudcrest.gateway.sse import StreamScanner, event_data, usage_in_answer
from cloudcrest.gateway.validate import build
from cloudcrest.kernel.errors import CloudcrestError, EngineFault
from cloudcrest.kernel.usage import Outcome, Usage

_decode = msgspec.json.decode
_encode = msgspec.json.encode
_FINISHED = b"data: [DONE]\n\n"


def needs_fanout(parsed: Parsed, engine: str) -> bool:
    """Whether the engine must not be left to make several choices by itself: it counts one, or refuses them."""
    if engine == "vllm":  # it makes no several choices without chance in them
        body = parsed.body
        temperature = body.temperature if isinstance(body, TEXT_BODIES) else None
        return parsed.choices > 1 and temperature is not None and temperature < GREEDY_TEMPERATURE
    return parsed.choices * max(1, len(parsed.prompts)) > 1 and engine in ("llamacpp", "simulated")


def split(parsed: Parsed, fields: dict[str, bytes]) -> list[bytes]:
    """The bodies of the single requests, prompt by prompt, in the order of their index."""
    seed = parsed.fields.get("seed", b"null")
    bodies = []
    for prompt in parsed.prompts or (None,):
        for index in range(parsed.choices):
            single = {name: raw for name, raw in fields.items() if name != "n"}
            if prompt is not None:
                single["prompt"] = prompt
            if seed != b"null":
                single["seed"] = b"%d" % (int(seed) + index)
            bodies.append(build(single))
    return bodies


def merged_usage(usages: list[Usage], choices: int) -> Usage:
    """Of requests for one prompt each, `choices` to a prompt: each prompt once, every choice's output."""
    firsts = usages[::choices]
    return Usage(
        sum(usage.input_tokens for usage in firsts),
        sum(usage.output_tokens for usage in usages),
        sum(usage.cached_input_tokens for usage in firsts),
        sum(usage.reasoning_tokens for usage in usages),
        is_estimate=any(usage.is_estimate for usage in usages),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in firsts),
    )


class _Branch:
    """One of the single requests."""

    def __init__(self, parent: "Fanout", index: int, body: bytes, parts: Parts) -> None:
        self._parent = parent
        self.index = index
        self.status = 0
        self.body = bytearray()
        self.usage: Usage | None = None
        self.is_done = False
        self.scanner = StreamScanner(passes_usage=False)
        self._role_events = min(1, parts.parsed.role_events)
        self.kept = Kept(parts.calls.settings.max_kept_bytes)
        self.call = Call(
            parts.calls,
            parts.route,
            self,
            path=parts.parsed.endpoint,
            body=body,
            is_stream=parts.parsed.is_stream,
            request_id=parts.account.id,
            waits=parts.may_wait,
        )

    def relayed_tokens(self) -> int:
        """About one for each event after the one that only names the role."""
        return max(0, self.scanner.events - self._role_events)

    def call_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # engines' headers are not passed on
        self.status = status

    def call_data(self, data: bytes) -> None:
        if self.status == 200:
            self._parent.branch_data(self, data)
        elif len(self.body) < MAX_ENGINE_ERROR_BYTES:
            self.body += data

    def call_end(self) -> None:
        self.is_done = True
        if self.status == 200:
            self._parent.branch_end(self)
        else:
            self._parent.branch_failed(self._parent.meaning(self.status, bytes(self.body)))

    def call_answer(self, body: bytes) -> None:
        self.call_head(200, b"")
        self.call_data(body)
        self.call_end()

    def call_restarted(self) -> None:
        self.body.clear()
        self.scanner = StreamScanner(passes_usage=False)

    def call_failed(self, error: CloudcrestError) -> None:
        self.is_done = True
        self._parent.branch_failed(error)

    def call_leaving(self) -> None:
        """Several choices are not carried on; nor is one of them begun again beside the others."""

    def call_tick(self) -> None:
        self._parent.mark()


class Fanout(ABC):
    """What plain and streamed answers have in common. The first failure ends them all."""

    def __init__(self, parts: Parts, fields: dict[str, bytes]) -> None:
        self._parts = parts
        self._branches = [_Branch(self, index, body, parts) for index, body in enumerate(split(parts.parsed, fields))]
        self._is_done = False
        self._has_begun = False

    def start(self) -> None:
        """Opens the account and sends every request. Raises `Unavailable`: no replica, or no spool."""
        parts = self._parts
        replicas = [branch.call.pick() for branch in self._branches]
        parts.account.open(replicas[0].name, Usage(parts.parsed.estimated_input_tokens(), 0, is_estimate=True))
        for branch in self._branches:
            branch.call.start()

    def client_gone(self) -> None:
        self._stop()
        self._count("cancelled")

    def deadline_passed(self) -> None:
        self._stop()
        self._count("timed_out")
        parts = self._parts
        if self._has_begun:
            parts.end_in_error(deadline_passed(parts.request))
        else:
            refuse(parts.connection, parts.request)

    def client_paused(self) -> None:
        for branch in self._branches:
            branch.call.pause()

    def client_resumed(self) -> None:
        for branch in self._branches:
            branch.call.resume()

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    def mark(self) -> None:
        if self._has_begun:
            self._parts.account.mark(sum(branch.relayed_tokens() for branch in self._branches))

    def meaning(self, status: int, body: bytes) -> CloudcrestError:
        """What an engine's error means to the caller."""
        return engine_error(status, body, input_field=self._parts.parsed.input_field)

    @abstractmethod
    def branch_data(self, branch: _Branch, data: bytes) -> None: ...

    @abstractmethod
    def branch_end(self, branch: _Branch) -> None: ...

    def branch_failed(self, error: CloudcrestError) -> None:
        """Before the first byte an error of its own; after it an event in the stream."""
        if self._is_done:
            return
        self._stop()
        if not self._has_begun:
            self._parts.refuse(error)
            return
        self._count("engine_error")
        self._parts.end_in_error(error)

    def _stop(self) -> None:
        self._is_done = True
        for branch in self._branches:
            if not branch.is_done:
                branch.call.abort()

    def _count(self, outcome: Outcome) -> None:
        """What finished has the engine's own count; the rest is counted from what was relayed."""
        parts, branches = self._parts, self._branches
        known = [branch.usage for branch in branches if branch.usage is not None]
        has_input = parts.parsed.choices == len(branches) and bool(known)
        open_branches = [branch for branch in branches if branch.usage is None]
        events = sum(branch.relayed_tokens() for branch in open_branches)
        output_tokens = sum(usage.output_tokens for usage in known)
        parts.account.release(parts.parsed.estimated_input_tokens() + output_tokens + events)
        parts.counting.submit(
            CountJob(
                account=parts.account,
                outcome=outcome,
                route=parts.route,
                parsed=parts.parsed,
                texts=[branch.kept for branch in open_branches],
                relayed_events=events,
                known=Usage(known[0].input_tokens if has_input else 0, output_tokens),
                counts_input=not has_input,
            )
        )

    def _usage(self) -> Usage:
        none = Usage(0, 0, is_estimate=True)
        usages = [branch.usage or none for branch in self._branches]
        return merged_usage(usages, self._parts.parsed.choices)


class PlainFanout(Fanout):
    """The answers gathered and merged into one."""

    def branch_data(self, branch: _Branch, data: bytes) -> None:
        branch.body += data
        if len(branch.body) > self._parts.calls.settings.max_answer_bytes // len(self._branches):
            self.branch_failed(EngineFault("the model's answer is too large"))

    def branch_end(self, branch: _Branch) -> None:
        body = bytes(branch.body)
        estimate = Usage(self._parts.parsed.estimated_input_tokens(), estimated_output_tokens(body), is_estimate=True)
        branch.usage = usage_in_answer(body) or estimate
        if not all(other.is_done for other in self._branches):
            return
        try:
            answer = self._merge()
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            self.branch_failed(EngineFault("the model's engine gave an answer that is no completion"))
            return
        self._is_done = True
        parts = self._parts
        parts.account.first_token()
        parts.account.end("completed", self._usage())
        parts.answer(answer)

    def _merge(self) -> bytes:
        answers = [_decode(bytes(branch.body)) for branch in self._branches]
        merged = answers[0]
        merged["choices"] = [{**answer["choices"][0], "index": index} for index, answer in enumerate(answers)]
        merged["usage"] = usage_object(self._usage())
        merged.pop("timings", None)
        return _encode(merged)


class StreamFanout(Fanout):
    """The streams interleaved as they come, under the first one's id."""

    def __init__(self, parts: Parts, fields: dict[str, bytes]) -> None:
        super().__init__(parts, fields)
        self._common: dict[str, Any] = {}

    def branch_data(self, branch: _Branch, data: bytes) -> None:
        events = branch.scanner.feed(data)
        branch.usage = branch.scanner.usage
        if branch.scanner.error is not None:
            self.branch_failed(self.meaning(500, branch.scanner.error))
        elif events:
            self._relay(branch, events)

    def branch_end(self, branch: _Branch) -> None:
        if branch.usage is None:
            if not branch.scanner.is_finished:
                self.branch_failed(EngineFault("the model's engine ended the stream early"))
                return
            tokens = branch.relayed_tokens()
            branch.usage = Usage(self._parts.parsed.estimated_input_tokens(), tokens, is_estimate=True)
        if not all(other.is_done for other in self._branches):
            return
        self._is_done = True
        usage = self._usage()
        self._parts.account.end("completed", usage)
        if not self._has_begun:
            self._begin()
        last = b""
        if self._parts.parsed.wants_usage:
            last = b"data: " + _encode({**self._common, "choices": [], "usage": usage_object(usage)}) + b"\n\n"
        self._parts.write(last + _FINISHED)
        self._parts.finish_stream()

    def _relay(self, branch: _Branch, events: bytes) -> None:
        rewritten: list[bytes] = []
        for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
            data = event_data(event)
            if not data.startswith(b"{"):
                continue
            try:
                document = _decode(data)
                for choice in document["choices"]:
                    choice["index"] = branch.index
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if not self._common:
                self._common = {
                    name: document[name] for name in ("id", "object", "created", "model") if name in document
                }
            document |= self._common
            document.pop("timings", None)
            document.pop("usage", None)  # llama.cpp's completions end with it beside the choice: it is one choice's
            rewritten.append(b"data: " + _encode(document) + b"\n\n")
        if not rewritten:
            return
        if not self._has_begun:
            self._begin()
        branch.call.is_repeatable = False
        branch.kept.add(events)
        self._parts.write(b"".join(rewritten))
        if self._parts.is_over:
            self._stop()
            self._count("completed")
            self._parts.finish_stream()

    def _begin(self) -> None:
        self._has_begun = True
        self._parts.account.first_token()
        self._parts.begin_stream()
