"""What is free goes back to the kernel."""

import sys

import psutil
import pytest

from cloudcrest.infra.heap import heap_trimmer
from cloudcrest.kernel.units import MIB

PIECE_BYTES = 16 * 1024
PIECES = 2_000


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries give it back themselves")
def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    process = psutil.Process()
    trim = heap_trimmer()
    pieces = [b"x" * PIECE_BYTES for _ in range(PIECES)]
    pieces = pieces[-1:]
    trim()
    few = process.memory_info().rss
    pieces += [b"x" * PIECE_BYTES for _ in range(PIECES)]
    assert process.memory_info().rss - few > PIECES * PIECE_BYTES - 4 * MIB
    pieces = pieces[-1:]
    trim()
    assert process.memory_info().rss - few < 8 * MIB
