"""The deployments that a new cloud starts with."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.serving import repository
from cloudcrest.serving.service import DeploymentService, Wish

FIRST_MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")
"""A chat and an embedding model that run on any machine."""


async def seed(
    session: AsyncSession, service: DeploymentService, *, region: str = "local", models: Sequence[str] = FIRST_MODELS
) -> None:
    """Deploys the first models where there never was a deployment: what an operator deletes stays deleted."""
    if await repository.was_any_published(session):
        return
    for model_id in models:
        await service.create(session, model_id=model_id, region=region, wish=Wish(slots=4))
