"""What a dialect is: how a request is read into the canonical one, and how answers and errors are written.

The canonical request is OpenAI's (validate.py). A dialect checks its own fields strictly, as OpenAI's are: what cannot
be honoured is refused by its name and path in the caller's dialect, never dropped.
"""

from typing import Protocol

from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Request
from cloudcrest.kernel.errors import CloudcrestError


class Dialect(Protocol):
    """One endpoint in one dialect."""

    def read(self, request: Request) -> Parsed:
        """The request's body as a canonical one, its `outlet` set to what translates the answer back.

        Raises `InvalidInput` whose `param` is the path of the caller's own field.
        """
        ...

    def error(self, error: CloudcrestError, request_id: str) -> bytes:
        """The JSON document of an error before the first byte of an answer."""
        ...

    def status(self, error: CloudcrestError) -> int:
        """The HTTP status that an error has in this dialect."""
        ...

    def head(self, request_id: str) -> bytes:
        """Header lines of every answer, beside those that all dialects have."""
        ...
