"""What a member's process is started with, and what its runner is told."""

import hashlib
import hmac
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.jobs.api import secret_words
from cloudcrest.compute.jobs.entry import Entry
from cloudcrest.compute.jobs.gang.packets import DEVICE, address_of
from cloudcrest.compute.jobs.gang.reach import reach_of
from cloudcrest.compute.jobs.link import runner_token
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import RUNNER_TOKEN_VARIABLE, Gang, Go, Input, Mount, RunnerPlace, RunnerSpec
from cloudcrest.compute.scheduler.model import WHOLE
from cloudcrest.compute.volumes.folders import data_folder, quota_bytes
from cloudcrest.infra.settings import encode_path

CHECKPOINTS_VARIABLE = "CLOUDCREST_CHECKPOINTS"
CHECKPOINTS_TARGET = "/checkpoints"
CHECKPOINTS_FOLDER = "checkpoints"
"""In the folder that nodes share: checkpoints by project and job."""
INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
"""By which what trains over several members finds their network; a job's own values hold."""
_STOP_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Launcher:
    """`work_folder`: under which members have their folders, on each node. `shared_folder`: where volumes and
    checkpoints are, the same on each. `secret`: what runners' tokens are derived from. `open_secret`: opens what the
    control plane sealed, bound to words. `allowed_addresses`: inside this network, that inputs may be fetched from.
    """

    work_folder: Path
    shared_folder: Path
    settings: RunSettings
    secret: str
    open_secret: Callable[[str, tuple[str, ...]], str]
    allowed_addresses: tuple[str, ...] = ()

    def process(self, entry: Entry, number: int) -> ProcessSpec:
        """The runner's process."""
        member = entry.members[number]
        settings = msgspec.json.encode(self.settings, enc_hook=encode_path).decode()
        argv = (
            *(sys.executable, "-P", "-m", "cloudcrest.compute.jobs.runner"),
            *("--folder", str(self.work_folder / member.process_id)),
            *("--host", member.address, "--port", str(member.port)),
            *("--isolation", self.settings.isolation, "--settings", settings),
            *(word for address in self.allowed_addresses for word in ("--allow", address)),
            *(("--trusted",) if entry.document.is_trusted else ()),
        )
        return ProcessSpec(
            id=member.process_id,
            argv=argv,
            environment={RUNNER_TOKEN_VARIABLE: runner_token(self.secret, member.process_id)},
            labels=entry.labels(number),
            stop_grace_seconds=_STOP_GRACE_SECONDS,
            node_id=member.node_id,
            accelerators=member.accelerators,
        )

    def runner(self, entry: Entry, number: int) -> RunnerSpec:
        """What the runner is to run. Raises `SetupError` where a secret cannot be opened."""
        document, member = entry.document, entry.members[number]
        limit = document.time_limit_seconds
        return RunnerSpec(
            attempt_id=f"{document.id}-{entry.attempt}",
            member=number,
            members=len(entry.members),
            command=document.command,
            image=document.image,
            environment=document.environment,
            secrets={
                name: self.open_secret(sealed, secret_words(document.project_id, name))
                for name, sealed in document.sealed_secrets.items()
            },
            inputs=tuple(Input(each.path, each.url, bool(each.file_id), each.sha256) for each in document.inputs),
            mounts=self._mounts(entry),
            outputs=document.outputs,
            cpu_milli=document.cpu_milli,
            memory_bytes=document.memory_bytes,
            disk_bytes=document.disk_bytes,
            accelerators=member.chips,
            has_whole_chips=document.milli == WHOLE,
            time_limit_seconds=None if limit is None else max(limit - entry.ran_seconds, 0.0),
            grace_seconds=document.grace_seconds,
            allowed_hosts=document.allowed_hosts,
        )

    def go(self, entry: Entry, number: int) -> Go:
        """What a member learns when all have their places."""
        environment = {
            "CLOUDCREST_JOB_ID": entry.id,
            "CLOUDCREST_ATTEMPT": str(entry.attempt),
            "CLOUDCREST_MEMBER": str(number),
            "CLOUDCREST_MEMBERS": str(len(entry.members)),
        }
        addresses = [member.address for member in entry.members]
        reach, problem = reach_of([member.network for member in entry.members])
        if reach == "private":
            addresses = [address_of(each) for each in range(len(entry.members))]
            own = {**entry.document.environment, **entry.document.sealed_secrets}
            environment |= {name: DEVICE for name in INTERFACE_VARIABLES if name not in own}
        environment["CLOUDCREST_PEERS"] = ",".join(addresses)
        if reach != "none" and len(addresses) > 1:
            environment["CLOUDCREST_ADDRESS"] = addresses[number]
        return Go(environment, self._gang(entry) if reach == "private" else None, problem)

    def _gang(self, entry: Entry) -> Gang:
        words = f"gang:{entry.id}:{entry.attempt}".encode()
        key = hmac.new(self.secret.encode(), words, hashlib.sha256).hexdigest()
        return Gang(key, tuple(RunnerPlace(member.address, member.network.port) for member in entry.members))

    def _quota_bytes(self, project_id: str, volume: str) -> int:
        return quota_bytes(self.shared_folder, project_id, volume) or self.settings.volume_bytes

    def _mounts(self, entry: Entry) -> tuple[Mount, ...]:
        document = entry.document
        mounts = [
            Mount(
                name=f"volume '{volume.name}'",
                source=str(data_folder(self.shared_folder, document.project_id, volume.name)),
                target=volume.target,
                variable=f"CLOUDCREST_VOLUME_{volume.name.upper().replace('-', '_').replace('.', '_')}",
                is_writable=volume.is_writable,
                quota_bytes=self._quota_bytes(document.project_id, volume.name) if volume.is_writable else 0,
            )
            for volume in document.volumes
        ]
        if document.has_checkpoints:
            mounts.append(
                Mount(
                    name="the checkpoint folder",
                    source=str(checkpoint_folder(self.shared_folder, document.project_id, document.id)),
                    target=CHECKPOINTS_TARGET,
                    variable=CHECKPOINTS_VARIABLE,
                    is_writable=True,
                    quota_bytes=self.settings.volume_bytes,
                    is_made=True,
                )
            )
        return tuple(mounts)


def members_folder(jobs_folder: Path) -> Path:
    """Where members have their folders, on every node of a region."""
    return jobs_folder / "work"


def checkpoint_folder(shared_folder: Path, project_id: str, job_id: str) -> Path:
    """Where a job's checkpoints are, for its next attempt wherever that runs."""
    return shared_folder / CHECKPOINTS_FOLDER / project_id / job_id
