"""The members of an attempt over real runners, each a process of its own, without a region service."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudcrest.compute.jobs.gang.packets import address_of
from cloudcrest.compute.jobs.running import Gang, Go, RunnerPlace
from cloudcrest.compute.sandbox.probe import probe, probe_network
from tests.support.runners import Runner, spec
from tests.support.waiting import until

PYTHON = Path("/usr/bin/python3")
PROBLEM = probe() or probe_network() or ("" if PYTHON.exists() else "the sandbox sees no Python but /usr/bin/python3")
needs_network = pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "it works")
KEY = "key-of-the-attempt"
FIRST, SECOND, THIRD = (address_of(member) for member in range(3))
PRELUDE = """
import hashlib, os, socket, sys, time
member = int(os.environ["CLOUDCREST_MEMBER"])
peers = os.environ["CLOUDCREST_PEERS"].split(",")
def say(*words): print(*words, flush=True)
def read(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece: break
        data += piece
    return data
def listen(port):
    made = socket.create_server((peers[member], port))
    say("listens")
    return made
def connect(other, port, seconds=30):
    ends = time.monotonic() + seconds
    while True:
        try: return socket.create_connection((peers[other], port), timeout=seconds)
        except ConnectionRefusedError:
            if time.monotonic() > ends: raise
            time.sleep(0.02)
"""


def program(code: str) -> tuple[str, ...]:
    """The command of a member that runs `code`, which may use what PRELUDE has."""
    return (str(PYTHON), "-c", PRELUDE + code)


def go(runners: list[Runner], member: int, key: str = KEY) -> Go:
    """What a member is told when all are ready."""
    places = tuple(RunnerPlace("127.0.0.1", runner.state().network.port) for runner in runners)
    peers = ",".join(address_of(each) for each in range(len(runners)))
    environment = {
        "CLOUDCREST_MEMBER": str(member),
        "CLOUDCREST_PEERS": peers,
        "CLOUDCREST_ADDRESS": address_of(member),
    }
    return Go(environment, Gang(key, places))


@contextlib.contextmanager
def ready_gang(folder: Path, *commands: tuple[str, ...], job: str = "job_1", image: str = "") -> Iterator[list[Runner]]:
    """Runners whose commands are ready to start, in bubblewrap or in an image."""
    with contextlib.ExitStack() as stack:
        runners = []
        for member, command in enumerate(commands):
            runner = Runner(folder / f"{job}-{member}", "auto")
            stack.callback(runner.close)
            wanted = spec(command, attempt_id=f"{job}-1", member=member, members=len(commands), image=image)
            assert runner.post("/prepare", wanted).status_code == 200
            runners.append(runner)
        for runner in runners:
            until(lambda runner=runner: runner.state().phase == "ready", "it is ready")  # type: ignore[misc]
        yield runners


@contextlib.contextmanager
def running_gang(folder: Path, *codes: str, job: str = "job_1") -> Iterator[list[Runner]]:
    """Members that run, each its code, until the block ends."""
    with ready_gang(folder, *(program(code) for code in codes), job=job) as runners:
        for member, runner in enumerate(runners):
            assert runner.post("/go", go(runners, member)).status_code == 200
        yield runners
