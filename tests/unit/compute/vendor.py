"""What vendors' tools print, from public sources that each file names; and a machine that prints it."""

import json
from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).with_name("vendor_outputs")


def printed(name: str) -> str:
    """An output without the lines that say where it is from."""
    lines = (_FOLDER / name).read_text("utf-8").splitlines(keepends=True)
    assert any("Source: " in line for line in lines[:3]), f"{name} names no source"
    return "".join(line for line in lines if not line.startswith("# "))


def printed_command(name: str) -> str:
    """The command that printed it: the first line of its file."""
    return (_FOLDER / name).read_text("utf-8").splitlines()[0].removeprefix("# ")


def outputs() -> list[str]:
    """The names of all of them."""
    return sorted(path.name for path in _FOLDER.iterdir())


class FakeTools:
    """A machine on which these commands print these outputs, by the name of the command or by the whole of it."""

    def __init__(
        self, prints: Mapping[tuple[str, ...] | str, str], *, system: str = "Linux", files: Mapping[str, str] = {}
    ) -> None:
        self.prints = dict(prints)
        self._system = system
        self._files = files
        self.ran: list[tuple[str, ...]] = []

    def run(self, *argv: str) -> str | None:
        self.ran.append(argv)
        return self.prints.get(argv, self.prints.get(argv[0]))

    def read(self, path: str) -> str | None:
        return self._files.get(path)

    def system(self) -> str:
        return self._system


def xpu_smi() -> dict[tuple[str, ...] | str, str]:
    """Intel's tool, asked for the list and then for its one device."""
    whole = printed("xpu-smi.json")
    device = json.dumps(json.loads(whole)["device_list"][0])
    return {("xpu-smi", "discovery", "-j"): whole, ("xpu-smi", "discovery", "-d", "0", "-j"): device}
