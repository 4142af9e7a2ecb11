"""Which accelerators of a node are given out, and how a process sees its own alone. Pure."""

from collections.abc import Mapping, Sequence

from cloudcrest.compute.accelerators.api import Family
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.kernel.errors import InvalidInput


def given_out(accelerators: Sequence[AcceleratorFacts]) -> tuple[AcceleratorFacts, ...]:
    """Those of one type that have most memory in all, by index; the others of the node are only shown."""
    of_type: dict[tuple[str, str], list[AcceleratorFacts]] = {}
    for each in accelerators:
        of_type.setdefault((each.family, each.type), []).append(each)
    if not of_type:
        return ()
    most = max(sorted(of_type), key=lambda key: sum(each.memory_bytes for each in of_type[key]))
    return tuple(sorted(of_type[most], key=lambda each: each.index))


def chips_at(accelerators: Sequence[AcceleratorFacts], places: Sequence[int]) -> tuple[AcceleratorFacts, ...]:
    """Those at these places among what is given out; places that there are not any more are left out."""
    offered = given_out(accelerators)
    return tuple(offered[place] for place in places if place < len(offered))


def visible_environment(
    accelerators: Sequence[AcceleratorFacts], chosen: Sequence[int], families: Mapping[str, Family]
) -> dict[str, str]:
    """The variables for a process on a node that has `accelerators` and gives it `chosen` of those given out, counted
    from 0.

    What it is not given is hidden: all of them where nothing is chosen. Nothing on a node that has none. Raises
    `InvalidInput` where there are not so many. A process can take a variable back: what keeps a tenant from others'
    chips is its sandbox.
    """
    offered = given_out(accelerators)
    if chosen and not 0 <= min(chosen) <= max(chosen) < len(offered):
        raise InvalidInput(f"this node gives out {len(offered)} accelerators", param="accelerators")
    environment: dict[str, str] = {}
    for name in sorted({each.family for each in accelerators}):
        if name in families:
            environment |= families[name].environment(())
    # Families share variables: what shows the chosen ones has the last word.
    if chosen and offered[0].family in families:
        indexes = sorted({offered[place].index for place in chosen})
        environment |= families[offered[0].family].environment(indexes)
    return environment
