"""Counters of one worker, in Prometheus' text format. Adding to one costs a dictionary access.

Labels are bounded: model names come from the routes and endpoints from a fixed list, never from what a caller wrote.
"""

from bisect import bisect_left
from collections import Counter

from cloudcrest.kernel.usage import UsageEvent

_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What a worker counts."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.responses: Counter[int] = Counter()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.resumes: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.first_token: dict[str, list[int]] = {}
        self.first_token_seconds: dict[str, float] = {}

    def count(self, event: UsageEvent) -> None:
        """Adds a served request."""
        model = event.model
        self.requests[model, event.endpoint, event.outcome] += 1
        self.tokens[model, "input"] += event.usage.input_tokens
        self.tokens[model, "output"] += event.usage.output_tokens
        if event.first_token_milliseconds is not None:
            seconds = event.first_token_milliseconds / 1000
            buckets = self.first_token.get(model)
            if buckets is None:
                buckets = self.first_token[model] = [0] * (len(_FIRST_TOKEN_SECONDS) + 1)
            buckets[bisect_left(_FIRST_TOKEN_SECONDS, seconds)] += 1
            self.first_token_seconds[model] = self.first_token_seconds.get(model, 0.0) + seconds

    def render(self, connections: int) -> bytes:
        """The page."""
        lines = [
            "# TYPE cloudcrest_gateway_connections gauge",
            f"cloudcrest_gateway_connections {connections}",
            "# TYPE cloudcrest_gateway_requests_in_flight gauge",
            f"cloudcrest_gateway_requests_in_flight {self.in_flight}",
            "# TYPE cloudcrest_gateway_refusals_total counter",
            *(f'cloudcrest_gateway_refusals_total{{status="{s}"}} {n}' for s, n in sorted(self.responses.items())),
            "# TYPE cloudcrest_gateway_requests_total counter",
            *(
                f'cloudcrest_gateway_requests_total{{model="{_label(m)}",endpoint="{e}",outcome="{o}"}} {n}'
                for (m, e, o), n in sorted(self.requests.items())
            ),
            "# TYPE cloudcrest_gateway_tokens_total counter",
            *(
                f'cloudcrest_gateway_tokens_total{{model="{_label(m)}",kind="{k}"}} {n}'
                for (m, k), n in sorted(self.tokens.items())
            ),
            "# TYPE cloudcrest_gateway_resumes_total counter",
            *(f'cloudcrest_gateway_resumes_total{{reason="{r}"}} {n}' for r, n in sorted(self.resumes.items())),
            "# TYPE cloudcrest_gateway_fallbacks_total counter",
            *(
                f'cloudcrest_gateway_fallbacks_total{{model="{_label(m)}"}} {n}'
                for m, n in sorted(self.fallbacks.items())
            ),
            "# TYPE cloudcrest_gateway_first_token_seconds histogram",
        ]
        for model, buckets in sorted(self.first_token.items()):
            lines += self._histogram(_label(model), buckets, self.first_token_seconds[model])
        return ("\n".join(lines) + "\n").encode()

    @staticmethod
    def _histogram(model: str, buckets: list[int], total_seconds: float) -> list[str]:
        name = "cloudcrest_gateway_first_token_seconds"
        lines = []
        count = 0
        for bound, number in zip([*map(str, _FIRST_TOKEN_SECONDS), "+Inf"], buckets, strict=True):
            count += number
            lines.append(f'{name}_bucket{{model="{model}",le="{bound}"}} {count}')
        return [*lines, f'{name}_sum{{model="{model}"}} {total_seconds}', f'{name}_count{{model="{model}"}} {count}']


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
