"""What a request has in common with the other turns of its conversation. Pure."""

from cloudcrest.gateway.fields import ChatBody, CompletionBody
from cloudcrest.gateway.parsed import Body

_MAX_CHARACTERS = 2_000


def conversation(body: Body) -> bytes:
    """The same for each turn of a chat: what it says up to its first word of the user. Empty: it has no turns."""
    if isinstance(body, CompletionBody):
        return str(body.prompt[:_MAX_CHARACTERS]).encode("utf-8", "replace")
    if not isinstance(body, ChatBody):
        return b""
    said = []
    for message in body.messages:
        said.append(f"{message.role}:{str(message.content)[:_MAX_CHARACTERS]}")
        if message.role == "user":
            break
    return "\n".join(said).encode("utf-8", "replace")
