"""Intel data center and Arc GPUs, through `xpu-smi`."""

from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import json_object, text_fields, whole_number

LIST = ("xpu-smi", "discovery", "-j")
_MAX_DEVICES = 64


def show(index: int) -> tuple[str, ...]:
    """The command that tells one device's memory."""
    return ("xpu-smi", "discovery", "-d", str(index), "-j")


class Intel:
    """Implements `Family`."""

    name = "intel"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `xpu-smi` for the devices, then for each: older versions leave memory out of the list."""
        found: list[Detected] = []
        for index in indexes(tools.run(*LIST) or "")[:_MAX_DEVICES]:
            found += parse(tools.run(*show(index)) or "")
        return tuple(found)

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """What Level Zero goes by."""
        return {"ZE_AFFINITY_MASK": index_list(visible)}


def indexes(output: str) -> list[int]:
    """The devices of the list, without the slices that SR-IOV makes of them."""
    devices = json_object(output).get("device_list", [])
    if not isinstance(devices, list):
        return []
    fields = [text_fields(device) for device in devices]
    physical = [each for each in fields if each.get("device_function_type", "physical") == "physical"]
    return sorted(int(each["device_id"]) for each in physical if each.get("device_id", "").isdigit())


def parse(output: str) -> tuple[Detected, ...]:
    """Of one device's JSON. Graphics inside a processor have no memory of their own and are left out."""
    fields = text_fields(json_object(output))
    memory_bytes = whole_number(fields.get("memory_physical_size_byte", ""))
    if not fields.get("device_id", "").isdigit() or memory_bytes == 0:
        return ()
    name = fields.get("device_name", "Intel GPU")
    return (Detected(int(fields["device_id"]), name, memory_bytes, uuid=fields.get("uuid", "")),)
