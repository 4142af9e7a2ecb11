"""A chat with tools, as its route's engine and model can take it: told in words, forced by a grammar, read from text.

Which of that is needed follows from the model's `tool_format` (catalog) and the engine. What comes out is a request
like any other, so that budgets, counting and resuming need to know nothing of it. Pure.
"""

from collections.abc import Callable

import msgspec

from cloudcrest.gateway.fields import ChatBody, NamedTool, Tool
from cloudcrest.gateway.outlet import Outlet
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.tools.forced import forced_tools, response_format
from cloudcrest.gateway.tools.formats import FORMS
from cloudcrest.gateway.tools.outlet import FoundCalls, MadeCall, Reader, ToolOutlet
from cloudcrest.gateway.tools.prompt import has_calls, told
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.serving.api import RouteDocument

OURS = ("llamacpp", "vllm")
"""Engines that are told of tools as their model's format says; others take them as they are."""


def adapted(parsed: Parsed, route: RouteDocument) -> Parsed:
    """The same request for this route. Raises `InvalidInput` where the model calls no tools."""
    body = parsed.body
    if not isinstance(body, ChatBody) or route.engine not in OURS:
        return parsed
    if not body.tools and not (route.tool_format == "prompted" and has_calls(body.messages)):
        return parsed
    tools = () if body.tool_choice == "none" else tuple(body.tools or ())
    if route.tool_format is None:
        raise InvalidInput(
            f"the model '{route.model_name}' is not known to call tools",
            param="tools",
            code="unsupported_parameter",
            hint="ask another model, or have the operator set its tool_format in the catalog",
        )
    choice = body.tool_choice
    is_forced = bool(tools) and (choice == "required" or isinstance(choice, NamedTool))
    is_told = route.tool_format == "prompted"
    if not is_told and route.engine == "vllm":  # it does all of that by itself
        return parsed
    if isinstance(choice, NamedTool):
        tools = tuple(forced_tools(tools, choice.function.name))
    return _rewritten(parsed, body, route, tools, is_told=is_told, is_forced=is_forced)


def _rewritten(
    parsed: Parsed, body: ChatBody, route: RouteDocument, tools: tuple[Tool, ...], *, is_told: bool, is_forced: bool
) -> Parsed:
    fields = dict(parsed.fields)
    changes: dict[str, object] = {}
    if is_told:
        messages = told(body.messages, tools, is_forced=is_forced)
        fields["messages"] = msgspec.json.encode(messages)
        changes["messages"] = messages
        changes["tools"] = None
        fields.pop("tools", None)
        fields.pop("parallel_tool_calls", None)
    if is_told or is_forced:
        fields.pop("tool_choice", None)
        changes["tool_choice"] = None
    if is_forced:
        changes["response_format"] = response_format(tools)
        fields["response_format"] = msgspec.json.encode(changes["response_format"])
    changed = msgspec.structs.replace(body, **changes)
    grown = max(0, len(fields["messages"]) - len(parsed.fields["messages"]))
    new = parsed.rewritten(changed, fields)
    new.size_bytes += grown
    new.calls_outlet = _outlet(body, route, tools, is_forced=is_forced) if tools else None
    return new


def _outlet(
    body: ChatBody, route: RouteDocument, tools: tuple[Tool, ...], *, is_forced: bool
) -> Callable[[str], Outlet]:
    make: Callable[[str], Reader]
    if is_forced:
        make = MadeCall
    else:
        forms = FORMS[route.tool_format or "prompted"]
        schemas = {tool.function.name: tool.function.parameters or {} for tool in tools}
        most = 1 if body.parallel_tool_calls is False else None

        def make(prefix: str) -> Reader:
            return FoundCalls(forms, schemas, prefix, most=most)

    return lambda request_id: ToolOutlet(make, request_id)
