"""The pages of several workers as one."""

from pathlib import Path

from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.worker_metrics import WorkerMetrics, merge


def page(refusals: int) -> bytes:
    metrics = Metrics()
    metrics.responses[429] = refusals
    return metrics.render(refusals + 1)


def test_each_sample_says_whose_it_is_and_families_stay_together() -> None:
    lines = merge({1: page(5), 0: page(2)}).decode().splitlines()
    assert lines[:3] == [
        "# TYPE cloudcrest_gateway_connections gauge",
        'cloudcrest_gateway_connections{worker="0"} 3',
        'cloudcrest_gateway_connections{worker="1"} 6',
    ]
    assert 'cloudcrest_gateway_refusals_total{worker="1",status="429"} 5' in lines
    assert len([line for line in lines if line.startswith("#")]) == len({line for line in lines if line[0] == "#"})


def test_the_one_that_is_asked_is_fresh_and_the_others_are_as_they_left_it(tmp_path: Path) -> None:
    first, second = [WorkerMetrics(tmp_path / "metrics", worker=number, workers=3) for number in range(2)]
    first.publish(page(1))
    second.publish(page(7))
    second.publish(page(7))
    gathered = first.gather(page(2)).decode()
    assert 'refusals_total{worker="0",status="429"} 2' in gathered
    assert 'refusals_total{worker="1",status="429"} 7' in gathered
