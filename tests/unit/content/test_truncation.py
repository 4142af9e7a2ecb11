"""What is left out of too long a conversation."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.content.responses.fields import FunctionCallItem, FunctionOutputItem, Item, MessageItem
from cloudcrest.content.responses.request import read_items
from cloudcrest.content.responses.truncation import without_oldest


def items(*written: dict[str, Any]) -> list[Item]:
    return read_items(written, "input", lambda prefix: prefix)


def said(role: str, text: str = "x") -> dict[str, Any]:
    return {"role": role, "content": text}


CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "3"}


def test_the_oldest_go_first_and_the_last_question_never_does() -> None:
    turns = items(said("system"), *(said("user", str(number)) for number in range(9)))
    cut = without_oldest(turns)
    assert cut == [turns[0], *turns[3:]]
    assert without_oldest(items(said("system"), said("user"), said("assistant"))) is None
    assert without_oldest([]) is None


def test_an_output_goes_with_its_call() -> None:
    turns = items(CALL, OUTPUT, said("assistant"), said("user"))
    assert without_oldest(turns) == turns[2:]


_ITEMS = st.lists(st.sampled_from([said("system"), said("user"), said("assistant"), CALL, OUTPUT]), max_size=30)


@given(_ITEMS)
def test_it_ends_with_what_has_to_stay(written: list[dict[str, Any]]) -> None:
    left: list[Item] | None = items(*written)
    kept: list[Item] = []
    while left is not None:
        kept, before = left, len(left)
        left = without_oldest(kept)
        assert left is None or len(left) < before
    systems = [item for item in items(*written) if isinstance(item, MessageItem) and item.role == "system"]
    assert [item for item in kept if isinstance(item, MessageItem) and item.role == "system"] == systems
    calls = [item.call_id for item in kept if isinstance(item, FunctionCallItem)]
    if kept != items(*written):
        assert all(item.call_id in calls for item in kept if isinstance(item, FunctionOutputItem))
