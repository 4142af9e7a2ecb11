"""What a replica has of its node."""

import pytest

from cloudcrest.serving.places import cores_of


@pytest.mark.parametrize(
    ("kept_milli", "node_milli", "cores"),
    [
        (50, 2_000, 2),  # it shares: all that there is
        (0, 64_000, 64),
        (999, 8_000, 8),
        (1_000, 8_000, 1),
        (2_500, 8_000, 3),
        (8_000, 2_000, 2),  # its node has become smaller
        (50, 500, 1),
        (50, 1_500, 2),
        (50, 0, 1),
        (2_000, 0, 1),
    ],
)
def test_cores_are_what_is_kept_or_else_all_of_the_nodes(kept_milli: int, node_milli: int, cores: int) -> None:
    assert cores_of(kept_milli, node_milli) == cores
