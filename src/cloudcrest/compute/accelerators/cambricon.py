"""Cambricon MLUs, through `cnmon`."""

import re
from collections.abc import Sequence

from cloudcrest.compute.accelerators.api import Detected, Tools, index_list
from cloudcrest.compute.accelerators.reading import two_row_table

QUERY = ("cnmon",)
_CARD = re.compile(r"(\d+)\s+\S+\s+(MLU\S+)\s")
_MEMORY = re.compile(r"\d+\s*MiB\s*/\s*(\d+)\s*MiB")


class Cambricon:
    """Implements `Family`."""

    name = "cambricon"

    def detect(self, tools: Tools) -> tuple[Detected, ...]:
        """Asks `cnmon`."""
        return parse(tools.run(*QUERY) or "")

    def environment(self, visible: Sequence[int]) -> dict[str, str]:
        """What CNRT goes by."""
        return {"MLU_VISIBLE_DEVICES": index_list(visible)}


def parse(output: str) -> tuple[Detected, ...]:
    """Of the table: a card has a row with its number and name, and one with its memory."""
    return two_row_table(output, card=_CARD, memory=_MEMORY)
