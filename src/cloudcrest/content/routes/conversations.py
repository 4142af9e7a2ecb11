"""OpenAI's Conversations API: https://platform.openai.com/docs/api-reference/conversations."""

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudcrest.content.api import Conversation
from cloudcrest.content.http import caller_of, json_response, read_json
from cloudcrest.content.paging import PageRequest, listing, page_request
from cloudcrest.content.repository.conversations import Encoded
from cloudcrest.content.responses.conversation import ConversationBody, ConversationChange, ItemsBody
from cloudcrest.content.service.conversations import Conversations


def routes(conversations: Conversations) -> list[Route]:
    """The routes over a service."""

    async def create(request: Request) -> Response:
        body = await read_json(request, ConversationBody)
        return _shown(await conversations.create(caller_of(request), body))

    async def retrieve(request: Request) -> Response:
        return _shown(await conversations.find(*_named(request)))

    async def change(request: Request) -> Response:
        body = await read_json(request, ConversationChange)
        return _shown(await conversations.set_metadata(*_named(request), body.metadata or {}))

    async def delete(request: Request) -> Response:
        project_id, conversation_id = _named(request)
        await conversations.delete(project_id, conversation_id)
        return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def add_items(request: Request) -> Response:
        body = await read_json(request, ItemsBody)
        added = await conversations.add_items(*_named(request), body.items)
        return _listed(added, PageRequest(limit=len(added)))

    async def list_items(request: Request) -> Response:
        query = page_request(request.query_params)
        return _listed(await conversations.page(*_named(request), query), query)

    async def item(request: Request) -> Response:
        document = await conversations.item(*_named(request), request.path_params["item_id"])
        return Response(document, media_type="application/json")

    async def delete_item(request: Request) -> Response:
        return _shown(await conversations.delete_item(*_named(request), request.path_params["item_id"]))

    one = "/v1/conversations/{conversation_id}"
    return [
        Route("/v1/conversations", create, methods=["POST"]),
        Route(one, retrieve, methods=["GET"]),
        Route(one, change, methods=["POST"]),
        Route(one, delete, methods=["DELETE"]),
        Route(f"{one}/items", add_items, methods=["POST"]),
        Route(f"{one}/items", list_items, methods=["GET"]),
        Route(f"{one}/items/{{item_id}}", item, methods=["GET"]),
        Route(f"{one}/items/{{item_id}}", delete_item, methods=["DELETE"]),
    ]


def _named(request: Request) -> tuple[str, str]:
    return caller_of(request).project_id, request.path_params["conversation_id"]


def _shown(conversation: Conversation) -> Response:
    return json_response(
        {
            "id": conversation.id,
            "object": "conversation",
            "created_at": int(conversation.created_at.timestamp()),
            "metadata": msgspec.Raw(conversation.metadata),
        }
    )


def _listed(items: Sequence[Encoded], query: PageRequest) -> Response:
    return json_response(listing(items, query, lambda item: item.id, lambda item: msgspec.Raw(item.document)))
