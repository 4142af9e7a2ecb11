"""The prefix index: what it holds, its bound, and its shortcut against the obvious way."""

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.routing.prefix_index import PrefixIndex
from cloudcrest.gateway.routing.prompt import BLOCK_BYTES, MAX_BLOCKS, block_hashes

# Paths in a tree: a block's hash stands for all before it, as chained hashes do.
paths = st.lists(st.integers(0, 2), max_size=9).map(lambda path: [hash(tuple(path[: i + 1])) for i in range(len(path))])
inserts = st.lists(st.tuples(st.integers(0, 4), paths), max_size=30)


def held(history: list[tuple[int, list[int]]], bit: int, capacity: int) -> set[int]:
    """What an LRU of one replica holds, the slow way."""
    order: list[int] = []
    for at, blocks in history:
        for block in reversed(blocks[:capacity]) if at == bit else ():
            if block in order:
                order.remove(block)
            order.append(block)
        order = order[-capacity:]
    return set(order)


@given(history=inserts, prompt=paths, among=st.integers(0, 31), capacity=st.integers(1, 12))
def test_it_finds_what_each_replica_holds_and_stays_in_its_bound(
    history: list[tuple[int, list[int]]], prompt: list[int], among: int, capacity: int
) -> None:
    index = PrefixIndex(capacity)
    for bit, blocks in history:
        index.insert(bit, blocks)
        assert all(index.blocks_of(each) <= capacity for each in range(5))
    found = {bit: depth for depth, mask in index.match(prompt, among) for bit in range(5) if mask >> bit & 1}
    expected = {}
    for bit in range(5):
        mine = held(history, bit, capacity)
        depth = next((at for at, block in enumerate(prompt) if block not in mine), len(prompt))
        if depth and among >> bit & 1:
            expected[bit] = depth
    assert found == expected


def test_a_forgotten_replica_leaves_nothing() -> None:
    index = PrefixIndex(10)
    index.insert(0, [1, 2, 3])
    index.insert(1, [1, 2])
    index.forget(0)
    assert index.match([1, 2, 3], 3) == [(2, 2)]
    index.forget(1)
    assert (len(index), index.match([1], 3)) == (0, [])


def body(*messages: str, before: str = "", after: str = "") -> bytes:
    listed = ",".join(f'{{"role":"user","content":"{message}"}}' for message in messages)
    return ('{"model":"m",' + before + '"messages":[' + listed + "]" + after + "}").encode()


def test_the_next_turn_shares_the_blocks_of_the_last_and_another_conversation_none() -> None:
    first, second, other = "a" * 9_000, "b" * 5_000, "c" * 9_000
    one, both = block_hashes(body(first)), block_hashes(body(first, second))
    assert len(one) == 4
    assert both[:4] == one
    assert len(both) == 6
    assert not set(one) & set(block_hashes(body(other)))


def test_fields_before_the_prompt_do_not_matter_and_words_in_it_are_not_keys() -> None:
    text = 'say \\"messages\\": ' * 500
    assert block_hashes(body(text)) == block_hashes(body(text, before='"temperature":0.5,'))


def test_a_short_prompt_has_no_blocks_and_a_long_one_a_bounded_number() -> None:
    assert block_hashes(body("hi")) == []
    assert len(block_hashes(body("x" * (MAX_BLOCKS + 9) * BLOCK_BYTES))) == MAX_BLOCKS
