"""The agent of this machine, and the log of the process that it lives in: of `up`, or of `node join`."""

import io
from collections.abc import Mapping
from pathlib import Path

from cloudcrest.bootstrap.services import REGION, replica_environment
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.accelerators.registry import families
from cloudcrest.compute.accelerators.tools import MachineTools
from cloudcrest.compute.fabric.machine import Machine
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.fabric.process_log import ProcessLog
from cloudcrest.compute.jobs.launch import members_folder
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.infra.logs import configure_logs
from cloudcrest.kernel.clock import SystemClock


class _LogStream(io.TextIOBase):
    """This process's own log as a stream, of bounded size like its children's."""

    def __init__(self, log: ProcessLog) -> None:
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text.encode())
        return len(text)


def log_to(folder: Path, name: str, *, json: bool, level: str) -> None:
    """Sends this process's log to a file beside its children's."""
    stream = _LogStream(ProcessLog(folder, name))
    configure_logs(name, json=json, level=level, stream=stream)  # type: ignore[arg-type]


def machine_host(logs: Path, run: Path, lifeline: Lifeline, environment: Mapping[str, str], data: Path) -> ProcessHost:
    """What runs replicas and jobs on this machine, and knows its accelerators and its disk. `data`: the data folder."""
    machine = Machine(
        families=families(),
        tools=MachineTools(),
        clock=SystemClock(),
        types=known_types(),
        members=members_folder(data / "regions" / REGION / "jobs"),
    )
    return ProcessHost(
        log_folder=logs,
        working_folder=run,
        lifeline=lifeline,
        environment=replica_environment(environment),
        machine=machine,
    )
