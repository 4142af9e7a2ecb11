"""What a member uses: over its run, bounded, and of its own chips alone."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from cloudcrest.compute.accelerators import amd, ascend, nvidia
from cloudcrest.compute.accelerators.api import ChipUse, Detected, Measuring, Tools
from cloudcrest.compute.accelerators.registry import families
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.jobs.runner.meter import MAX_SAMPLES, Meter, own_use
from cloudcrest.compute.sandbox.api import SandboxUsage
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.units import MIB
from tests.support.waiting import until_async
from tests.unit.compute.vendor import FakeTools, printed


def chip(index: int, uuid: str = "", family: str = "nvidia") -> AcceleratorFacts:
    return AcceleratorFacts(index, family, "a-type", "A Name", 1, uuid=uuid)


def test_what_nvidias_tool_tells_of_use_is_read() -> None:
    output = "0, GPU-a, 87, 40536, 412.55\n1, GPU-b, [N/A], [N/A], [Not Supported]\nNo devices were found\n"
    assert nvidia.parse_use(output) == (
        ChipUse(0, "GPU-a", 0.87, 40536 * MIB, 412.55),
        ChipUse(1, "GPU-b", None, None, None),
    )


def test_what_amds_tool_tells_of_use_is_read() -> None:
    assert amd.parse_use(printed("rocm-smi.json")) == (ChipUse(0, "", 0.0, 27856896, None),)
    # Power: https://github.com/ROCm/rocm_smi_lib/issues/149, https://github.com/sebhildebrandt/systeminformation/pull/960
    output = (
        '{"card0": {"Average Graphics Package Power (W)": "N/A (Secondary die)", "Unique ID": "0xaf"},'
        '"card1": {"Current Socket Graphics Package Power (W)": "7.222", "GPU use (%)": "19", "Unique ID": "N/A"},'
        '"system": {"Driver version": "6.7"}}'
    )
    assert amd.parse_use(output) == (ChipUse(0, "0xaf"), ChipUse(1, "", 0.19, None, 7.222))


def test_what_ascends_tool_tells_of_use_is_read() -> None:
    assert ascend.parse_use(printed("npu-smi.txt")) == (
        ChipUse(0, "", 0.0, 3197 * MIB, 91.3),
        ChipUse(1, "", 0.0, 3197 * MIB, 88.1),
    )
    # Of two chips of a card the first tells what both draw.
    assert [each.power_watts for each in ascend.parse_use(printed("npu-smi-two-chips.txt"))] == [178.5, None, 186.3]


def test_three_families_tell_and_nothing_is_made_up_of_what_is_no_output() -> None:
    telling = {name: family for name, family in families().items() if isinstance(family, Measuring)}
    assert set(telling) == {"nvidia", "amd", "ascend"}
    for family in telling.values():
        for output in ("", "{}", "|||\n| 0 | 0000:01:00.0 | |", "a, b, c, d, e", '{"card0": 3}', "| 0 X | OK | |"):
            tools = FakeTools(dict.fromkeys(("nvidia-smi", "rocm-smi", "npu-smi"), output))
            for use in family.measure(tools):
                assert (use.utilization, use.memory_used_bytes, use.power_watts) == (None, None, None)


def test_of_a_node_a_member_is_shown_its_own_chips_alone() -> None:
    found = [ChipUse(0, "GPU-a", 0.1), ChipUse(1, "GPU-b", 0.2), ChipUse(2, "", 0.3)]
    assert own_use([chip(5, "GPU-b")], found) == (found[1],)
    assert own_use([chip(0, "GPU-gone")], found) == (ChipUse(0, "GPU-gone"),), "another chip stands there by now"
    assert own_use([chip(2), chip(7)], found) == (found[2], ChipUse(7))


def test_the_history_is_bounded_and_covers_the_whole_run() -> None:
    clock = ManualClock()
    meter = Meter(clock, {})
    for second in range(0, 100_000, 2):
        meter.used(SandboxUsage(second / 2, 1000, 2000))
        clock.advance(2)
    assert meter.metrics().history == ()
    samples = meter.metrics(has_history=True).history
    assert MAX_SAMPLES // 2 <= len(samples) <= MAX_SAMPLES
    assert samples[0].seconds == 0
    spacings = {later.seconds - sooner.seconds for sooner, later in pairwise(samples)}
    assert len(spacings) == 1
    assert samples[-1].seconds > 99_998 - spacings.pop()
    now = meter.metrics()
    assert (now.seconds, now.cpu_seconds, now.cpu_cores, now.disk_bytes) == (99_998, 49_999, 0.5, None)
    meter.holds(77)
    assert meter.metrics().disk_bytes == 77


class Acme:
    """A stranger's family, which fails."""

    name = "acme"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        raise NotImplementedError

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        raise NotImplementedError

    def measure(self, tools: Tools) -> tuple[ChipUse, ...]:
        tools.run("acme")
        raise RuntimeError("broken")


@pytest.mark.anyio
async def test_chips_of_a_family_that_fails_or_does_not_tell_are_not_known() -> None:
    silent = Meter(ManualClock(), families())
    await silent.watch_chips([chip(1, family="metax")])
    assert silent.metrics().accelerators == (ChipUse(1),)
    tools = FakeTools({})
    broken = Meter(ManualClock(), {"acme": Acme()}, tools)
    watching = asyncio.create_task(broken.watch_chips([chip(3, family="acme")]))
    await until_async(lambda: bool(tools.ran), "it is asked")
    watching.cancel()
    assert broken.metrics().accelerators == (ChipUse(3),)
