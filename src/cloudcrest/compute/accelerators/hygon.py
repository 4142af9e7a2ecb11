"""Hygon DCUs, through `hy-smi`."""

from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import json_object, text_fields, whole_number
from cloudcrest.kernel.units import MIB

QUERY = ("hy-smi", "--showproductname", "--showmeminfo", "vram", "--showuniqueid", "--json")


class Hygon:
    """Implements `Family`."""

    name = "hygon"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `hy-smi`."""
        return parse(tools.run(*QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """DTK is a HIP."""
        return {"HIP_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str) -> tuple[Detected, ...]:
    """Of JSON: an object by card, memory in MiB, or in bytes where the tool says (B)."""
    found = []
    for card, value in json_object(output).items():
        fields = text_fields(value)
        if not card.startswith("card") or "card series" not in fields:
            continue
        memory_bytes = whole_number(fields.get("vram total memory (mib)", "")) * MIB
        memory_bytes = memory_bytes or whole_number(fields.get("vram total memory (b)", ""))
        found.append(
            Detected(whole_number(card), fields["card series"], memory_bytes, uuid=fields.get("unique id", ""))
        )
    return tuple(sorted(found, key=lambda each: each.index))
