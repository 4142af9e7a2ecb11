"""A prompt as a sequence of block hashes, taken from the JSON body it is sent in."""

BLOCK_BYTES = 2_048
MAX_BLOCKS = 256
"""Half a MiB of prompt; what follows counts as new everywhere."""
BYTES_PER_TOKEN = 4
BLOCK_TOKENS = BLOCK_BYTES // BYTES_PER_TOKEN
_SAMPLE_BYTES = 256
_KEYS = (b'"messages":', b'"prompt":')
_TOOLS = b'"tools":'


def block_hashes(body: bytes) -> list[int]:
    """Chained hashes of the prompt's whole blocks, good within this process. Empty: it is shorter than a block.

    The index is one model's, so model and adapter, which the name stands for, are not hashed. Tools come before the
    messages in chat templates and so count from the first block on. A quote inside a JSON string is escaped, so the
    keys found are keys. Each block is known by its last 256 bytes and all blocks before it: two prompts that differ
    only elsewhere are taken for one, which costs a wrong guess and no wrong answer, while hashing every byte would
    cost a long prompt as much as the rest of the gateway.
    """
    if len(body) < BLOCK_BYTES:
        return []
    start = next((at for at in map(body.find, _KEYS) if at >= 0), 0)
    tools = body.find(_TOOLS)
    chained = hash(body[tools : tools + _SAMPLE_BYTES]) if tools >= 0 else 0
    hashes = []
    for end in range(start + BLOCK_BYTES, min(len(body), start + MAX_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        chained = hash((chained, body[end - _SAMPLE_BYTES : end]))
        hashes.append(chained)
    return hashes
