"""`python -m cloudcrest.serving.prepare '<json>'`: makes this node ready for a replica, saying how far it is."""

import asyncio
import sys
from pathlib import Path

import msgspec

from cloudcrest.catalog.store import ArtifactStore
from cloudcrest.infra.lifeline import exit_with_lifeline
from cloudcrest.infra.settings import decode_path
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.preparation import Order, PreparingHere, Said


def main(argv: list[str]) -> int:
    """Prepares. The exit code is 1 where that failed; the last line says why, or where the weights are."""
    exit_with_lifeline()
    order = msgspec.json.decode(argv[0], type=Order, dec_hook=decode_path)
    try:
        path = asyncio.run(_prepare(order))
    except CloudcrestError as error:
        _say(Said(failure=str(error)))
        return 1
    _say(Said(path=None if path is None else str(path), is_done=True))
    return 0


async def _prepare(order: Order) -> Path | None:
    folders = order.folders
    engine = create_engines(EngineSettings(runtimes_folder=folders.runtimes_folder))[order.document.engine]
    here = PreparingHere(ArtifactStore(folders.models_folder, folders.catalog))
    return await here.prepare("", order.document, engine, _say)


def _say(said: Said) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
