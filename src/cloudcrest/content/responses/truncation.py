"""What is left out of a conversation that is too long for its model, where the caller has asked for that. Pure."""

from collections.abc import Sequence

from cloudcrest.content.responses.fields import FunctionCallItem, FunctionOutputItem, Item, MessageItem

_STAYS = ("system", "developer")
_PARTS = 4


def without_oldest(items: Sequence[Item]) -> list[Item] | None:
    """Without the oldest quarter of what may go. None: nothing may.

    What stays: what the system says, and all from the user's last message on. An output goes with its call.
    """
    asks = [index for index, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"]
    last = asks[-1] if asks else len(items) - 1
    may_go = [index for index, item in enumerate(items[:last]) if not _stays(item)]
    if not may_go:
        return None
    gone = {*may_go[: -(-len(may_go) // _PARTS)]}
    left = [item for index, item in enumerate(items) if index not in gone]
    calls = {item.call_id for item in left if isinstance(item, FunctionCallItem)}
    return [item for item in left if not isinstance(item, FunctionOutputItem) or item.call_id in calls]


def _stays(item: Item) -> bool:
    return isinstance(item, MessageItem) and item.role in _STAYS
