"""OpenAI's file API: https://platform.openai.com/docs/api-reference/files."""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.content.api import StoredFile
from cloudcrest.content.http import caller_of, json_response
from cloudcrest.content.paging import listing, page_request
from cloudcrest.content.service.files import Files

_MOST_LISTED = 10_000


def shown(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI has it."""
    document: dict[str, Any] = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
    if file.expires_at is not None:
        document["expires_at"] = int(file.expires_at.timestamp())
    return document


def routes(files: Files) -> list[Route]:
    """The routes over a service."""

    async def upload(request: Request) -> Response:
        announced = request.headers.get("content-length", "")
        size_bytes = int(announced) if announced.isdigit() else None
        content_type = request.headers.get("content-type", "")
        return json_response(shown(await files.upload(caller_of(request), request.stream(), content_type, size_bytes)))

    async def listed(request: Request) -> Response:
        query = page_request(request.query_params, limit=_MOST_LISTED, most=_MOST_LISTED)
        purpose = request.query_params.get("purpose")
        found = await files.page(caller_of(request).project_id, query, purpose)
        return json_response(listing(found, query, lambda file: file.id, shown))

    async def retrieve(request: Request) -> Response:
        return json_response(shown(await files.find(caller_of(request).project_id, request.path_params["file_id"])))

    async def content(request: Request) -> Response:
        file = await files.find(caller_of(request).project_id, request.path_params["file_id"])
        headers = {
            "content-length": str(file.size_bytes),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
            # What tenants upload is never shown as a page of ours.
            "x-content-type-options": "nosniff",
        }
        return StreamingResponse(files.content(file), headers=headers, media_type="application/octet-stream")

    async def delete(request: Request) -> Response:
        file_id = request.path_params["file_id"]
        await files.delete(caller_of(request).project_id, file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})

    return [
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files", listed, methods=["GET"]),
        Route("/v1/files/{file_id}", retrieve, methods=["GET"]),
        Route("/v1/files/{file_id}", delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", content, methods=["GET"]),
    ]
