"""Fixtures of the catalog's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.catalog.hub import Hub, running_hub


@pytest.fixture
async def hub(anyio_backend: str) -> AsyncIterator[Hub]:
    """A file server on loopback."""
    async with running_hub() as hub:
        yield hub
