"""A member's folder on its node: where its inputs come to, what it may write, and what is kept of that.

    <folder>/record.json      what is charged follows from it
    <folder>/log/<offset>     its output
    <folder>/work/            its own, in which the command starts; `outputs/` in it is kept

What a tenant wrote is never followed: links are neither read nor counted.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2

from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import Input, Output, Outputs
from cloudcrest.infra.outbound import OutboundPolicy, guarded_client
from cloudcrest.infra.safe_paths import open_inside, split_name, walk
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, TooLarge, Unavailable
from cloudcrest.kernel.units import format_bytes

_PIECE_BYTES = 1024 * 1024


async def fetch(
    wanted: Input, work: Path, policy: OutboundPolicy, most_bytes: int, *, client: httpx2.AsyncClient | None = None
) -> int:
    """Fetches an input from its address; returns its size. Raises `Unavailable`, `PermissionDenied`, `TooLarge`."""
    http = client or guarded_client(policy)
    try:
        async with http.stream("GET", wanted.url, follow_redirects=True) as answer:
            if answer.is_error:
                raise Unavailable(f"the input {wanted.path} cannot be fetched: its server answers {answer.status_code}")
            return await receive(wanted, work, answer.aiter_bytes(_PIECE_BYTES), most_bytes)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unavailable(f"the input {wanted.path} cannot be fetched: {error}") from error
    finally:
        if client is None:
            await http.aclose()


async def receive(wanted: Input, work: Path, pieces: AsyncIterator[bytes], most_bytes: int) -> int:
    """Writes an input into the work folder as it comes; returns its size. Raises `TooLarge`, `InvalidInput`."""
    size, digest = 0, hashlib.sha256()
    descriptor = open_inside(work, wanted.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, make_folders=True)
    with os.fdopen(descriptor, "wb") as file:
        async for piece in pieces:
            size += len(piece)
            if size > most_bytes:
                raise TooLarge(
                    f"the inputs are larger than the {format_bytes(most_bytes)} of disk that the job asks for"
                )
            digest.update(piece)
            await asyncio.to_thread(file.write, piece)
    if wanted.sha256 and digest.hexdigest() != wanted.sha256:
        raise InvalidInput(f"the input {wanted.path} has another SHA-256 than was given", param="inputs")
    return size


def list_outputs(work: Path, folders: tuple[str, ...], settings: RunSettings) -> Outputs:
    """The files in the output folders, in order of their names, up to the limits."""
    kept: list[Output] = []
    left_out, total = 0, 0
    for folder in folders:
        for name, found in sorted(walk(work, folder)):
            is_named = _is_nameable(name)
            fits = total + found.st_size <= settings.output_bytes_most and len(kept) < settings.output_files_most
            if not (is_named and fits and found.st_size <= settings.output_file_bytes_most):
                left_out += 1
                continue
            total += found.st_size
            kept.append(Output(name, found.st_size, f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"))
    return Outputs(tuple(kept), left_out)


def remove_old(members: Path, before: float) -> None:
    """Removes what members have left on this node that nobody came for. One that runs has a younger record."""
    for folder in members.glob("*"):
        if folder.lstat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)


def _is_nameable(name: str) -> bool:
    try:
        split_name(name)
    except CloudcrestError:
        return False
    return True
