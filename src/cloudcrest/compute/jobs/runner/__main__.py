"""The runner's process: `python -m cloudcrest.compute.jobs.runner --folder F --host H --port P …`.

Started by the fabric, one for each member of each attempt. SIGTERM (the node is being stopped, or the region is done
with it) ends the command first. It stays after the command's end, until the region has collected what it left.
"""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn

from cloudcrest.compute.accelerators.registry import families
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.runner.chips import Chips
from cloudcrest.compute.jobs.runner.member import Member, sandbox_id
from cloudcrest.compute.jobs.runner.server import make_app
from cloudcrest.compute.jobs.runner.work import remove_old
from cloudcrest.compute.jobs.running import RUNNER_TOKEN_VARIABLE, Stop
from cloudcrest.compute.sandbox.choose import choose_sandbox
from cloudcrest.compute.sandbox.runtime import end_left
from cloudcrest.infra.interfaces import own_addresses
from cloudcrest.infra.lifeline import exit_with_lifeline
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.infra.settings import decode_path
from cloudcrest.kernel.clock import SystemClock

_STOP_SECONDS = 1
_DAY_SECONDS = 86_400.0


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Serves until SIGTERM."""
    arguments = _arguments()
    exit_with_lifeline()
    token = os.environ.pop(RUNNER_TOKEN_VARIABLE)
    settings = msgspec.json.decode(arguments.settings, type=RunSettings, dec_hook=decode_path)
    asyncio.run(_serve(arguments, token, settings))


async def _serve(arguments: argparse.Namespace, token: str, settings: RunSettings) -> None:
    await asyncio.to_thread(remove_old, arguments.folder.parent, time.time() - settings.keep_days * _DAY_SECONDS)
    policy = OutboundPolicy(arguments.allow, own=own_addresses)
    member = Member(
        arguments.folder,
        choose_sandbox(arguments.isolation, is_trusted=arguments.trusted, policy=policy),
        SystemClock(),
        settings,
        policy=policy,
        chips=_chips(os.environ),
        host=arguments.host,
    )
    if (record := member.state().record).attempt_id:
        await asyncio.to_thread(end_left, sandbox_id(record.attempt_id, record.member))
    config = uvicorn.Config(
        make_app(member, token),
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=_STOP_SECONDS,
        server_header=False,
    )
    server = _Server(config)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    serving = asyncio.ensure_future(server.serve())
    asked = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    member.stop(Stop("lost", "its node is being stopped"))
    await member.settle()
    server.should_exit = True
    await serving


def _chips(environment: Mapping[str, str]) -> Chips:
    """With what the fabric told this process of its accelerators, which its command is to hear too."""
    known = families()
    names = {name for family in known.values() for name in family.environment(())}
    return Chips({name: environment[name] for name in names if name in environment}, known)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runner")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--isolation", required=True)
    parser.add_argument("--trusted", action="store_true")
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--allow", action="append", default=[])
    return parser.parse_args()


main()
