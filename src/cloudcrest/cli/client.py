"""The HTTP client: one request at a time, problems turned into one sentence and what to do."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from cloudcrest import __version__
from cloudcrest.cli.connection import Connection
from cloudcrest.cli.errors import Refused, Unreachable, WrongUsage

API = "/api/v1"
TIMEOUT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 5.0
MAX_PAGE_ITEMS = 200
CSRF_HEADER = "x-csrf-token"

_UNHURRIED = httpx2.Timeout(600.0, connect=CONNECT_TIMEOUT_SECONDS)
"""For what takes as long as it takes."""

Json = dict[str, Any]


class Client:
    """Calls one cloud. `path` arguments begin with a slash; names in them are quoted by `at`."""

    def __init__(
        self,
        connection: Connection,
        *,
        transport: httpx2.BaseTransport | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.connection = connection
        headers = {"user-agent": f"cloudcrest-cli/{__version__}"}
        if connection.key is not None:
            headers["authorization"] = f"Bearer {connection.key}"
        if connection.csrf is not None:
            headers[CSRF_HEADER] = connection.csrf
        self._http = httpx2.Client(
            base_url=connection.base_url,
            headers=headers,
            cookies=connection.cookies,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            transport=transport,
            trust_env=not _is_loopback(connection.base_url),
            verify=_trust(connection.certificate),
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int | bool | None) -> Json:
        """The JSON object at `path`; query parameters that are None are left out."""
        return _json(self.send("GET", path, query=query))

    def post(self, path: str, body: Json | None = None) -> Json:
        return _json(self.send("POST", path, body=body if body is not None else {}))

    def patch(self, path: str, body: Json) -> Json:
        return _json(self.send("PATCH", path, body=body))

    def put(self, path: str, body: Json) -> Json:
        return _json(self.send("PUT", path, body=body))

    def delete(self, path: str) -> Json:
        return _json(self.send("DELETE", path))

    def items(self, path: str, *, limit: int | None = None, **query: str | int | bool | None) -> Iterator[Json]:
        """The items of every page of a list, newest first, `limit` at most. Raises `WrongUsage` for none at all."""
        if limit is not None and limit < 1:
            raise WrongUsage(f"--limit is {limit}, which shows nothing", hint="give 1 or more")
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = MAX_PAGE_ITEMS if left is None else min(left, MAX_PAGE_ITEMS)
            page = self.get(path, limit=size, cursor=cursor, **query)
            items = page.get("data", [])
            yield from items[:left]
            left = None if left is None else left - len(items)
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: dict[str, str | int | bool | None] | None = None,
    ) -> httpx2.Response:
        """One request. Raises `Refused` for an error answer and `Unreachable` where there is none."""
        params = {name: value for name, value in (query or {}).items() if value is not None}
        with self._reaching():
            response = self._http.request(method, path, json=body, params=params or None)
        if response.is_error:
            raise refusal(response)
        return response

    @contextmanager
    def stream(
        self, path: str, body: Json | None = None, *, fields: dict[str, str] | None = None, file: Path | None = None
    ) -> Iterator[httpx2.Response]:
        """A POST whose answer is read as it comes: of JSON, or of a form with fields and a file."""
        with ExitStack() as stack:
            files = None if file is None else {"file": (file.name, stack.enter_context(file.open("rb")))}
            stack.enter_context(self._reaching())
            response = stack.enter_context(self._http.stream("POST", path, json=body, data=fields, files=files))
            if response.is_error:
                response.read()
                raise refusal(response)
            yield response

    @contextmanager
    def reading(self, path: str, *, last_event_id: str = "", **query: str | int | None) -> Iterator[httpx2.Response]:
        """A GET whose answer is read as it comes, for as long as it takes; events after `last_event_id`."""
        params = {name: value for name, value in query.items() if value is not None}
        headers = {"last-event-id": last_event_id} if last_event_id else {}
        with (
            self._reaching(),
            self._http.stream("GET", path, params=params, headers=headers, timeout=_UNHURRIED) as response,
        ):
            if response.is_error:
                response.read()
                raise refusal(response)
            yield response

    def send_bytes(self, method: str, path: str, content: bytes | Iterator[bytes]) -> Json:
        """A request whose body is bytes: all there are, or as they come."""
        with self._reaching():
            response = self._http.request(method, path, content=content, timeout=_UNHURRIED)
        if response.is_error:
            raise refusal(response)
        return _json(response)

    def cookies(self) -> dict[str, str]:
        """The cookies that the cloud has set."""
        return dict(self._http.cookies.items())

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        base_url = self.connection.base_url
        try:
            yield
        except httpx2.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unreachable(
                    f"{base_url} shows a certificate that is not trusted here: {error}",
                    hint="set SSL_CERT_FILE to the certificate of who signed it, or use the name that it is for",
                ) from None
            raise Unreachable(
                f"nothing answers at {base_url} (from {self.connection.source}): {error}",
                hint="start it with `cloudcrest up`, or see `cloudcrest doctor`",
            ) from None
        except httpx2.TimeoutException:
            raise Unreachable(f"{base_url} took too long to answer", hint="see `cloudcrest doctor`") from None
        except httpx2.TransportError as error:
            raise Unreachable(f"the connection to {base_url} broke: {error}", hint="try again") from None


def at(*parts: str) -> str:
    """A path under the management API from its parts: `at("keys", key_id)`."""
    return "/".join((API, *(quote(part, safe="") for part in parts)))


def refusal(response: httpx2.Response) -> Refused:
    """An error answer as an error: a problem document, an inference error, or whatever came."""
    try:
        body = response.json()
    except ValueError:
        body = None
    message, code, hint = f"the cloud answered {response.status_code} {response.reason_phrase}".strip(), None, None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        message, code = str(body["error"].get("message") or message), body["error"].get("code")
    elif isinstance(body, dict) and "detail" in body:
        message, code, hint = _with_field(str(body["detail"]), body.get("errors")), body.get("code"), body.get("hint")
    if hint is None and response.status_code == 401:
        hint = "log in with `cloudcrest login`, or hand in a key with --key"
    return Refused(message, status_code=response.status_code, code=code, hint=hint)


def _with_field(detail: str, errors: object) -> str:
    """What is wrong, and of which field where the sentence does not name it."""
    match errors:
        case [{"field": str(field)}] if field.rpartition(".")[2] not in detail:
            return f"{field}: {detail}"
    return detail


def _json(response: httpx2.Response) -> Json:
    if response.status_code == 204 or not response.content:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(
            f"{response.url} did not answer with JSON", status_code=response.status_code, hint="is this a Cloudcrest?"
        )
    return body


def _trust(certificate: str | None) -> ssl.SSLContext | bool:
    """A cloud of this machine is known by its own certificate, whatever name and whoever that is from."""
    if certificate is None:
        return True
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise Unreachable(f"{certificate} cannot be used: {error}", hint="give --url and SSL_CERT_FILE") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    return host in {"localhost", "::1"} or host.startswith("127.")
