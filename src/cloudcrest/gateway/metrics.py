"""Counters of one worker, in Prometheus' text format. Adding to one costs a dictionary access.

Labels are bounded: model names come from the routes and endpoints from a fixed list, never from what a caller wrote.
"""

from bisect import bisect_left
from collections import Counter

from cloudcrest.kernel.usage import UsageEvent

_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Served:
    """What was served of one model. `tokens` are parts of the input, `units` what is not counted in tokens."""

    __slots__ = ("first_token", "first_token_seconds", "input_tokens", "output_tokens", "requests", "tokens", "units")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        self.input_tokens = 0
        self.output_tokens = 0
        self.tokens: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.first_token = [0] * (len(_FIRST_TOKEN_SECONDS) + 1)
        self.first_token_seconds = 0.0


class Metrics:
    """What a worker counts."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.responses: Counter[int] = Counter()
        self.resumes: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.guardrails: Counter[tuple[str, str, str]] = Counter()
        self._served: dict[str, _Served] = {}

    def count(self, event: UsageEvent) -> None:
        """Adds a served request."""
        served = self._served.get(event.model)
        if served is None:
            served = self._served[event.model] = _Served()
        end = event.endpoint, event.outcome
        served.requests[end] = served.requests.get(end, 0) + 1
        usage = event.usage
        served.input_tokens += usage.input_tokens
        served.output_tokens += usage.output_tokens
        if usage.cached_input_tokens or usage.cache_write_tokens:
            served.tokens["cached_input"] += usage.cached_input_tokens
            served.tokens["cache_write"] += usage.cache_write_tokens
        if usage.characters or usage.audio_milliseconds or usage.images:
            served.units["characters"] += usage.characters
            served.units["audio_milliseconds"] += usage.audio_milliseconds
            served.units["images"] += usage.images
        if event.first_token_milliseconds is not None:
            seconds = event.first_token_milliseconds / 1000
            served.first_token[bisect_left(_FIRST_TOKEN_SECONDS, seconds)] += 1
            served.first_token_seconds += seconds

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
                for (e, o), n in sorted(of_model.requests.items())
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
            lines += self._histogram(model, of_model.first_token, of_model.first_token_seconds)
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
