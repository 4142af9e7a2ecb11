"""Counters of one worker, in Prometheus' text format. Adding to one costs a dictionary access at most.

Labels are bounded: model names come from the routes and endpoints from a fixed list, never from what a caller wrote.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from cloudcrest.kernel.usage import Outcome, Usage

_FIRST_TOKEN_MILLISECONDS: Final[tuple[int, ...]] = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
_BUCKETS: Final = bytes(bisect_left(_FIRST_TOKEN_MILLISECONDS, milliseconds) for milliseconds in range(5_001))
"""Where most of them belong, looked up."""


class Served:
    """What was served of one model. `tokens` are parts of the input, `units` what is not counted in tokens."""

    __slots__ = (
        "first_token", "first_token_milliseconds", "input_tokens", "output_tokens", "requests", "tokens", "units",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: dict[str, dict[Outcome, int]] = {}
        """By endpoint."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.tokens: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.first_token = [0] * (len(_FIRST_TOKEN_MILLISECONDS) + 1)
        self.first_token_milliseconds = 0

    def count(self, endpoint: str, outcome: Outcome, usage: Usage, first_token_milliseconds: int | None) -> None:
        """Adds a served request."""
        self.count_tokens(endpoint, outcome, usage.input_tokens, usage.output_tokens, first_token_milliseconds)
        self.tokens["cached_input"] += usage.cached_input_tokens
        self.tokens["cache_write"] += usage.cache_write_tokens
        self.units["characters"] += usage.characters
        self.units["audio_milliseconds"] += usage.audio_milliseconds
        self.units["images"] += usage.images

    def count_tokens(
        self,
        endpoint: str,
        outcome: Outcome,
        input_tokens: int,
        output_tokens: int,
        first_token_milliseconds: int | None,
    ) -> None:
        """The same of one that used tokens alone, none of them from a cache."""
        ends = self.requests.get(endpoint)
        if ends is None:
            ends = self.requests[endpoint] = {}
        ends[outcome] = ends.get(outcome, 0) + 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        milliseconds = first_token_milliseconds
        if milliseconds is not None:
            if 0 <= milliseconds < len(_BUCKETS):
                bucket = _BUCKETS[milliseconds]
            else:
                bucket = bisect_left(_FIRST_TOKEN_MILLISECONDS, milliseconds)
            self.first_token[bucket] += 1
            self.first_token_milliseconds += milliseconds


class Metrics:
    """What a worker counts."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.responses: Counter[int] = Counter()
        self.resumes: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.guardrails: Counter[tuple[str, str, str]] = Counter()
        self._served: dict[str, Served] = {}

    def of(self, model: str) -> Served:
        """What is served of a model: its counters, made with its first request."""
        served = self._served.get(model)
        if served is None:
            served = self._served[model] = Served()
        return served

    def render(self, connections: int) -> bytes:
        """The page."""
        served = [(_label(model), of_model) for model, of_model in sorted(self._served.items())]
        lines = [
            "# TYPE cloudcrest_gateway_connections gauge",
            f"cloudcrest_gateway_connections {connections}",
            "# TYPE cloudcrest_gateway_requests_in_flight gauge",
            f"cloudcrest_gateway_requests_in_flight {self.in_flight}",
            "# TYPE cloudcrest_gateway_refusals_total counter",
            *(f'cloudcrest_gateway_refusals_total{{status="{s}"}} {n}' for s, n in sorted(self.responses.items())),
            "# TYPE cloudcrest_gateway_requests_total counter",
            *(
                f'cloudcrest_gateway_requests_total{{model="{m}",endpoint="{e}",outcome="{o}"}} {n}'
                for m, of_model in served
                for e, ends in sorted(of_model.requests.items())
                for o, n in sorted(ends.items())
            ),
            "# TYPE cloudcrest_gateway_tokens_total counter",
            *(
                f'cloudcrest_gateway_tokens_total{{model="{m}",kind="{k}"}} {n}'
                for m, of_model in served
                for k, n in (
                    ("input", of_model.input_tokens),
                    ("output", of_model.output_tokens),
                    *((kind, count) for kind, count in of_model.tokens.items() if count),
                )
            ),
            "# TYPE cloudcrest_gateway_units_total counter",
            *(
                f'cloudcrest_gateway_units_total{{model="{m}",kind="{k}"}} {n}'
                for m, of_model in served
                for k, n in sorted(of_model.units.items())
                if n
            ),
            "# TYPE cloudcrest_gateway_resumes_total counter",
            *(f'cloudcrest_gateway_resumes_total{{reason="{r}"}} {n}' for r, n in sorted(self.resumes.items())),
            "# TYPE cloudcrest_gateway_fallbacks_total counter",
            *(
                f'cloudcrest_gateway_fallbacks_total{{model="{_label(m)}"}} {n}'
                for m, n in sorted(self.fallbacks.items())
            ),
            "# TYPE cloudcrest_gateway_waits_total counter",
            *(f'cloudcrest_gateway_waits_total{{outcome="{o}"}} {n}' for o, n in sorted(self.waits.items())),
            "# TYPE cloudcrest_gateway_guardrails_total counter",
            *(
                f'cloudcrest_gateway_guardrails_total{{stage="{s}",kind="{k}",action="{a}"}} {n}'
                for (s, k, a), n in sorted(self.guardrails.items())
            ),
            "# TYPE cloudcrest_gateway_first_token_seconds histogram",
        ]
        for model, of_model in served:
            lines += self._histogram(model, of_model.first_token, of_model.first_token_milliseconds)
        return ("\n".join(lines) + "\n").encode()

    @staticmethod
    def _histogram(model: str, buckets: list[int], total_milliseconds: int) -> list[str]:
        name = "cloudcrest_gateway_first_token_seconds"
        bounds = [*(str(bound / 1000) for bound in _FIRST_TOKEN_MILLISECONDS), "+Inf"]
        lines = []
        count = 0
        for bound, number in zip(bounds, buckets, strict=True):
            count += number
            lines.append(f'{name}_bucket{{model="{model}",le="{bound}"}} {count}')
        return [
            *lines,
            f'{name}_sum{{model="{model}"}} {total_milliseconds / 1000}',
            f'{name}_count{{model="{model}"}} {count}',
        ]


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
