"""Identity on a real database."""

from collections.abc import AsyncIterator

import pytest

from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import Cloud, Tenant, build, register


@pytest.fixture
async def cloud(database: Database, clock: ManualClock, anyio_backend: str) -> AsyncIterator[Cloud]:
    """Identity's part of the control plane."""
    built = build(database, clock)
    yield built
    await built.close()


@pytest.fixture
async def ada(cloud: Cloud) -> Tenant:
    """A tenant."""
    return await register(cloud, "ada")


@pytest.fixture
async def bob(cloud: Cloud) -> Tenant:
    """Another tenant, who is to know nothing of the first."""
    return await register(cloud, "bob")
