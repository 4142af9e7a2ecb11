"""Whose device files are whose, read from texts in the vendors' forms; no hardware."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cloudcrest.compute.accelerators.api import Detected, DeviceFiles, Tools, index_list
from cloudcrest.compute.accelerators.device_files import files_of, look_for
from cloudcrest.compute.accelerators.registry import families
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.jobs.runner.chips import Chips, GivenChips
from cloudcrest.compute.sandbox.api import SandboxSpec
from cloudcrest.compute.sandbox.view import bubblewrap_argv

OTHERS = ("/dev/null", "/dev/kvm", "/dev/mem", "/dev/fuse", "/dev/nvme0n1", "/dev/dri/card9", "/dev/dri/renderD199")
NVIDIA = (
    *(f"/dev/nvidia{number}" for number in (0, 1, 2, 10)),
    *("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"),
    *("/dev/nvidia-nvswitchctl", "/dev/nvidia-caps/nvidia-cap1", "/dev/nvidia-caps/nvidia-cap12"),
    "/dev/nvidia-caps/nvidia-cap30",
)
INFORMATION = "Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\nBus Location: \t 0000:1b:00.0\nDevice Minor: \t {minor}\n"
NVIDIA_TEXTS = {
    "/proc/driver/nvidia/gpus/0000:1b:00.0/information": INFORMATION.format(uuid="GPU-aaa", minor=2),
    "/proc/driver/nvidia/gpus/0000:43:00.0/information": INFORMATION.format(uuid="GPU-bbb", minor=0),
    "/proc/driver/nvidia/gpus/0000:44:00.0/information": INFORMATION.format(uuid="GPU-ccc", minor=10),
    "/proc/driver/nvidia-caps/mig-minors": "config 1\nmonitor 2\ngpu1/gi0/access 30\ngpu10/gi0/access 12\n",
}
SHARED = ("/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl")
DRI = tuple(f"/dev/dri/{kind}{number}" for number in (0, 1) for kind in ("card", "renderD12"))


def chip(family: str, index: int = 0, uuid: str = "") -> AcceleratorFacts:
    return AcceleratorFacts(index, family, "a-type", "A Name", 1, uuid=uuid)


def uevents(vendor: str) -> dict[str, str]:
    return {
        f"/sys/class/drm/{kind}{number}/device/uevent": f"PCI_ID={vendor}:74A1\nPCI_SLOT_NAME=0000:0{number}:00.0\n"
        for number in (0, 1)
        for kind in ("card", "renderD12")
    }


@pytest.mark.parametrize(
    ("uuids", "own"),
    [
        (("GPU-bbb",), ("/dev/nvidia0",)),
        (("GPU-aaa", "GPU-bbb"), ("/dev/nvidia0", "/dev/nvidia2")),
        (("GPU-ccc",), ("/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia10")),
    ],
)
def test_of_nvidias_a_job_gets_its_own_and_what_all_share(uuids: Sequence[str], own: Sequence[str]) -> None:
    chips = [chip("nvidia", index, uuid) for index, uuid in enumerate(uuids)]
    found = files_of(chips, (*OTHERS, *NVIDIA), NVIDIA_TEXTS)
    assert found == DeviceFiles(tuple(sorted((*own, *SHARED))), are_counted_anew=True)


def test_a_gpu_that_the_driver_does_not_tell_of_makes_it_wide_and_said_so() -> None:
    found = files_of([chip("nvidia", 0, "GPU-zzz")], (*OTHERS, *NVIDIA), NVIDIA_TEXTS)
    assert not found.is_narrow
    assert not found.are_counted_anew
    assert {*found.paths} == {*NVIDIA} - {"/dev/nvidia-nvswitchctl"}


def test_no_chips_and_a_family_that_nobody_knows_are_given_none() -> None:
    assert files_of([], NVIDIA, NVIDIA_TEXTS).paths == ()
    assert files_of([chip("acme")], NVIDIA, NVIDIA_TEXTS).paths == ()


@pytest.mark.parametrize(
    ("family", "names", "own"),
    [
        (
            "ascend",
            ("davinci0", "davinci1", "davinci11", "davinci_manager", "devmm_svm", "hisi_hdc"),
            ("davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"),
        ),
        (
            "cambricon",
            ("cambricon_ctl", "cambricon_dev0", "cambricon_dev1", "cambricon_ipcm0", "cambricon_ipcm1"),
            ("cambricon_ctl", "cambricon_dev1", "cambricon_ipcm1"),
        ),
        ("iluvatar", ("iluvatar0", "iluvatar1", "iluvatar10"), ("iluvatar1",)),
        ("moore-threads", ("mtgpu.0", "mtgpu.1"), ("mtgpu.1",)),
    ],
)
def test_by_index(family: str, names: Sequence[str], own: Sequence[str]) -> None:
    found = files_of([chip(family, 1)], [*OTHERS, *(f"/dev/{name}" for name in names)], {})
    assert found == DeviceFiles(tuple(f"/dev/{name}" for name in own))


@pytest.mark.parametrize(
    ("family", "vendor", "control", "own"),
    [
        ("amd", "1002", ("/dev/kfd",), ("/dev/dri/renderD121",)),
        ("hygon", "1d94", ("/dev/kfd", "/dev/mkfd"), ("/dev/dri/card1", "/dev/dri/renderD121")),
    ],
)
def test_by_the_unique_id_that_kfd_tells(family: str, vendor: str, control: Sequence[str], own: Sequence[str]) -> None:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    texts = {
        **uevents(vendor),
        f"{nodes}/0/properties": "cpu_cores_count 96\nunique_id 0\ndrm_render_minor 0\n",
        f"{nodes}/1/properties": f"simd_count 1216\nunique_id {0xAB01}\ndrm_render_minor 120\n",
        f"{nodes}/2/properties": f"simd_count 1216\nunique_id {0xAB02}\ndrm_render_minor 121\n",
    }
    names = (*OTHERS, *DRI, "/dev/kfd", "/dev/mkfd")
    found = files_of([chip(family, 1, "0xab02")], names, texts)
    assert found.paths == tuple(sorted((*own, *control)))
    assert (found.is_narrow, found.are_counted_anew) == (True, True)
    # ROCm reads the topology and its own card's folder: of the others' cards it is shown none.
    cards = {f"{kind}{number}": f"/sys/devices/pci/{number}" for number in (0, 1) for kind in ("card", "renderD12")}
    shown = files_of([chip(family, 1, "0xab02")], names, texts, cards).shown
    assert {"/sys/class/kfd", "/sys/devices/virtual/kfd", "/sys/devices/pci/1"} <= {*shown}
    assert "/sys/devices/pci/0" not in shown
    wide = files_of([chip(family, 1)], names, texts)
    assert not wide.is_narrow
    assert {"/dev/dri/renderD120", "/dev/dri/renderD121", *control} <= {*wide.paths}
    assert not {*wide.paths} & {*OTHERS}


@pytest.mark.parametrize(
    ("family", "vendor", "paths"),
    [
        ("metax", "9999", (*DRI, "/dev/mxcd")),
        ("intel", "8086", ("/dev/dri/renderD120", "/dev/dri/renderD121")),
        ("moore-threads", "1ED5", (*DRI, "/dev/mtgpu.0")),
    ],
)
def test_where_it_cannot_be_told_all_of_the_family_and_nothing_else(
    family: str, vendor: str, paths: Sequence[str]
) -> None:
    texts: Mapping[str, str] = {**uevents(vendor), "/sys/class/drm/renderD199/device/uevent": "PCI_ID=10DE:2335\n"}
    found = files_of([chip(family)], (*OTHERS, *DRI, "/dev/mxcd", "/dev/mtgpu.0", "/dev/mtgpu.1"), texts)
    assert found == DeviceFiles(tuple(sorted(paths)), is_narrow=False)


def test_this_machine_is_looked_at_for_who_has_chips_alone(tmp_path: Path) -> None:
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:1b:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(INFORMATION.format(uuid="GPU-aaa", minor=2))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia2").write_text("not a device")
    assert look_for([chip("nvidia", 0, "GPU-aaa")], tmp_path) == DeviceFiles(are_counted_anew=True)
    assert look_for([], tmp_path) == DeviceFiles()


def test_the_sandbox_binds_what_it_is_given_alone() -> None:
    work = Path("/node/work")
    spec = SandboxSpec("s", ("true",), work, devices=("/dev/nvidia2", "/dev/nvidiactl"), shown=("/sys/class/kfd",))
    argv = bubblewrap_argv(spec, {"passwd": 7}, {work: "/node/work"})
    assert [argv[place + 1] for place, word in enumerate(argv) if word == "--dev-bind"] == [*spec.devices]
    assert [argv[place + 1] for place, word in enumerate(argv) if word == "--ro-bind-try"][-1] == "/sys/class/kfd"


@pytest.mark.anyio
async def test_who_sees_its_chips_alone_counts_them_from_0() -> None:
    agents = {"CUDA_VISIBLE_DEVICES": "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "MUSA_VISIBLE_DEVICES": "-1"}
    own = (chip("nvidia", 2, "GPU-aaa"), chip("nvidia", 3, "GPU-bbb"))
    narrow = Chips(agents, families(), lambda _: DeviceFiles(("/dev/nvidia2",), are_counted_anew=True))
    given = await narrow.given(own, has_view=True)
    assert given == GivenChips({**agents, "CUDA_VISIBLE_DEVICES": "0,1"}, ("/dev/nvidia2",))
    assert await narrow.given(own, has_view=False) == GivenChips(agents)
    assert await narrow.given((), has_view=True) == GivenChips(agents)
    wide = Chips(agents, families(), lambda _: DeviceFiles(("/dev/nvidia2",), is_narrow=False))
    assert await wide.given(own, has_view=True) == GivenChips(agents, ("/dev/nvidia2",))


class Acme:
    """A stranger's family: it says itself what its chips have."""

    name = "acme"

    def __init__(self, found: DeviceFiles | None) -> None:
        self._found = found

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        raise NotImplementedError

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        return {"ACME_VISIBLE_DEVICES": index_list(visible)}

    def device_files(self, chips: Sequence[AcceleratorFacts], there: Sequence[str]) -> DeviceFiles:
        assert [each.index for each in chips] == [4]
        assert "/dev/null" in there
        assert not any(path.startswith("/dev/disk") for path in there)
        if self._found is None:
            raise RuntimeError("broken")
        return self._found


@pytest.mark.anyio
async def test_a_strangers_family_says_itself_which_files_its_chips_have() -> None:
    said = DeviceFiles(
        ("/dev/zero", "/dev/acme0", "/etc/passwd"), True, True, ("/sys/class/acme", "/etc", "/sys/../etc")
    )
    given = await Chips({"ACME_VISIBLE_DEVICES": "4"}, {"acme": Acme(said)}).given([chip("acme", 4)], has_view=True)
    assert given == GivenChips({"ACME_VISIBLE_DEVICES": "0"}, ("/dev/zero",), ("/sys/class/acme",))
    mixed = DeviceFiles(("/dev/zero", "/dev/acme0", Path("/dev/acme1")))  # type: ignore[arg-type]
    for fault in (None, mixed):
        broken = await Chips({"A": "4"}, {"acme": Acme(fault)}).given([chip("acme", 4)], has_view=True)
        assert broken == GivenChips({"A": "4"})
