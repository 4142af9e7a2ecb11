"""The measurements, each of one target for a few seconds; rounds interleave them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.machine import LOAD_CORE, cpu_seconds, pinned
from bench.gateway.stage import Target

BIG_PROMPT_BYTES = 32 * 1024
LATENCY_RATE = 100
LATENCY_CONNECTIONS = 20


@dataclass(frozen=True)
class Load:
    """What the generator saw, and the processor time the target took meanwhile."""

    answered: int
    errors: int
    seconds: float
    samples: int
    p50_us: float
    p99_us: float
    cpu_seconds: float

    @property
    def per_cpu_second(self) -> float:
        """Answers per second of the target's processor time."""
        return self.answered / self.cpu_seconds if self.cpu_seconds else 0.0


class Generator:
    """The load generator on its core."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._request = folder / "request"

    def saturate(self, target: Target, connections: int, seconds: float, *, padding_bytes: int = 0) -> Load:
        """As many requests as go through."""
        return self._run(target, target.request(padding_bytes=padding_bytes), "closed", connections, seconds)

    def pace(self, target: Target, seconds: float) -> Load:
        """Requests at an even 100 a second; for latencies."""
        return self._run(target, target.request(), "rate", LATENCY_CONNECTIONS, seconds, str(LATENCY_RATE))

    def stream(self, target: Target, streams: int, rounds: int) -> Load:
        """Streams at the upstream's pace; `samples` counts the events that arrived."""
        return self._run(target, target.request(is_stream=True), "stream", streams, rounds)

    def _run(self, target: Target, request: bytes, mode: str, connections: int, amount: float, *more: str) -> Load:
        self._request.write_bytes(request)
        argv = pinned(
            LOAD_CORE, self._program, mode, str(target.port), str(connections), str(amount), self._request, *more
        )
        before = cpu_seconds(target.pid) if target.pid else 0.0
        printed = subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=amount + 120)
        spent = cpu_seconds(target.pid) - before if target.pid else 0.0
        return Load(**json.loads(printed.stdout), cpu_seconds=spent)
