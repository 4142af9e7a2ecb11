"""The replay that routing is measured with: on a few minutes of made conversations."""

import pytest
from bench.routing.policies import POLICIES
from bench.routing.replay import Run, jittered, replay, without_queues
from bench.routing.trace import make

TRACE = make("chats", 40.0)


@pytest.mark.parametrize("setting", ["base", "variant"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_served_and_no_policy_beats_the_bound(policy: str, setting: str) -> None:
    bound = without_queues(TRACE)
    outcome = replay(TRACE, Run(setting, policy, 4, 1.0, 0))
    assert 0 <= outcome.hit <= 1
    assert outcome.mean_seconds >= bound.mean_seconds
    assert outcome == replay(TRACE, Run(setting, policy, 4, 1.0, 0))


def test_jitter_keeps_every_request_and_the_order_of_time() -> None:
    jobs = jittered(TRACE, 2.0, 1)
    assert sorted(job.number for job in jobs) == list(range(len(TRACE)))
    assert [job.arrived_at for job in jobs] == sorted(job.arrived_at for job in jobs)
