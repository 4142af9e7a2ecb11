"""A prompt as a sequence of block hashes, taken from the JSON body it is sent in."""

from typing import Final

BLOCK_BYTES: Final = 2_048
MAX_BLOCKS: Final = 256
"""Half a MiB of prompt; what follows counts as new everywhere."""
BYTES_PER_TOKEN: Final = 4
BLOCK_TOKENS: Final = BLOCK_BYTES // BYTES_PER_TOKEN
_SAMPLE_BYTES: Final = 256
_KEYS = (b'"messages":', b'"prompt":')
_EDGE_BYTES: Final = 1_024
"""Keys are looked for this near to an end of the body: reading all of a long one takes longer than the choice."""


def block_hashes(body: bytes) -> list[int]:
    """Chained hashes of the prompt's whole blocks, good within this process. Empty: it is shorter than a block.

    The index is one model's, so model and adapter, which the name stands for, are not hashed. Blocks begin at the
    messages: what differs in each request before them does not matter. Each block is known by its last 256 bytes and
    all blocks before it: two prompts that differ only elsewhere are taken for one, which costs a wrong guess and no
    wrong answer, while hashing every byte would cost a long prompt as much as the rest of the gateway.
    """
    if len(body) < BLOCK_BYTES:
        return []
    # A quote inside a JSON string is escaped, so what is found is a key.
    start = next((at for key in _KEYS if (at := body.find(key, 0, _EDGE_BYTES)) >= 0), 0)
    chained = 0
    hashes = []
    for end in range(start + BLOCK_BYTES, min(len(body), start + MAX_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        chained = hash((chained, body[end - _SAMPLE_BYTES : end]))
        hashes.append(chained)
    return hashes
