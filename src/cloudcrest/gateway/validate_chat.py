"""What the types of a chat's fields cannot say: which go together, and how deep they may be. Pure."""

import re
from collections.abc import Sequence

from cloudcrest.gateway.fields import ChatBody, ImagePart, Message, NamedTool
from cloudcrest.kernel.errors import InvalidInput

MAX_NESTING = 64
_IMAGE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*\Z")


def check_tools(body: ChatBody) -> None:
    """Raises `InvalidInput` for tools of one name, nested too deeply, or missing."""
    names: set[str] = set()
    for index, tool in enumerate(body.tools or ()):
        if tool.function.name in names:
            raise InvalidInput("another tool has this name", param=f"tools[{index}].function.name")
        names.add(tool.function.name)
        check_nesting(tool.function.parameters, f"tools[{index}].function.parameters")
    if isinstance(body.tool_choice, NamedTool) and body.tool_choice.function.name not in names:
        raise InvalidInput("none of the tools has this name", param="tool_choice.function.name")


def wrong_in(message: Message) -> tuple[str, str] | None:
    """The field of a message that does not go with its role, and why."""
    role = message.role
    if (role == "tool") != (message.tool_call_id is not None):
        return "tool_call_id", "tool messages, and only they, have a tool_call_id"
    if role == "assistant":
        if message.content is None and not (message.tool_calls or message.refusal):
            return "content", "a message of role assistant needs content"
        return None
    if message.content is None:
        return "content", f"a message of role {role} needs content"
    if message.tool_calls is not None or message.refusal is not None or message.reasoning_content is not None:
        name = next(
            name for name in ("tool_calls", "refusal", "reasoning_content") if getattr(message, name) is not None
        )
        return name, f"only assistant messages have {name}"
    return None


def wrong_image(role: str, content: Sequence[object]) -> tuple[str, str] | None:
    """The image among the parts of a message that cannot be taken, and why."""
    for index, part in enumerate(content):
        if isinstance(part, ImagePart):
            if role != "user":
                return f"content[{index}]", "images go with role user"
            if not _IMAGE.match(part.image_url.url):
                why = "is to be the image itself: data:image/png;base64,… (or jpeg, webp, gif)"
                return f"content[{index}].image_url.url", why
    return None


def check_nesting(value: object, path: str) -> None:
    """Raises `InvalidInput` where a schema is nested so deeply that an engine could trip over it."""
    level = [value]
    for _ in range(MAX_NESTING):
        following: list[object] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
        if not following:
            return
        level = following
    raise InvalidInput(f"nested deeper than {MAX_NESTING} levels", param=path)
