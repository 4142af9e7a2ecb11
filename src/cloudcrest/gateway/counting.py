"""Counting tokens after the fact: when a client left or an engine died, the engine's own count was never sent.

What was relayed is kept, bounded; its text is counted with the engine's tokenizer, off the hot path. Chunks are not
tokens, so where no tokenizer can be asked the event says that it is an estimate.
"""

import asyncio

import msgspec
import structlog

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.client import fetch
from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.parsed import BYTES_PER_TOKEN, Parsed
from cloudcrest.gateway.snapshot import Route
from cloudcrest.gateway.validate import build
from cloudcrest.kernel.errors import EngineFault
from cloudcrest.kernel.usage import Outcome, Usage
from cloudcrest.serving.api import RouteDocument

MAX_JOBS = 1_000
MAX_AT_ONCE = 4
MAX_ASKED = 3
"""Replicas that are asked to count one answer before it is estimated."""
TIMEOUT_SECONDS = 10.0
_TEMPLATE_FIELDS = ("messages", "tools", "tool_choice", "response_format")
TOKENIZERS = ("llamacpp", "vllm", "simulated")
_log = structlog.get_logger(__name__)


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw] = []
    count: int | None = None


class _TokenNumbers(msgspec.Struct):
    tokens: list[int]


def estimated_output_tokens(answer: bytes) -> int:
    """A guess at a whole answer's tokens, from its size."""
    return len(answer) // BYTES_PER_TOKEN + 1


class CountJob(msgspec.Struct):
    """What is to be counted. `known`: what finished parts of it reported; `counts_input` False: it is in there."""

    account: Account
    outcome: Outcome
    route: Route
    parsed: Parsed
    texts: list[Kept]
    relayed_events: int
    known: Usage = Usage(0, 0)
    counts_input: bool = True

    def estimate(self) -> Usage:
        """Without a tokenizer: about a token for each event."""
        return Usage(
            self.known.input_tokens + (self.parsed.estimated_input_tokens() if self.counts_input else 0),
            self.known.output_tokens + self.relayed_events,
            self.known.cached_input_tokens,
            self.known.reasoning_tokens,
            is_estimate=True,
        )


class Counting:
    """Counts jobs, a few at a time. What cannot be counted in time is estimated; nothing is ever dropped."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._jobs: dict[int, CountJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)

    def submit(self, job: CountJob) -> None:
        """Ends the job's account, now or soon."""
        can_count = job.route.document.engine in TOKENIZERS and job.parsed.is_text
        if not can_count or len(self._jobs) >= MAX_JOBS:
            job.account.end(job.outcome, job.estimate())
            return
        job.account.mark(job.known.output_tokens + job.relayed_events)  # should this process die before it is counted
        self._jobs[id(job)] = job
        task = self._calls.spawn(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_seconds: float) -> None:
        """Waits for what is being counted, then estimates the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        if self._jobs:
            _log.warning("counting_cut_short", jobs=len(self._jobs))
        for job in list(self._jobs.values()):
            job.account.end(job.outcome, job.estimate())

    async def _run(self, job: CountJob) -> None:
        usage = job.estimate()
        try:
            async with self._turns:
                usage = await self._count(job)
        except (OSError, EngineFault, ValueError, RecursionError) as error:  # the last two: its answer cannot be read
            _log.warning("tokens_estimated", id=job.account.id, error=str(error))
        finally:  # whatever goes wrong, what was used is charged
            self._jobs.pop(id(job), None)
            job.account.end(job.outcome, usage)

    async def _count(self, job: CountJob) -> Usage:
        """Asks the replica that served it, and others where that one is dead: they have the same tokenizer."""
        failure: Exception = EngineFault("no replica is left to count with")
        replicas = sorted(
            [*job.route.replicas, *job.route.leaving], key=lambda replica: replica.name != job.account.replica_id
        )
        for replica in replicas[:MAX_ASKED]:
            try:
                return await self._count_at(replica, job)
            except (OSError, EngineFault) as error:
                failure = error
        raise failure

    async def _count_at(self, replica: Upstream, job: CountJob) -> Usage:
        document = job.route.document
        input_tokens = await count_input(replica, document, job.parsed) if job.counts_input else 0
        output_tokens = 0
        for kept in job.texts:
            text = kept.text()
            if text:
                output_tokens += _count_of(await _tokenize(replica, document.engine, text, is_prompt=False))
        return Usage(
            job.known.input_tokens + input_tokens,
            job.known.output_tokens + output_tokens,
            job.known.cached_input_tokens,
            job.known.reasoning_tokens,
        )


async def count_input(replica: Upstream, route: RouteDocument, parsed: Parsed) -> int:
    """The tokens of a request's prompt, by the replica's tokenizer. Raises `OSError`, `EngineFault`, `ValueError`."""
    engine = route.engine
    if parsed.kind is not ChatBody:
        return sum([await _count_prompt(replica, engine, prompt) for prompt in parsed.prompts])
    fields = {name: parsed.fields[name] for name in _TEMPLATE_FIELDS if name in parsed.fields}
    if engine == "vllm":
        fields["model"] = msgspec.json.encode(route.model_name)
        fields.pop("response_format", None)
        fields.pop("tool_choice", None)
        return _count_of(await _post(replica, "/tokenize", build(fields)))
    answer = msgspec.json.decode(await _post(replica, "/apply-template", build(fields)), type=_Prompt)
    return _count_of(await _tokenize(replica, engine, answer.prompt, is_prompt=True))


async def text_tokens(replica: Upstream, engine: str, text: str) -> list[int]:
    """The tokens of generated text. Raises as `count_input` does."""
    return msgspec.json.decode(await _tokenize(replica, engine, text, is_prompt=False), type=_TokenNumbers).tokens


async def _count_prompt(replica: Upstream, engine: str, prompt: bytes) -> int:
    value = msgspec.json.decode(prompt)
    if isinstance(value, list):
        return len(value)
    return _count_of(await _tokenize(replica, engine, value, is_prompt=True))


async def _tokenize(replica: Upstream, engine: str, text: str, *, is_prompt: bool) -> bytes:
    if engine == "vllm":
        return await _post(replica, "/tokenize", _json({"prompt": text, "add_special_tokens": is_prompt}))
    question = {"content": text, "add_special": is_prompt, "parse_special": is_prompt}
    return await _post(replica, "/tokenize", _json(question))


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _count_of(answer: bytes) -> int:
    tokens = msgspec.json.decode(answer, type=_Tokens)
    return tokens.count if tokens.count is not None else len(tokens.tokens)


async def _post(replica: Upstream, path: str, body: bytes) -> bytes:
    status, answer = await fetch(replica, path, body, TIMEOUT_SECONDS)
    if status != 200:
        raise EngineFault(f"{path} answered {status}")
    return answer
