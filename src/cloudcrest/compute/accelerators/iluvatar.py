"""Iluvatar CoreX GPUs, through `ixsmi`."""

import re
from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import two_row_table

QUERY = ("ixsmi",)
_CARD = re.compile(r"(\d+)\s+([^|]*\S)\|[0-9a-fA-F]{8}:[0-9a-fA-F]{2}:")
_MEMORY = re.compile(r"\d+\s*MiB\s*/\s*(\d+)\s*MiB")


class Iluvatar:
    """Implements `Family`."""

    name = "iluvatar"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `ixsmi`."""
        return parse(tools.run(*QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """CoreX takes CUDA's variable."""
        return {"CUDA_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str) -> tuple[Detected, ...]:
    """Of the table: a GPU has a row with its number, name and bus, and one with its memory."""
    return two_row_table(output, card=_CARD, memory=_MEMORY)
