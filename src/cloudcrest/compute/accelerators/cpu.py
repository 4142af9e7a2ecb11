"""The processor of a node. It is no accelerator: a node is given out by its cores. It is named, and that is all."""

from cloudcrest.compute.accelerators.api import Tools

MAX_NAME_CHARACTERS = 100
CPU_INFO = "/proc/cpuinfo"
BRAND = ("sysctl", "-n", "machdep.cpu.brand_string")


def cpu_model(tools: Tools) -> str:
    """What this machine's processor is called, empty where it does not say (many ARM machines)."""
    if tools.system() == "Darwin":
        return (tools.run(*BRAND) or "").strip()[:MAX_NAME_CHARACTERS]
    return parse(tools.read(CPU_INFO) or "")


def parse(cpu_info: str) -> str:
    """The model name in `/proc/cpuinfo`."""
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()[:MAX_NAME_CHARACTERS]
    return ""
