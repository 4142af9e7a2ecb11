"""A parsed request head, and the faces through which the server side and the application see each other."""

from math import inf
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from cloudcrest.gateway.errors import ExpectationFailed, error_document
from cloudcrest.gateway.http1 import Headers, listed
from cloudcrest.gateway.rounds import RoundTransport
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput

if TYPE_CHECKING:
    from cloudcrest.gateway.dialects.api import Dialect

TIMEOUT_HEADER = b"x-request-timeout-ms"
MAX_WAIT_HEADER = b"x-cloudcrest-max-wait"
_KEPT = {
    b"origin": "origin",
    TIMEOUT_HEADER: "timeout",
    MAX_WAIT_HEADER: "max_wait",
    b"x-cloudcrest-on-behalf-of": "behalf_of",
    b"x-cloudcrest-tier": "tier",
}
"""Headers that are kept as they were written, the last one where there are several."""
_READ_HEADERS = frozenset(
    (
        b"content-length",
        b"authorization",
        b"x-api-key",
        b"host",
        b"transfer-encoding",
        b"expect",
        b"connection",
        *_KEPT,
    )
)


class Request:
    """One request. Header names are lower case. `body` is whole, unless the request is streamed to its responder.

    `extra_head`: header lines that every answer to it carries. `refusal`: why it is answered with an error unread.
    `key_digest`: of the key it was sent with, once it was looked at. `dialect`: its path's, where that is not OpenAI's.
    `timeout`: how long its caller gives it, `max_wait`: how long it waits at a limit, both as written. `deadline`: when
    it is ended, in monotonic seconds. `behalf_of`: the key's id that our content service asks for; `is_batch`: for a
    batch of it (behalf.py). `is_plain`: it asks a model in OpenAI's dialect, with a head in which nothing else is to be
    looked for.
    """

    id: str = ""
    key_digest: bytes | None = None
    dialect: "Dialect | None" = None
    peer: str = ""
    path: str = ""
    query: bytes = b""
    body: bytes = b""
    extra_head: bytes = b""
    refusal: CloudcrestError | None = None
    is_streamed: bool = False
    content_length: int | None = None
    is_chunked: bool = False
    expects_continue: bool = False
    authorization: bytes | None = None
    api_key: bytes | None = None
    origin: bytes | None = None
    host: bytes | None = None
    timeout: bytes | None = None
    max_wait: bytes | None = None
    behalf_of: bytes | None = None
    tier: bytes | None = None
    is_batch: bool = False
    is_plain: bool = False
    timeout_seconds: float = inf
    deadline: float = inf

    def __init__(self, method: bytes, target: bytes, version: str, headers: Headers, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.is_http_1_0 = version == "1.0"
        self.is_head = method == b"HEAD"

    @property
    def credentials(self) -> bytes | None:
        """Its Authorization header, or what stands for one: Anthropic's clients send a key as `x-api-key`."""
        if self.authorization is None and self.api_key is not None:
            return b"Bearer " + self.api_key
        return self.authorization

    def error_document(self, error: CloudcrestError) -> bytes:
        """An error as its dialect writes it, before the first byte of an answer."""
        return error_document(error) if self.dialect is None else self.dialect.error(error, self.id)

    def error_status(self, error: CloudcrestError) -> int:
        """The status that goes with it."""
        return error.status if self.dialect is None else self.dialect.status(error)

    def pristine(self) -> "Request":
        """A request with this head that nothing has been done with, for `again`."""
        twin = Request(self.method, self.target, "1.0" if self.is_http_1_0 else "1.1", self.headers, self.keep_alive)
        twin.read_head()
        twin.peer, twin.key_digest, twin.is_plain = self.peer, self.key_digest, self.is_plain
        return twin

    def again(self, body: bytes) -> "Request":
        """A request with the head of this pristine one but for its length, and this body; both are of HTTP/1.1."""
        twin = Request(self.method, self.target, "1.1", self.headers, self.keep_alive)
        twin.peer, twin.path, twin.query, twin.key_digest = self.peer, self.path, self.query, self.key_digest
        twin.authorization, twin.api_key, twin.host = self.authorization, self.api_key, self.host
        twin.origin, twin.timeout, twin.max_wait = self.origin, self.timeout, self.max_wait
        twin.body, twin.content_length, twin.is_plain = body, len(body), self.is_plain
        return twin

    def beside(self, path: str, request_id: str) -> "Request":
        """A request of our own for the same caller, with nothing of this one but who it is from."""
        other = Request(b"POST", path.encode(), "1.1", [], keep_alive=True)
        other.path, other.id, other.peer = path, request_id, self.peer
        other.key_digest, other.behalf_of = self.key_digest, self.behalf_of
        return other

    def read_head(self) -> None:
        """Takes out what the server needs. Raises `InvalidInput` for what could be read in two ways."""
        for name, value in self.headers:
            if name in _READ_HEADERS:
                self._read_header(name, value)
        if self.host is None and not self.is_http_1_0:
            raise InvalidInput("a Host header is needed", code="bad_http")
        self._read_target()

    def _read_header(self, name: bytes, value: bytes) -> None:
        if name in _KEPT:
            setattr(self, _KEPT[name], value)
            return
        match name:
            case b"content-length":
                self.content_length = int(value)
            case b"authorization":
                self.authorization = _once(self.authorization, value, name)
            case b"x-api-key":
                self.api_key = _once(self.api_key, value, name)
            case b"host":
                self.host = _once(self.host, value, name)
            case b"transfer-encoding":
                if value.strip().lower() != b"chunked" or self.is_http_1_0 or self.is_chunked:
                    raise InvalidInput("only 'Transfer-Encoding: chunked' of HTTP/1.1 is understood", code="bad_http")
                self.is_chunked = True
            case b"expect":
                if value.strip().lower() != b"100-continue":
                    raise ExpectationFailed("only 'Expect: 100-continue' is understood")
                self.expects_continue = not self.is_http_1_0
            case b"connection":
                if b"close" in listed(value):
                    self.keep_alive = False

    def _read_target(self) -> None:
        target = self.target
        if not target.startswith(b"/") and not (target == b"*" and self.method == b"OPTIONS"):
            raise InvalidInput("the request target is to be a path", code="bad_http")
        path, _, self.query = target.partition(b"?")
        if b"#" in path:
            raise InvalidInput("a request target has no fragment", code="bad_http")
        text = path.decode("latin-1")
        self.path = unquote(text, errors="replace") if "%" in text else text


def _once(present: bytes | None, value: bytes, name: bytes) -> bytes:
    if present is not None:
        raise InvalidInput(f"the header {name.decode()} was sent twice", code="bad_http")
    return value


class Responder(Protocol):
    """Who answers a request. It writes through the connection and calls its `finish` once."""

    def client_gone(self) -> None:
        """The client's connection is lost; nothing can be written any more."""

    def client_paused(self) -> None:
        """The client reads too slowly: stop writing until `client_resumed`."""

    def client_resumed(self) -> None: ...

    def deadline_passed(self) -> None:
        """The request's time is over: ends it with an error."""

    def body_data(self, data: bytes) -> None:
        """A part of the body of a streamed request."""

    def body_end(self) -> None:
        """The body of a streamed request is whole."""


class Connection(Protocol):
    """A client's connection, as responders see it."""

    is_tls: bool

    @property
    def transport(self) -> RoundTransport | None:
        """What `write` writes to; None: nothing is streamed to it."""

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        """Answers the current request with a whole body and finishes it. `extra`: more header lines."""

    def respond_error(self, error: CloudcrestError) -> None:
        """Answers the current request with an error in its dialect's shape and finishes it."""

    def start_answer(self, status: int, headers: bytes) -> None:
        """Writes a head: `headers` are lines that include the framing; the common ones are added."""

    def write(self, data: bytes) -> None:
        """Writes bytes of the body, already framed."""

    def finish(self, *, close: bool = False) -> None:
        """The answer is whole. `close`: the connection cannot be used again."""

    def hold_body(self, is_held: bool) -> None:
        """Stops or goes on reading the body of a streamed request."""


class Application(Protocol):
    """What the server side asks of the application."""

    def check(self, request: Request) -> None:
        """Called when the head is there: may set `is_streamed`, `refusal` and `extra_head`."""

    def handle(self, connection: Connection, request: Request) -> Responder | None:
        """Called when it is this request's turn. None: it has been answered."""
