"""Start data: the models that Cloudcrest knows, as files in seeds/, brought into the database at each start."""

import hashlib
import tomllib
from importlib import resources

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog import repository
from cloudcrest.catalog.records import Model
from cloudcrest.kernel.clock import Clock

_FOLDER = "seeds"


def read_seeds() -> list[Model]:
    """Every seeded model, parsed and checked for its shape. Raises `msgspec.ValidationError` naming what is wrong."""
    models: list[Model] = []
    folder = resources.files("cloudcrest.catalog") / _FOLDER
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            document = tomllib.loads(file.read_text(encoding="utf-8"))
            models += msgspec.convert(document["models"], list[Model])
    return models


async def seed(session: AsyncSession, *, clock: Clock) -> None:
    """Adds what is new and follows what changed; what operators changed or deleted is left as they made it."""
    states = await repository.seed_states(session)
    stale = []
    for model in read_seeds():
        digest = hashlib.sha256(msgspec.json.encode(model)).hexdigest()
        origin, applied = states.get(model.id, ("seed", None))
        if origin == "seed" and applied != digest:
            stale.append((model, digest))
    await repository.save_all(session, stale, origin="seed", now=clock.now())
