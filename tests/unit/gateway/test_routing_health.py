"""Ejection, readmission and warming up."""

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.routing.health import Health, HealthRules, ejected, is_ejected, to_eject, warmth

RULES = HealthRules()
healths = st.lists(
    st.builds(
        Health,
        failures_in_a_row=st.integers(0, 9),
        slow_samples=st.integers(0, 40),
        ejected_until=st.sampled_from([0.0, 150.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(healths=healths, slowness=st.lists(st.floats(0.1, 50), min_size=12, max_size=12))
def test_no_more_than_the_share_is_ever_out(healths: list[Health], slowness: list[float]) -> None:
    out = {index for index, health in enumerate(healths) if is_ejected(health, 100.0)}
    chosen = to_eject(healths, slowness[: len(healths)], 100.0, RULES)
    assert not out & set(chosen)
    if chosen:
        assert len(out) + len(chosen) <= len(healths) * RULES.max_ejected_share
    for index in chosen:
        is_failing = healths[index].failures_in_a_row >= RULES.failures_in_a_row
        assert is_failing or healths[index].slow_samples >= RULES.slow_samples


def test_one_that_fails_and_one_that_lags_are_found_and_a_pair_keeps_one() -> None:
    fleet = [Health(slow_samples=30) for _ in range(6)]
    fleet[2].failures_in_a_row = 5
    assert to_eject(fleet, [1, 1, 1, 1, 9, 1], 0.0, RULES) == [2, 4]
    assert to_eject([Health(failures_in_a_row=9), Health(failures_in_a_row=9)], [1, 1], 0.0, RULES) == [0]
    assert to_eject([Health(failures_in_a_row=9)], [1], 0.0, RULES) == []


def test_each_ejection_lasts_longer_until_it_has_behaved_for_long() -> None:
    first = ejected(Health(), 100.0, RULES)
    again = ejected(first, 111.0, RULES)
    assert (first.ejected_until, again.ejected_until) == (110.0, 131.0)
    assert ejected(again, 131.0 + RULES.max_ejection_seconds + 1, RULES).ejections == 1


def test_a_new_replica_warms_up() -> None:
    health = Health(since=10.0)
    values = [warmth(health, now, RULES) for now in (10.0, 25.0, 40.0, 99.0)]
    assert values == [5.0, 3.0, 1.0, 1.0]
