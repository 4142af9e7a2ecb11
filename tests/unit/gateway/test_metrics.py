"""What a worker counts, as Prometheus reads it."""

import msgspec

from cloudcrest.gateway.metrics import Metrics
from cloudcrest.kernel.usage import Usage, UsageEvent
from tests.unit.metering.events import usage_event


def count(metrics: Metrics, event: UsageEvent) -> None:
    metrics.of(event.model).count(event.endpoint, event.outcome, event.usage, event.first_token_milliseconds)


def test_what_was_served_is_counted_by_model_endpoint_and_outcome() -> None:
    metrics = Metrics()
    for number, seconds in enumerate((0.04, 0.2, 40)):
        event = usage_event(number, model="m", usage=Usage(3, 4))
        count(metrics, msgspec.structs.replace(event, first_token_milliseconds=round(seconds * 1000)))
    gone = usage_event(4, model='say "m"', usage=Usage(5, 0))
    count(metrics, msgspec.structs.replace(gone, outcome="cancelled", first_token_milliseconds=None))
    others = Usage(90, 1, 70, 0, cache_write_tokens=15, characters=42, audio_milliseconds=1500, images=2)
    count(metrics, usage_event(5, model="n", usage=others))
    lines = metrics.render(2).decode().splitlines()
    chat = 'endpoint="/v1/chat/completions"'
    for line in (
        f'cloudcrest_gateway_requests_total{{model="m",{chat},outcome="completed"}} 3',
        f'cloudcrest_gateway_requests_total{{model="say \\"m\\"",{chat},outcome="cancelled"}} 1',
        'cloudcrest_gateway_tokens_total{model="m",kind="input"} 9',
        'cloudcrest_gateway_tokens_total{model="m",kind="output"} 12',
        'cloudcrest_gateway_tokens_total{model="n",kind="input"} 90',
        'cloudcrest_gateway_tokens_total{model="n",kind="cached_input"} 70',
        'cloudcrest_gateway_tokens_total{model="n",kind="cache_write"} 15',
        'cloudcrest_gateway_units_total{model="n",kind="characters"} 42',
        'cloudcrest_gateway_units_total{model="n",kind="audio_milliseconds"} 1500',
        'cloudcrest_gateway_units_total{model="n",kind="images"} 2',
        'cloudcrest_gateway_first_token_seconds_bucket{model="m",le="0.05"} 1',
        'cloudcrest_gateway_first_token_seconds_bucket{model="m",le="0.25"} 2',
        'cloudcrest_gateway_first_token_seconds_bucket{model="m",le="30.0"} 2',
        'cloudcrest_gateway_first_token_seconds_bucket{model="m",le="+Inf"} 3',
        'cloudcrest_gateway_first_token_seconds_sum{model="m"} 40.24',
        'cloudcrest_gateway_first_token_seconds_count{model="m"} 3',
        'cloudcrest_gateway_first_token_seconds_count{model="say \\"m\\""} 0',
    ):
        assert line in lines
