"""The requests that are replayed: a public trace, or made here."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = "https://github.com/kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl (Apache-2.0)"
BLOCK_TOKENS = 512


class TraceRequest(NamedTuple):
    """A request: seconds since the start, tokens, and the hash ids of its 512-token blocks."""

    arrived_at: float
    input_tokens: int
    output_tokens: int
    blocks: list[int]


def load(path: Path) -> list[TraceRequest]:
    """A Mooncake trace: JSON lines of timestamp (ms), input_length, output_length, hash_ids; may be gzipped."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    return [
        TraceRequest(row["timestamp"] / 1000, row["input_length"], row["output_length"], row["hash_ids"])
        for row in rows
    ]


class _Blocks:
    """New block ids, and prompts of so many tokens over given first blocks."""

    def __init__(self) -> None:
        self._next = 0

    def make(self, count: int) -> list[int]:
        self._next += count
        return list(range(self._next - count, self._next))

    def extend(self, blocks: list[int], tokens: int) -> list[int]:
        return blocks + self.make(-(-tokens // BLOCK_TOKENS) - len(blocks))


def chats(rng: random.Random, seconds: float) -> Iterator[TraceRequest]:
    """Conversations of several turns under a few system prompts; a turn comes when the last has been read."""
    blocks = _Blocks()
    systems = [blocks.make(rng.randint(1, 8)) for _ in range(12)]
    at = 0.0
    while at < seconds:
        at += rng.expovariate(2.5)
        held = list(systems[min(int(rng.paretovariate(1.0)) - 1, 11)])
        turn_at, tokens = at, len(held) * BLOCK_TOKENS
        for _ in range(min(20, int(rng.paretovariate(1.1)))):
            tokens += int(rng.lognormvariate(6.8, 1.3)) + 16
            if tokens > 120_000:
                break
            held = blocks.extend(held, tokens)
            output = int(rng.lognormvariate(5.4, 0.8)) + 1
            yield TraceRequest(turn_at, tokens, output, held)
            tokens += output
            turn_at += 10 + output * 0.05 + rng.expovariate(1 / 45)
            # The last block was not full; what follows is another.
            held = held[:-1]


def documents(rng: random.Random, seconds: float) -> Iterator[TraceRequest]:
    """Questions about documents of 4,000 to 60,000 tokens, some of them popular."""
    blocks = _Blocks()
    made = [blocks.make(rng.randint(8, 120)) for _ in range(600)]
    weights = [1 / (rank + 1) ** 0.9 for rank in range(len(made))]
    at = 0.0
    while at < seconds:
        at += rng.expovariate(6.0)
        document = rng.choices(made, weights)[0]
        tokens = len(document) * BLOCK_TOKENS + rng.randint(20, 600)
        yield TraceRequest(at, tokens, int(rng.lognormvariate(4.5, 0.7)) + 1, blocks.extend(document, tokens))


def bursts(rng: random.Random, seconds: float) -> Iterator[TraceRequest]:
    """Programs that send many requests at once over one long prefix, among single requests that share nothing."""
    blocks = _Blocks()
    at = 0.0
    while at < seconds:
        at += rng.expovariate(1.4)
        shared = blocks.make(rng.randint(4, 40))
        for number in range(rng.randint(5, 40) if rng.random() < 0.1 else 1):
            tokens = len(shared) * BLOCK_TOKENS + rng.randint(20, 4_000)
            output = int(rng.lognormvariate(5.0, 1.0)) + 1
            yield TraceRequest(at + 0.05 * number, tokens, output, blocks.extend(shared, tokens))


MADE: dict[str, Callable[[random.Random, float], Iterator[TraceRequest]]] = {
    "chats": chats,
    "documents": documents,
    "bursts": bursts,
}


def make(name: str, seconds: float = 1_800.0) -> list[TraceRequest]:
    """A made workload, always the same, in order of arrival."""
    made = MADE[name](random.Random(name), seconds)
    return sorted((each for each in made if each.arrived_at < seconds), key=lambda each: each.arrived_at)
