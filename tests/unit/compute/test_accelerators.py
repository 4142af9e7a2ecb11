"""Families of chips: what they read out of vendors' outputs, and how a process is shown some of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.compute.accelerators import cpu, nvidia, reading
from cloudcrest.compute.accelerators.api import Detected, Family
from cloudcrest.compute.accelerators.detect import detect
from cloudcrest.compute.accelerators.given_out import chips_at, given_out, visible_environment
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.naming import TypeIndex, made_type
from cloudcrest.compute.accelerators.registry import BUILT_IN, families
from cloudcrest.compute.accelerators.tools import MachineTools
from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import GIB, MIB
from tests.unit.compute.vendor import FakeTools, outputs, printed, printed_command, xpu_smi

COMMANDS = ["nvidia-smi", "rocm-smi", "npu-smi", "cnmon", "hy-smi", "mx-smi", "mthreads-gmi", "ixsmi"]
COMMANDS += ["xpu-smi", "system_profiler", "sysctl"]
ZEROS = "00000000-0000-0000-0000-00000000000"


@pytest.mark.parametrize(
    ("family", "tool", "output", "found"),
    [
        ("amd", "rocm-smi", "rocm-smi.json", (Detected(0, "Radeon RX 7900 XT", 21458059264),)),
        (
            "hygon",
            "hy-smi",
            "hy-smi.json",
            (
                Detected(0, "K100_AI", 65520 * MIB, "0000000000000000"),
                Detected(1, "K100_AI", 65520 * MIB, "0000000000000001"),
            ),
        ),
        ("ascend", "npu-smi", "npu-smi.txt", (Detected(0, "910B4-1", 64 * GIB), Detected(1, "910B4-1", 64 * GIB))),
        (
            "ascend",
            "npu-smi",
            "npu-smi-two-chips.txt",
            tuple(Detected(index, "Ascend910", 64 * GIB) for index in range(3)),
        ),
        (
            "cambricon",
            "cnmon",
            "cnmon.txt",
            (Detected(0, "MLU370-X8", 23374 * MIB), Detected(1, "MLU370-X8", 23374 * MIB)),
        ),
        ("metax", "mx-smi", "mx-smi.txt", (Detected(0, "MetaX C500", 64 * GIB), Detected(1, "MetaX C500", 64 * GIB))),
        (
            "moore-threads",
            "mthreads-gmi",
            "mthreads-gmi.txt",
            (Detected(0, "MTT S5000", 80 * GIB), Detected(1, "MTT S5000", 80 * GIB)),
        ),
        (
            "iluvatar",
            "ixsmi",
            "ixsmi.txt",
            (Detected(0, "Iluvatar BI-V150", 32 * GIB), Detected(1, "Iluvatar BI-V150", 32 * GIB)),
        ),
    ],
)
def test_a_vendors_output_is_read(family: str, tool: str, output: str, found: tuple[Detected, ...]) -> None:
    assert families()[family].detect(FakeTools({tool: printed(output)})) == found


def test_nvidias_columns_are_read_by_name() -> None:
    asked = printed_command("nvidia-smi.csv").split("--query-gpu=")[1].split(" ")[0].replace("gpu_uuid", "uuid")
    found = (Detected(0, "GeForce RTX 2080", 7979 * MIB, f"GPU-{ZEROS}0"),)
    assert nvidia.parse(printed("nvidia-smi.csv"), asked.split(",")) == found
    assert nvidia.parse("3, NVIDIA GB10, GPU-1, [N/A]\nNo devices were found\n") == (
        Detected(3, "NVIDIA GB10", 0, "GPU-1"),
    )


def test_intels_devices_are_asked_for_one_by_one() -> None:
    tools = FakeTools(xpu_smi())
    assert families()["intel"].detect(tools) == (Detected(0, "Intel(R) Graphics [0xe211]", 25669140480),)
    assert len(tools.ran) == 2


def test_apples_gpu_has_the_machines_memory() -> None:
    prints: dict[tuple[str, ...] | str, str] = {
        "system_profiler": printed("system_profiler.txt"),
        "sysctl": "25769803776\n",
    }
    apple = families()["apple"]
    assert apple.detect(FakeTools(prints, system="Darwin")) == (Detected(0, "Apple M3", 24 * GIB),)
    assert apple.detect(FakeTools(prints)) == ()


def test_a_processor_is_named() -> None:
    # Of the virtual machine this was written on.
    files = {cpu.CPU_INFO: "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n"}
    assert cpu.cpu_model(FakeTools({}, files=files)) == "Intel(R) Xeon(R) Processor"
    assert cpu.cpu_model(FakeTools({})) == ""


def test_every_output_names_its_source() -> None:
    assert all(printed(name) for name in outputs())


@pytest.mark.parametrize("create", BUILT_IN)
def test_a_machine_without_its_tool_has_none(create: type[Family]) -> None:
    assert create().detect(FakeTools({})) == ()


@pytest.mark.parametrize("name", sorted(families()))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_output_breaks_a_family(name: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([printed(output) for output in outputs()]))
    cut = data.draw(st.integers(0, len(text)))
    text = text[:cut] + data.draw(st.text(max_size=20)) + text[cut + data.draw(st.integers(0, 40)) :]

    tools = FakeTools(dict.fromkeys(COMMANDS, text), system="Darwin")
    for chip in families()[name].detect(tools):
        assert chip.index >= 0
        assert chip.memory_bytes >= 0


def test_what_precedes_json_is_left_out() -> None:
    assert reading.json_object('WARNING: low power\n{"a": "b"}') == {"a": "b"}
    assert reading.json_object("no json") == reading.json_object("{half") == {}


def facts(family: str, kind: str, *indexes: int, gib: int = 80) -> tuple[AcceleratorFacts, ...]:
    return tuple(AcceleratorFacts(index, family, kind, kind, gib * GIB) for index in indexes)


def test_of_several_kinds_the_one_with_most_memory_is_given_out() -> None:
    small, large = facts("nvidia", "t4", 0, 1, gib=16), facts("nvidia", "h100", 3, 2)
    assert [each.index for each in given_out((*small, *large))] == [2, 3]
    assert given_out(facts("nvidia", "t4", *range(6), gib=16) + facts("amd", "mi50", 0, gib=32))[0].type == "t4"
    assert given_out(()) == ()


@pytest.mark.parametrize(
    ("family", "chosen", "shown"),
    [
        ("nvidia", (1, 0), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0,1"}),
        ("nvidia", (), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "-1"}),
        ("amd", (2, 5), {"ROCR_VISIBLE_DEVICES": "2,5", "HIP_VISIBLE_DEVICES": "0,1"}),
        ("amd", (), {"ROCR_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}),
        ("ascend", (7,), {"ASCEND_RT_VISIBLE_DEVICES": "7"}),
        ("cambricon", (3,), {"MLU_VISIBLE_DEVICES": "3"}),
        ("hygon", (3,), {"HIP_VISIBLE_DEVICES": "3"}),
        ("metax", (3,), {"CUDA_VISIBLE_DEVICES": "3"}),
        ("moore-threads", (3,), {"MUSA_VISIBLE_DEVICES": "3"}),
        ("iluvatar", (3,), {"CUDA_VISIBLE_DEVICES": "3"}),
        ("intel", (3,), {"ZE_AFFINITY_MASK": "3"}),
        ("apple", (3,), {}),
    ],
)
def test_a_process_sees_what_it_is_given(family: str, chosen: tuple[int, ...], shown: dict[str, str]) -> None:
    assert visible_environment(facts(family, "x", *range(8)), chosen, families()) == shown


def test_other_kinds_are_hidden_and_shared_variables_show_what_is_given() -> None:
    node = facts("metax", "c500", 0, 1) + facts("nvidia", "t4", 0, gib=16) + facts("ascend", "310", 0, gib=8)
    shown = visible_environment(node, (1,), families())
    assert shown["CUDA_VISIBLE_DEVICES"] == "1"
    assert shown["ASCEND_RT_VISIBLE_DEVICES"] == "-1"
    assert visible_environment((), (), families()) == {}


def test_places_are_of_what_is_given_out_not_of_all_there_is() -> None:
    there = (*facts("nvidia", "t4", 0, 1, gib=16), *facts("nvidia", "h100", 2, 3, gib=80))
    assert [each.index for each in chips_at(there, (1,))] == [3]
    assert chips_at(there, (2,)) == ()


def test_what_is_not_given_out_cannot_be_asked_for() -> None:
    node = facts("nvidia", "h100", 1) + facts("nvidia", "t4", 0, gib=16)
    assert visible_environment(node, (0,), families())["CUDA_VISIBLE_DEVICES"] == "1"
    for chosen in ((1,), (0, 1), (-1,)):
        with pytest.raises(InvalidInput, match="gives out 1 accelerators"):
            visible_environment(node, chosen, families())


@pytest.fixture
def others_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that adds a family, installed as pip would: a module, and metadata beside it."""
    (tmp_path / "acme_chips.py").write_text(
        "from cloudcrest.compute.accelerators.api import Detected, index_list\n"
        "class Acme:\n"
        "    name = 'acme'\n"
        "    def detect(self, tools):\n"
        "        return (Detected(0, 'Acme One', 8 * 2**30),) if tools.run('acme-smi') else ()\n"
        "    def environment(self, visible):\n"
        "        return {'ACME_VISIBLE_DEVICES': index_list(visible)}\n"
        "class Broken:\n"
        "    def __init__(self):\n"
        "        raise RuntimeError('no driver')\n"
    )
    metadata = tmp_path / "acme_chips-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-chips\nVersion: 1.0\n")
    entries = "acme = acme_chips:Acme\nbroken = acme_chips:Broken\nmissing = acme_gone:Nothing\n"
    (metadata / "entry_points.txt").write_text(f"[cloudcrest.accelerators]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "acme"
    sys.modules.pop("acme_chips", None)


def test_others_add_a_family_by_entry_point(others_family: str) -> None:
    known = families()
    assert {*known} == {create().name for create in BUILT_IN} | {others_family}
    found = detect(known.values(), FakeTools({"acme-smi": "one"}), TypeIndex())
    assert found == (AcceleratorFacts(0, "acme", "acme-one-8gb", "Acme One", 8 * GIB),)
    assert visible_environment(found, (0,), known) == {"ACME_VISIBLE_DEVICES": "0"}


def test_a_family_that_fails_hides_no_others() -> None:
    class Failing:
        name = "failing"

        def detect(self, *_: object) -> tuple[Detected, ...]:
            raise RuntimeError("a fault")

        def environment(self, *_: object) -> dict[str, str]:
            return {}

    tools = FakeTools({"mx-smi": printed("mx-smi.txt")})
    assert len(detect([Failing(), families()["metax"]], tools, TypeIndex())) == 2


def script(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)


def test_a_tool_is_bounded_in_time_and_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "says", "print('8 chips')")
    script(tmp_path, "floods", "while True: print('x' * 1000)")
    script(tmp_path, "fails", "print('8 chips'); raise SystemExit(9)")
    script(tmp_path, "hangs", "import subprocess; subprocess.run(['tail', '-f', '/dev/null'])")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tools = MachineTools(run_seconds=20, max_output_bytes=10_000)
    assert tools.run("says") == "8 chips\n"
    assert tools.run("floods") is None
    assert tools.run("fails") is None
    assert tools.run("not-installed") is None
    assert MachineTools(run_seconds=0.2).run("hangs") is None


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert MachineTools().read(str(tmp_path / "gone")) is None


@pytest.mark.parametrize(
    ("family", "name", "mib", "type_id"),
    [
        ("nvidia", "NVIDIA H100 80GB HBM3", 81559, "nvidia-h100-80gb"),
        ("nvidia", "NVIDIA H200", 143771, "nvidia-h200-141gb"),
        ("nvidia", "NVIDIA A100-SXM4-40GB", 40960, "nvidia-a100-40gb"),
        ("nvidia", "NVIDIA L40S", 46068, "nvidia-l40s-48gb"),
        ("nvidia", "Tesla T4", 15360, "nvidia-t4-16gb"),
        ("nvidia", "NVIDIA H800", 81559, "nvidia-h800-80gb"),
        ("nvidia", "NVIDIA H100 80GB HBM3", 40000, "nvidia-h100-80gb-hbm3-39gb"),
        ("amd", "NVIDIA H200", 143771, "amd-nvidia-h200-140gb"),
        ("intel", "Intel(R) Data Center GPU Max 1550", 131072, "intel-max-1550-128gb"),
        ("ascend", "910B4-1", 65536, "ascend-910b4-1-64gb"),
        ("metax", "MetaX C500", 65536, "metax-c500-64gb"),
        ("moore-threads", "MTT S4000", 49152, "moore-threads-mtt-s4000-48gb"),
        ("nvidia", "", 0, "nvidia"),
    ],
)
def test_a_chip_is_of_a_known_type_or_of_one_made_for_it(family: str, name: str, mib: int, type_id: str) -> None:
    assert TypeIndex(known_types()).id_of(family, name, mib * MIB) == type_id


def test_known_types_are_whole() -> None:
    types = known_types()
    assert len({each.id for each in types}) == len(types)
    for each in types:
        assert each.sources, f"{each.id} names no source"
        assert {*each.peak_tflops} <= {*each.dtypes}, each.id
        assert each.power_watts or each.family == "moore-threads"
        # What its vendor's tool would say leads back to it.
        assert all(TypeIndex(types).id_of(each.family, name, each.memory_bytes) == each.id for name in each.names)


def test_made_names_are_bounded() -> None:
    assert len(made_type("acme", "x" * 5000, 8 * GIB).id) <= 100
