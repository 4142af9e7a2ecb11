"""A few clients that chat without pause, and the check that what they were told equals what was charged."""

import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from tests.support.cloud import Cloud
from tests.support.waiting import until

_CLIENTS = 2
_MAX_TOKENS = 6


class Answered(msgspec.Struct, frozen=True):
    """A response that came whole."""

    request_id: str
    input_tokens: int
    output_tokens: int


class Load:
    """Chats from `with` to its end. Failures while something is killed are expected; wrong counts are not."""

    def __init__(self, cloud: Cloud, model: str) -> None:
        self._cloud = cloud
        self._model = model
        self._base_url = cloud.base_url
        self._headers = {"authorization": f"Bearer {cloud.api_key}"}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered: list[Answered] = []
        self.attempts = 0
        self._began_at = datetime.now(UTC)  # usage of what was asked before may still be on its way
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 1,)) for number in range(_CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends nothing more and waits for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Waits for `count` more answers."""
        wanted = len(self.answered) + count
        until(lambda: len(self.answered) >= wanted, f"{count} more answers", seconds=60)

    def check_usage(self) -> None:
        """Each answer is in usage once, with the tokens it said, and nothing is there that was not asked for."""
        expected = {answer.request_id: answer for answer in self.answered}
        assert len(expected) == len(self.answered)

        def arrived() -> dict[str, dict[str, Any]] | None:
            try:
                found = usage(self._cloud)
            except httpx2.HTTPError:  # the database is just coming back
                return None
            new = {event["id"]: event for event in found if _started_at(event) >= self._began_at}
            return new if expected.keys() <= new.keys() else None

        events = until(arrived, "the usage of every answer", seconds=60) or {}
        for request_id, answer in expected.items():
            counted = events[request_id]["usage"]
            assert (counted["input_tokens"], counted["output_tokens"]) == (answer.input_tokens, answer.output_tokens)
            assert events[request_id]["charge"] is not None
        assert len(events) <= self.attempts

    def _run(self, is_stream: bool) -> None:
        with httpx2.Client(base_url=self._base_url, headers=self._headers, timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                with self._lock:
                    self.attempts += 1
                try:
                    answer = self._ask(client, is_stream=is_stream)
                except (httpx2.HTTPError, msgspec.DecodeError):
                    answer = None
                if answer is None:
                    self._stop.wait(0.1)
                    continue
                with self._lock:
                    self.answered.append(answer)

    def _ask(self, client: httpx2.Client, *, is_stream: bool) -> Answered | None:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": _MAX_TOKENS,
        }
        if is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        response = client.post("/v1/chat/completions", json=body)
        if response.status_code != 200:
            return None
        counted = _usage_of_stream(response.text) if is_stream else response.json()["usage"]
        if counted is None:
            return None
        return Answered(response.headers["x-request-id"], counted["prompt_tokens"], counted["completion_tokens"])


def _started_at(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["started_at"])


def usage(cloud: Cloud) -> list[dict[str, Any]]:
    """Every usage event of the first organization."""
    events: list[dict[str, Any]] = []
    cursor = None
    with cloud.client() as client:
        while True:
            parameters = {"limit": 200} if cursor is None else {"limit": 200, "cursor": cursor}
            answer = client.get("/api/v1/usage", params=parameters)
            answer.raise_for_status()
            events += answer.json()["data"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return events


def verify_ledger(cloud: Cloud) -> None:
    """The ledger equals a replay of all usage."""

    def look() -> dict[str, Any] | None:
        answer = client.post("/api/v1/ledger/verify", json={})
        report: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return report

    with cloud.client(cloud.operator_key) as client:
        report = until(look, "the verification of the ledger")
    assert report is not None
    assert report["ok"], report


def _usage_of_stream(text: str) -> dict[str, int] | None:
    """The usage in a stream that came whole; None when it was cut off or ended in an error."""
    chunks = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not chunks or chunks[-1] != "[DONE]":
        return None
    for chunk in reversed(chunks[:-1]):
        found: dict[str, int] | None = msgspec.json.decode(chunk).get("usage")
        if found:
            return found
    return None
