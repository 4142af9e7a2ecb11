"""No one project holds every place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.kernel.places import Places, next_in_turn


def test_a_project_that_has_its_places_leaves_the_rest_to_others() -> None:
    places = Places(3, 2)
    with places.held("a"), places.held("a"):
        assert not places.is_free("a")
        assert places.is_free("b")
        with places.held("b"):
            assert not places.is_free("c")
    assert places.is_free("a")


def test_a_place_comes_back_when_what_held_it_fails() -> None:
    places = Places(1, 1)
    with pytest.raises(OSError, match="disk"), places.held("a"):
        raise OSError("disk")
    assert places.is_free("a")


def test_a_project_with_many_waits_for_one_with_few() -> None:
    waiting = [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b")]
    assert next_in_turn(waiting, [], 2) == [("1", "a"), ("4", "b")]
    assert next_in_turn(waiting, ["b"], 2) == [("1", "a"), ("2", "a")]


@given(st.lists(st.sampled_from("abc"), max_size=20), st.lists(st.sampled_from("abc"), max_size=5), st.integers(0, 25))
def test_as_many_begin_as_there_is_room_for_and_each_project_in_its_order(
    projects: list[str], running: list[str], room: int
) -> None:
    waiting = [(f"{index:02}", project) for index, project in enumerate(projects)]
    begun = next_in_turn(waiting, running, room)
    assert len(begun) == min(room, len(waiting))
    for project in "abc":
        mine = [item for item in waiting if item[1] == project]
        chosen = [item for item in begun if item[1] == project]
        assert chosen == mine[: len(chosen)]
