"""The deployments of a first start, made through the public API like anybody's."""

from typing import Any

import httpx2

from cloudcrest.kernel.errors import SetupError

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"

_DEPLOYMENTS: tuple[dict[str, Any], ...] = (
    {"model": CHAT_MODEL, "engine": "llamacpp", "slots": 4, "context_tokens": 4096},
    {"model": EMBEDDING_MODEL, "engine": "llamacpp"},
)


async def create_default_deployments(management: httpx2.AsyncClient) -> None:
    """Creates the deployments of the default models where there is none of that model yet."""
    known = {deployment["model_name"] for deployment in await list_deployments(management)}
    for body in _DEPLOYMENTS:
        if body["model"] in known:
            continue
        answer = await management.post("/api/v1/deployments", json=body)
        if answer.status_code not in (200, 201, 409):
            raise SetupError(
                f"the deployment of {body['model']} was refused: {answer.text[:500]}", hint="see logs/control.log"
            )


async def list_deployments(management: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """Every deployment, oldest first, as the API gives them. Raises `httpx2.HTTPError`."""
    deployments: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        answer = await management.get(
            "/api/v1/deployments", params={"limit": 200, **({"cursor": cursor} if cursor else {})}
        )
        answer.raise_for_status()
        page = answer.json()
        deployments += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return deployments[::-1]
