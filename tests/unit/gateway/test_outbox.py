"""The outbox: everything goes out in order, whoever leaves meanwhile."""

import asyncio

import pytest

from cloudcrest.gateway.outbox import FEW, TRY_AGAIN_AFTER, Outbox

pytestmark = pytest.mark.anyio


async def test_what_is_put_goes_out_together_in_order() -> None:
    outbox, written = Outbox(), list[bytes]()
    for data in (b"a", b"b", b"c"):
        outbox.put(written.append, data)
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"a", b"b", b"c"]
    outbox.put(written.append, b"d")
    outbox.flush()
    assert written[-1] == b"d"
    await asyncio.sleep(0)
    assert len(written) == 4


async def test_a_client_that_has_left_costs_the_others_nothing() -> None:
    outbox, written = Outbox(), list[bytes]()

    def gone(_: bytes) -> None:
        raise RuntimeError("unable to perform operation, the handler is closed")

    outbox.put(gone, b"a")
    outbox.put(written.append, b"b")
    await asyncio.sleep(0)
    assert written == [b"b"]


async def test_where_little_comes_at_once_nothing_waits() -> None:
    outbox, written = Outbox(), list[bytes]()
    for number in range(2 * (TRY_AGAIN_AFTER + 1)):
        outbox.put(written.append, b"%d" % number)
        has_waited = len(written) == number
        assert has_waited == (number % (TRY_AGAIN_AFTER + 1) == 0)
        await asyncio.sleep(0)
    for _ in range(FEW):
        outbox.put(written.append, b"more")
    await asyncio.sleep(0)
    outbox.put(written.append, b"last")
    assert written[-1] == b"more"
