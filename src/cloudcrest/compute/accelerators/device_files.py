"""The files under /dev of a process's own chips, so that what holds it can keep the others' from it.

    nvidia                        nvidiaN by its UUID (/proc/driver/nvidia/gpus), its MIG's, the control files
    amd, hygon                    dri/… by its unique id (KFD's topology), kfd; hygon: mkfd, the card's file
    ascend, cambricon, iluvatar   by its index, and what has no number
    moore-threads                 mtgpu.N by its index; of dri those of all its chips
    metax, intel                  those of all chips of the family: their tools do not tell which is whose
    a stranger's                  what the family says of itself

AMD's and Hygon's runtimes read the topology and their cards' folders in /sys as well, libdrm the numbers of devices.

Sources: NVIDIA's libnvidia-container and driver README; AMD's ROCT-Thunk-Interface (topology.c); the device plugins
that Huawei, Cambricon, Iluvatar CoreX, and HAMi (Hygon) publish; vendors' `docker run` lines. Where a chip's own files
cannot be told, the family's all are given, and `is_narrow` says so.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from cloudcrest.compute.accelerators.api import DeviceFiles, WithDevices
from cloudcrest.compute.api import AcceleratorFacts

_log = structlog.get_logger(__name__)
_FOLDERS = ("/dev", "/dev/dri", "/dev/nvidia-caps")
_TEXTS = (
    "proc/driver/nvidia/gpus/*/information",
    "proc/driver/nvidia-caps/mig-minors",
    "sys/class/kfd/kfd/topology/nodes/*/properties",
    "sys/class/drm/*/device/uevent",
)
_NVIDIA_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_BY_INDEX = {
    "ascend": re.compile(r"/dev/(?:davinci(?P<number>\d+)|davinci_manager(?:_docker)?|devmm_svm|hisi_hdc)"),
    "cambricon": re.compile(r"/dev/cambricon[a-z_-]*?(?P<number>\d+)?"),
    "iluvatar": re.compile(r"/dev/iluvatar[a-z_-]*?(?P<number>\d+)?"),
    "moore-threads": re.compile(r"/dev/mtgpu\.?(?P<number>\d+)?"),
}
_KFD = ("/sys/class/kfd", "/sys/devices/virtual/kfd")
_VENDORS = {"amd": "1002", "hygon": "1D94", "metax": "9999", "moore-threads": "1ED5", "intel": "8086"}
"""Of PCI."""
_SHARED = {"amd": ("kfd",), "hygon": ("kfd", "mkfd"), "metax": ("mxcd",)}
_CARDS = ("hygon", "metax", "moore-threads")
"""Their runtimes open a card's file beside the one to render by."""
_ROCM = (*_KFD, "/sys/dev/char", "/sys/devices/system/cpu", "/sys/devices/system/node")
_SHOWN = {"amd": _ROCM, "hygon": _ROCM}
_COUNTED_ANEW = ("nvidia", "amd", "hygon")
"""Their runtimes leave out the chips whose file they cannot open; of the others' none says so."""


def told_by(family: WithDevices, chips: Sequence[AcceleratorFacts], root: Path = Path("/")) -> DeviceFiles:
    """What a stranger's family says of them, as far as there are such devices, and folders in /sys. Blocks."""
    there = [name for folder in ("dev", *_below(root, "dev")) for name in _devices(root, f"/{folder}")]
    try:
        found = family.device_files(chips, sorted(there))
        paths = tuple(path for path in found.paths if path in there)
        shown = tuple(path for path in found.shown if path.startswith("/sys/") and ".." not in path)
        left_out = sorted({*found.paths, *found.shown} - {*paths, *shown})
    except Exception as error:  # noqa: BLE001 - a stranger's fault: the job has no devices, and the runner goes on
        _log.error("device_files_not_told", family=chips[0].family, exc_info=error)
        return DeviceFiles()
    if left_out:
        _log.warning("device_files_left_out", family=chips[0].family, paths=left_out)
    return DeviceFiles(paths, found.is_narrow, found.are_counted_anew, shown)


def look_for(chips: Sequence[AcceleratorFacts], root: Path = Path("/")) -> DeviceFiles:
    """What this machine has for them. Blocks."""
    if not chips:
        return DeviceFiles()
    names = [name for folder in _FOLDERS for name in _devices(root, folder)]
    texts = {f"/{path.relative_to(root)}": _text(path) for pattern in _TEXTS for path in root.glob(pattern)}
    cards = {path.parent.name: f"/{path.resolve().relative_to(root)}" for path in root.glob("sys/class/drm/*/device")}
    return files_of(chips, names, texts, cards)


def files_of(
    chips: Sequence[AcceleratorFacts], names: Iterable[str], texts: Mapping[str, str], cards: Mapping[str, str] = {}
) -> DeviceFiles:
    """Of the files there are (`names`), those of these chips, which are of one family. `texts`: what the kernel tells
    of chips, by path; `cards`: the folders of devices in /sys, by the name of a file in /dev/dri. None for a family
    that is not known. Pure.
    """
    if not chips:
        return DeviceFiles()
    family, there = chips[0].family, sorted(set(names))
    rules: dict[str, Callable[[], DeviceFiles]] = {
        "nvidia": lambda: _nvidia(chips, there, texts),
        **{each: lambda: _by_index(chips, there, texts) for each in _BY_INDEX},
        **dict.fromkeys(("amd", "hygon"), lambda: _by_topology(chips, there, texts)),
        **dict.fromkeys(("metax", "intel"), lambda: DeviceFiles(_rendering(family, there, texts), is_narrow=False)),
    }
    if family not in rules:
        return DeviceFiles()
    found = rules[family]()
    shared = [f"/dev/{name}" for name in _SHARED.get(family, ())]
    paths = tuple(sorted({*found.paths, *(path for path in shared if path in there)}))
    shown = _SHOWN.get(family, ())
    own = {cards[name] for path in paths if (name := path.rpartition("/")[2]) in cards} if shown else set()
    return DeviceFiles(paths, found.is_narrow, found.is_narrow and family in _COUNTED_ANEW, (*shown, *sorted(own)))


def _nvidia(chips: Sequence[AcceleratorFacts], there: Sequence[str], texts: Mapping[str, str]) -> DeviceFiles:
    minors = {}
    for path, text in texts.items():
        if path.startswith("/proc/driver/nvidia/gpus/"):
            fields = _fields(text, ":")
            minors[fields.get("GPU UUID", "")] = fields.get("Device Minor", "")
    own = {minors.get(chip.uuid, "") for chip in chips}
    if not all(minor.isdigit() for minor in own):
        every = [path for path in there if re.fullmatch(r"/dev/nvidia\d+|/dev/nvidia-caps/.*", path)]
        return DeviceFiles((*_nvidia_shared(there), *every), is_narrow=False)
    parts = _fields(texts.get("/proc/driver/nvidia-caps/mig-minors", ""), " ")
    slices = {
        f"/dev/nvidia-caps/nvidia-cap{number}"
        for name, number in parts.items()
        if name.partition("/")[0] in {f"gpu{minor}" for minor in own}
    }
    wanted = {f"/dev/nvidia{minor}" for minor in own} | slices
    return DeviceFiles((*_nvidia_shared(there), *(path for path in there if path in wanted)))


def _nvidia_shared(there: Sequence[str]) -> list[str]:
    return [path for path in there if path.removeprefix("/dev/") in _NVIDIA_SHARED]


def _by_index(chips: Sequence[AcceleratorFacts], there: Sequence[str], texts: Mapping[str, str]) -> DeviceFiles:
    family, own = chips[0].family, {str(chip.index) for chip in chips}
    matches = [(path, _BY_INDEX[family].fullmatch(path)) for path in there]
    paths = [path for path, match in matches if match and match["number"] in (None, *own)]
    rendering = _rendering(family, there, texts)
    return DeviceFiles((*paths, *rendering), is_narrow=not rendering)


def _by_topology(chips: Sequence[AcceleratorFacts], there: Sequence[str], texts: Mapping[str, str]) -> DeviceFiles:
    """KFD tells of each chip its unique id, in decimal, and the number of its file to render by."""
    family = chips[0].family
    numbers: dict[int, set[str]] = {}
    for path, text in texts.items():
        if path.startswith("/sys/class/kfd/"):
            fields = _fields(text, " ")
            numbers.setdefault(_whole(fields.get("unique_id", ""), 10), set()).add(fields.get("drm_render_minor", ""))
    ids = [_whole(chip.uuid, 16) for chip in chips]
    if not all(each and each in numbers for each in ids):
        return DeviceFiles(_rendering(family, there, texts), is_narrow=False)
    rendering = {f"renderD{number}" for each in ids for number in numbers[each]}
    buses = {_bus(texts, name) for name in rendering}
    beside = [path for path in _rendering(family, there, texts) if _bus(texts, path.rpartition("/")[2]) in buses - {""}]
    return DeviceFiles((*(path for path in there if path.rpartition("/")[2] in rendering), *beside))


def _rendering(family: str, there: Sequence[str], texts: Mapping[str, str]) -> tuple[str, ...]:
    """The files below /dev/dri of all chips of the family."""
    kinds = ("/dev/dri/renderD", "/dev/dri/card") if family in _CARDS else ("/dev/dri/renderD",)
    paths = [path for path in there if path.startswith(kinds)]
    vendors = [_uevent(texts, path.rpartition("/")[2]).get("PCI_ID", "").partition(":")[0] for path in paths]
    wanted = _VENDORS.get(family, "none")
    return tuple(path for path, vendor in zip(paths, vendors, strict=True) if vendor.upper() == wanted)


def _bus(texts: Mapping[str, str], name: str) -> str:
    return _uevent(texts, name).get("PCI_SLOT_NAME", "")


def _uevent(texts: Mapping[str, str], name: str) -> dict[str, str]:
    return _fields(texts.get(f"/sys/class/drm/{name}/device/uevent", ""), "=")


def _fields(text: str, separator: str) -> dict[str, str]:
    parts = [line.partition(separator) for line in text.splitlines()]
    return {name.strip(): value.strip() for name, found, value in parts if found}


def _whole(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0


def _devices(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{each.name}" for each in (root / folder.lstrip("/")).glob("*") if each.is_char_device()]


def _below(root: Path, folder: str) -> list[str]:
    return [f"{folder}/{each.name}" for each in (root / folder).glob("*") if each.is_dir() and not each.is_symlink()]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
