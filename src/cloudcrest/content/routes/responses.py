"""OpenAI's Responses API: https://platform.openai.com/docs/api-reference/responses."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.content.http import caller_of, json_response, read_json
from cloudcrest.content.inference import Answer
from cloudcrest.content.paging import listing, page_request
from cloudcrest.content.responses.answer import Event
from cloudcrest.content.responses.fields import ResponseBody
from cloudcrest.content.responses.refusal import in_own_words
from cloudcrest.content.service.background import Background
from cloudcrest.content.service.responses import Refused, Responses
from cloudcrest.kernel.errors import InvalidInput

_PASSED_ON = ("x-request-timeout-ms", "x-cloudcrest-max-wait")
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def routes(responses: Responses, background: Background) -> list[Route]:
    """The routes over a service."""

    async def create(request: Request) -> Response:
        body = await read_json(request, ResponseBody)
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            running = await responses.begin(caller_of(request), body, headers)
        except Refused as refusal:
            return _refusal(refusal.answer)
        if body.background:
            run = await background.start(caller_of(request), running)
            if body.stream:
                return StreamingResponse(
                    _written(run.events()), headers=_STREAM_HEADERS, media_type="text/event-stream"
                )
            return json_response(running.document)
        if body.stream:
            return StreamingResponse(
                _written(running.events()), headers=_STREAM_HEADERS, media_type="text/event-stream"
            )
        async for _ in running.events():
            continue
        return json_response(running.document)

    async def retrieve(request: Request) -> Response:
        project_id, response_id = caller_of(request).project_id, request.path_params["response_id"]
        found = await responses.find(project_id, response_id)
        if request.query_params.get("stream") == "true":
            run = background.find(project_id, response_id)
            if run is None:
                raise InvalidInput(
                    "only responses in the background are streamed again, until ten minutes after their end",
                    param="stream",
                )
            events = run.events(_starting_after(request.query_params.get("starting_after")))
            return StreamingResponse(_written(events), headers=_STREAM_HEADERS, media_type="text/event-stream")
        going_on = background.under_way(project_id, response_id)
        if going_on is not None:
            return json_response(going_on)
        return Response(found.document, media_type="application/json")

    async def delete(request: Request) -> Response:
        project_id, response_id = caller_of(request).project_id, request.path_params["response_id"]
        if background.find(project_id, response_id) is not None:  # else its end would store it anew
            await background.cancel(project_id, response_id)
        await responses.delete(project_id, response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def items(request: Request) -> Response:
        query = page_request(request.query_params)
        found = await responses.find(caller_of(request).project_id, request.path_params["response_id"])
        listed: list[dict[str, Any]] = msgspec.json.decode(found.items)
        ordered = listed if query.is_ascending else listed[::-1]
        ids = [item["id"] for item in ordered]
        start = ids.index(query.after) + 1 if query.after in ids else 0
        return json_response(listing(ordered[start:], query, lambda item: str(item["id"]), lambda item: item))

    async def cancel(request: Request) -> Response:
        response_id = request.path_params["response_id"]
        return json_response(await background.cancel(caller_of(request).project_id, response_id))

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{response_id}", retrieve, methods=["GET"]),
        Route("/v1/responses/{response_id}", delete, methods=["DELETE"]),
        Route("/v1/responses/{response_id}/input_items", items, methods=["GET"]),
        Route("/v1/responses/{response_id}/cancel", cancel, methods=["POST"]),
    ]


def _starting_after(given: str | None) -> int:
    if given is None:
        return -1
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidInput("starting_after is the number of an event", param="starting_after")
    return int(given)


async def _written(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _refusal(answer: Answer) -> Response:
    headers = {"retry-after": f"{answer.retry_after_seconds:.0f}"} if answer.retry_after_seconds else {}
    return Response(
        in_own_words(answer.body), status_code=answer.status, media_type="application/json", headers=headers
    )
