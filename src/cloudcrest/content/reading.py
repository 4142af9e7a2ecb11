"""JSON that callers wrote, in a request or in a line of a batch. Pure."""

from typing import TypeVar

import msgspec

from cloudcrest.gateway.explain import explain
from cloudcrest.kernel.errors import InvalidInput

Body = TypeVar("Body")


def decode(data: bytes, wanted: type[Body]) -> Body:
    """JSON as this struct. Raises `InvalidInput` whose `param` is the wrong field's path."""
    try:
        return msgspec.json.decode(data or b"{}", type=wanted)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", code="invalid_json") from None
