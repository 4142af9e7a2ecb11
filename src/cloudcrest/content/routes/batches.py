"""OpenAI's batch API: https://platform.openai.com/docs/api-reference/batch."""

from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloudcrest.content.api import Batch
from cloudcrest.content.http import caller_of, json_response, read_json
from cloudcrest.content.paging import listing, page_request
from cloudcrest.content.service.batches import BatchBody, Batches
from cloudcrest.kernel.units import KIB

_MAX_BODY_BYTES = 64 * KIB
_ENDS = {status: f"{status}_at" for status in ("completed", "failed", "expired", "cancelled")}


def shown(batch: Batch) -> dict[str, Any]:
    """A batch as OpenAI has it."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _seconds(batch.created_at),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": _seconds(batch.expires_at),
        "finalizing_at": _seconds(batch.finalizing_at),
        "cancelling_at": _seconds(batch.cancelling_at),
        **{name: _seconds(batch.ended_at) if batch.status == status else None for status, name in _ENDS.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": batch.cached_input_tokens},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": batch.metadata,
    }


def routes(batches: Batches) -> list[Route]:
    """The routes over a service."""

    async def create(request: Request) -> Response:
        body = await read_json(request, BatchBody, _MAX_BODY_BYTES)
        return json_response(shown(await batches.create(caller_of(request), body)))

    async def listed(request: Request) -> Response:
        query = page_request(request.query_params)
        found = await batches.page(caller_of(request).project_id, query)
        return json_response(listing(found, query, lambda batch: batch.id, shown))

    async def retrieve(request: Request) -> Response:
        found = await batches.find(caller_of(request).project_id, request.path_params["batch_id"])
        return json_response(shown(found))

    async def cancel(request: Request) -> Response:
        found = await batches.cancel(caller_of(request).project_id, request.path_params["batch_id"])
        return json_response(shown(found))

    return [
        Route("/v1/batches", create, methods=["POST"]),
        Route("/v1/batches", listed, methods=["GET"]),
        Route("/v1/batches/{batch_id}", retrieve, methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"]),
    ]


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
