"""Turning fetched weights into another format, in a process of its own: memory comes back, and nothing blocks."""

import asyncio
import sys
from pathlib import Path

from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.registry import close_matches

CONVERSIONS = {"minilm-gguf": "cloudcrest.catalog.conversions.minilm_gguf"}
"""Modules run as `python -m <module> <input folder> <output file>`."""

VERSIONS = {"minilm-gguf": 1}
"""Part of a converted artifact's identity: a changed conversion makes a new artifact."""

_MAX_SECONDS = 1800


class ConversionFailed(Unavailable):
    """The weights came whole and could not be converted."""

    default_code = "conversion_failed"


def version_of(name: str) -> int:
    """A conversion's version. Raises `ConversionFailed` when there is none of that name."""
    if name in VERSIONS:
        return VERSIONS[name]
    matches = close_matches(name, list(VERSIONS))
    raise ConversionFailed(f"there is no conversion '{name}'", hint=f"did you mean {matches[0]}?" if matches else None)


async def convert(name: str, inputs: Path, output: Path) -> None:
    """Writes `output` from the files in `inputs`. Raises `ConversionFailed`."""
    version_of(name)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        CONVERSIONS[name],
        str(inputs),
        str(output),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), _MAX_SECONDS)
    except TimeoutError:
        raise ConversionFailed(f"the conversion {name} took longer than {_MAX_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ConversionFailed(f"the conversion {name} failed: {lines[-1] if lines else process.returncode}")
