"""Volumes of a project in its region: folders to jobs, objects by name to the API.

POST   /v1/volumes {name, quota_bytes?}          GET /v1/volumes          GET, DELETE /v1/volumes/NAME
GET    /v1/volumes/NAME/objects?prefix=&after=&limit=
PUT, GET, DELETE /v1/volumes/NAME/objects/OBJECT…
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.compute.volumes.folders import Incoming, Volume, VolumeFolders, VolumeObject
from cloudcrest.content.http import caller_of, json_response, read_json
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded
from cloudcrest.kernel.places import Places
from cloudcrest.kernel.units import KIB, MIB

_MAX_BODY_BYTES = 16 * KIB
_MOST_LISTED = 1000
_PIECE_BYTES = 1 * MIB
_UPLOADS, _PROJECT_UPLOADS = 32, 8


class NewVolume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A volume that is wanted. `quota_bytes`: what it may hold; None: as much as one may."""

    name: str
    quota_bytes: Annotated[int, msgspec.Meta(gt=0, lt=2**60)] | None = None


def routes(volumes: VolumeFolders) -> list[Route]:
    """The routes over the volumes."""
    return [*_volume_routes(volumes), *_object_routes(volumes)]


def _volume_routes(volumes: VolumeFolders) -> list[Route]:
    # One is made at a time, so that a project's count holds.
    making = asyncio.Lock()

    async def create(request: Request) -> Response:
        wanted = await read_json(request, NewVolume, _MAX_BODY_BYTES)
        project_id = caller_of(request).project_id
        async with making:
            made = await asyncio.to_thread(volumes.create, project_id, wanted.name, wanted.quota_bytes)
        return json_response(_volume(made), 201)

    async def listed(request: Request) -> Response:
        found = await asyncio.to_thread(volumes.volumes, caller_of(request).project_id)
        return json_response({"object": "list", "data": [_volume(each) for each in found]})

    async def shown(request: Request) -> Response:
        project_id, name = caller_of(request).project_id, request.path_params["name"]
        found = await asyncio.to_thread(volumes.find, project_id, name)
        used_bytes = await asyncio.to_thread(volumes.used_bytes, project_id, name)
        return json_response({**_volume(found), "used_bytes": used_bytes})

    async def delete(request: Request) -> Response:
        name = request.path_params["name"]
        await asyncio.to_thread(volumes.delete, caller_of(request).project_id, name)
        return json_response({"name": name, "object": "volume", "deleted": True})

    return [
        Route("/v1/volumes", create, methods=["POST"]),
        Route("/v1/volumes", listed, methods=["GET"]),
        Route("/v1/volumes/{name}", shown, methods=["GET"]),
        Route("/v1/volumes/{name}", delete, methods=["DELETE"]),
    ]


def _object_routes(volumes: VolumeFolders) -> list[Route]:
    uploads = Places(_UPLOADS, _PROJECT_UPLOADS)

    async def objects(request: Request) -> Response:
        query = request.query_params
        limit = _limit(query.get("limit"))
        found = await asyncio.to_thread(
            volumes.objects,
            caller_of(request).project_id,
            request.path_params["name"],
            prefix=query.get("prefix", ""),
            after=query.get("after", ""),
            limit=limit + 1,
        )
        data = [_object(each) for each in found[:limit]]
        return json_response({"object": "list", "data": data, "has_more": len(found) > limit})

    async def put(request: Request) -> Response:
        project_id, name, path = _named(request)
        if not uploads.is_free(project_id):
            raise LimitExceeded("too many uploads at once", retry_after_seconds=1)
        with uploads.held(project_id):
            incoming = await asyncio.to_thread(volumes.receive, project_id, name, path)
            try:
                await _receive(request, incoming)
            finally:
                await asyncio.to_thread(incoming.discard)
        return json_response({"name": path, "object": "volume.object", "size_bytes": incoming.size_bytes}, 201)

    async def get(request: Request) -> Response:
        project_id, name, path = _named(request)
        file = await asyncio.to_thread(volumes.open, project_id, name, path)
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(path.rsplit('/', 1)[-1])}",
            # What tenants put there is never shown as a page of ours.
            "x-content-type-options": "nosniff",
        }
        return StreamingResponse(_pieces(file), headers=headers, media_type="application/octet-stream")

    async def delete(request: Request) -> Response:
        project_id, name, path = _named(request)
        await asyncio.to_thread(volumes.remove, project_id, name, path)
        return json_response({"name": path, "object": "volume.object", "deleted": True})

    return [
        Route("/v1/volumes/{name}/objects", objects, methods=["GET"]),
        Route("/v1/volumes/{name}/objects/{path:path}", put, methods=["PUT"]),
        Route("/v1/volumes/{name}/objects/{path:path}", get, methods=["GET"]),
        Route("/v1/volumes/{name}/objects/{path:path}", delete, methods=["DELETE"]),
    ]


async def _receive(request: Request, incoming: Incoming) -> None:
    async for piece in request.stream():
        await asyncio.to_thread(incoming.write, piece)
    await asyncio.to_thread(incoming.commit)


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece
    finally:
        file.close()


def _named(request: Request) -> tuple[str, str, str]:
    return caller_of(request).project_id, request.path_params["name"], request.path_params["path"]


def _limit(text: str | None) -> int:
    if text is None:
        return _MOST_LISTED
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _MOST_LISTED):
        raise InvalidInput(f"'limit' is a number from 1 to {_MOST_LISTED}", param="limit")
    return int(text)


def _volume(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.name,
        "object": "volume",
        "created_at": int(volume.created_at),
        "quota_bytes": volume.quota_bytes,
    }


def _object(each: VolumeObject) -> dict[str, Any]:
    return {
        "name": each.name,
        "object": "volume.object",
        "size_bytes": each.size_bytes,
        "modified_at": int(each.modified_at),
    }
