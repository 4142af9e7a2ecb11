"""AMD GPUs, through `rocm-smi`."""

from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import ChipUse, Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import fraction, in_bytes, json_object, number, text_fields, whole_number
from cloudcrest.kernel.units import GIB

QUERY = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showuniqueid", "--json")
USE_QUERY = ("rocm-smi", "--showuse", "--showmeminfo", "vram", "--showpower", "--showuniqueid", "--json")
_POWER = ("current socket graphics package power (w)", "average graphics package power (w)")
"""Which of them a card has depends on the card and the tool's version."""
_LEAST_MEMORY_BYTES = 2 * GIB
"""The graphics inside a processor have less of their own; they are not given out."""


class Amd:
    """Cards with memory of their own. Implements `Family`."""

    name = "amd"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `rocm-smi`."""
        return parse(tools.run(*QUERY) or "")

    def measure(self, tools: Tools) -> tuple[ChipUse, ...]:
        """Asks `rocm-smi`."""
        return parse_use(tools.run(*USE_QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """The lower layer hides and numbers anew; HIP, above it, then sees all that is left."""
        return {
            "ROCR_VISIBLE_DEVICES": index_list(visible),
            "HIP_VISIBLE_DEVICES": index_list(range(len(visible))),
        }


def parse(output: str) -> tuple[Detected, ...]:
    """Of JSON: an object by card. Hygon's cards answer to the same tool and are left out."""
    found = []
    for card, value in json_object(output).items():
        fields = text_fields(value)
        memory_bytes = whole_number(fields.get("vram total memory (b)", ""))
        vendor = fields.get("card vendor", "").lower()
        if not card.startswith("card") or "advanced micro" not in vendor or memory_bytes < _LEAST_MEMORY_BYTES:
            continue
        name = fields.get("card series") or fields.get("device name") or "AMD GPU"
        uuid = fields.get("unique id", "N/A")
        found.append(Detected(whole_number(card), name, memory_bytes, uuid="" if uuid == "N/A" else uuid))
    return tuple(sorted(found, key=lambda each: each.index))


def parse_use(output: str) -> tuple[ChipUse, ...]:
    """Of JSON: an object by card. The second die of a card draws its power with the first, and tells none."""
    found = []
    for card, value in json_object(output).items():
        fields = text_fields(value)
        if not card.startswith("card"):
            continue
        uuid = fields.get("unique id", "N/A")
        watts = [watts for name in _POWER if (watts := number(fields.get(name, ""))) is not None]
        found.append(
            ChipUse(
                index=whole_number(card),
                uuid="" if uuid == "N/A" else uuid,
                utilization=fraction(fields.get("gpu use (%)", "")),
                memory_used_bytes=in_bytes(fields.get("vram total used memory (b)", "")),
                power_watts=watts[0] if watts else None,
            )
        )
    return tuple(sorted(found, key=lambda each: each.index))
