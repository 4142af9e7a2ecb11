"""NVIDIA GPUs, through `nvidia-smi`."""

from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import ChipUse, Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import fraction, in_bytes, number, whole_number
from cloudcrest.kernel.units import MIB

COLUMNS = ("index", "name", "uuid", "memory.total")
QUERY = ("nvidia-smi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits")
USE_COLUMNS = ("index", "uuid", "utilization.gpu", "memory.used", "power.draw")
USE_QUERY = ("nvidia-smi", f"--query-gpu={','.join(USE_COLUMNS)}", "--format=csv,noheader,nounits")


class Nvidia:
    """Whole GPUs; slices made with MIG are not told apart. Implements `Family`."""

    name = "nvidia"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `nvidia-smi`."""
        return parse(tools.run(*QUERY) or "")

    def measure(self, tools: Tools) -> tuple[ChipUse, ...]:
        """Asks `nvidia-smi`."""
        return parse_use(tools.run(*USE_QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """CUDA counts by speed unless it is told to count as `nvidia-smi` does."""
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str, columns: Sequence[str] = COLUMNS) -> tuple[Detected, ...]:
    """Of CSV with these columns, memory in MiB; "[N/A]" where it is shared with the CPU: 0. Without an index they are
    counted.
    """
    rows = [dict(zip(columns, line.split(", "), strict=False)) for line in output.splitlines()]
    gpus = [row for row in rows if len(row) == len(columns) and row.get("index", "0").isdigit()]
    return tuple(
        Detected(
            index=int(row.get("index", position)),
            name=row["name"].strip(),
            memory_bytes=whole_number(row["memory.total"]) * MIB,
            uuid=row["uuid"].strip(),
        )
        for position, row in enumerate(gpus)
    )


def parse_use(output: str) -> tuple[ChipUse, ...]:
    """Of CSV with `USE_COLUMNS`: percent, MiB, watts; "[N/A]" where a GPU does not tell (a part of one, by MIG)."""
    rows = [line.split(", ") for line in output.splitlines()]
    return tuple(
        ChipUse(int(index), uuid.strip(), fraction(percent), in_bytes(mib, MIB), number(watts))
        for index, uuid, percent, mib, watts in (row for row in rows if len(row) == len(USE_COLUMNS))
        if index.isdigit()
    )
