"""What is wrong with a body, in its caller's words. Pure."""

import re

from cloudcrest.gateway.fields import ONE_VALUE
from cloudcrest.kernel.errors import InvalidInput

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<how>contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)
_MAX_SHOWN = 100


def explain(text: str) -> InvalidInput:
    """msgspec's message in the caller's words: the path apart, the unknown field named."""
    match = _PATH.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    field = _FIELD.match(what)
    if field is not None:
        name = field["name"][:_MAX_SHOWN]
        param = f"{path}.{name}" if path else name
        if field["how"] == "missing required":
            return InvalidInput(f"'{param}' is missing", param=param, code="missing_required_parameter")
        return InvalidInput(f"'{param}' is not a known field", param=param, code="unknown_parameter")
    what = what.replace("Invalid enum value", "Unsupported value")
    code = "unsupported_value" if path in ONE_VALUE else None
    return InvalidInput(f"'{path}': {what[:_MAX_SHOWN]}" if path else what[:_MAX_SHOWN], param=path or None, code=code)
