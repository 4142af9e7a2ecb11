"""Commands in a container image, by the node's Docker, Podman or nerdctl: no rights, no network but the proxy's and
the other members', the same limits.

    runner ── client (podman start --attach …), which waits for its container
           ── guard, which ends the container where the runner is gone (container_guard.py)
           ── proxy.py on a socket that is in its network, where it may connect to something
           ── a device in its network, where it is one of several members

Podman makes a container's namespaces before its command starts (`podman init`), so that its network is ready by then.
"""

import asyncio
import os

from cloudcrest.compute.sandbox.api import Reach, SandboxProcess, SandboxSpec
from cloudcrest.compute.sandbox.container_guard import Guard, Told
from cloudcrest.compute.sandbox.container_process import ContainerProcess
from cloudcrest.compute.sandbox.giving import give
from cloudcrest.compute.sandbox.inside import device_inside, listen_inside
from cloudcrest.compute.sandbox.probe import probe_network
from cloudcrest.compute.sandbox.profile import narrowed
from cloudcrest.compute.sandbox.proxy import PORT, Proxy, proxied
from cloudcrest.compute.sandbox.runtime import (
    PULL_SECONDS,
    ask,
    check_image,
    create_argv,
    end,
    is_rootless,
    name_of,
    process_of,
    profile_of,
    user_argv,
)
from cloudcrest.compute.sandbox.view import WORK
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.kernel.errors import InvalidInput, SetupError, Unavailable

_LOOKS = 20


class ContainerSandbox:
    """Implements `sandbox.api.Sandbox` over a runtime's command line. `policy`: which addresses the proxy may call."""

    has_own_view = True

    def __init__(self, runtime: str, policy: OutboundPolicy) -> None:
        self.isolation = runtime
        self._policy = policy
        self._is_ready_before = runtime == "podman"

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        if not self._is_ready_before:
            return "none", f"commands in container images have a network by Podman alone, and this is {self.isolation}"
        problem = await asyncio.to_thread(probe_network)
        return ("none", problem) if problem else ("private", "")

    async def fetch(self, image: str) -> None:
        check_image(image)
        code, _ = await ask(self.isolation, "image", "inspect", image)
        if code == 0:
            return
        code, said = await ask(self.isolation, "pull", image, seconds=PULL_SECONDS)
        if code != 0:
            raise InvalidInput(f"the image '{image}' cannot be fetched: {said}", param="image")

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it when its network is there. Raises `InvalidInput`, `SetupError`, `Unavailable`."""
        check_image(spec.image)
        if spec.allowed_hosts and not self._is_ready_before:
            raise SetupError(
                f"a job in a container image has no network by {self.isolation}",
                hint="install podman, or leave image out, or allowed_hosts",
            )
        if broken := [name for name, value in spec.environment.items() if "\n" in value]:
            # The runtime reads a line for each; on its command line everyone on this machine could read them.
            raise InvalidInput(f"the value of {broken[0]} has line feeds, which a container's variables cannot have")
        user = await self._user(spec)
        proxy = Proxy(spec.allowed_hosts, self._policy) if spec.allowed_hosts else None
        if proxy is not None:
            spec = proxied(spec)
        wide = await profile_of(self.isolation)
        profile = None if wide is None else narrowed(wide)
        environment = {"HOME": WORK, **spec.environment}
        told = Told("\n".join(f"{name}={value}" for name, value in environment.items()), profile, spec)
        guard = await Guard.start(self.isolation, spec)
        try:
            pid = await self._make(spec, told, guard, user, proxy)
            child = await asyncio.create_subprocess_exec(
                *(self.isolation, "start", "--attach", name_of(spec)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                start_new_session=True,
            )
        except BaseException as error:
            await asyncio.to_thread(end, self.isolation, spec.id)
            told.forget()
            await guard.dismiss()
            if proxy is not None:
                await proxy.close()
            if isinstance(error, OSError):
                raise Unavailable(f"the container cannot be made: {error}") from error
            raise
        process = ContainerProcess(self.isolation, spec, child, told, guard=guard, proxy=proxy)
        process.is_at(pid or await self._started(spec, child))
        return process

    async def _started(self, spec: SandboxSpec, child: asyncio.subprocess.Process) -> int:
        """Its first process, of a runtime that makes it with the command's start; 0: it has ended, or is not known."""
        for _ in range(0 if self._is_ready_before else _LOOKS):
            if child.returncode is not None:
                break
            if pid := await process_of(self.isolation, spec):
                return pid
        return 0

    async def _make(
        self, spec: SandboxSpec, told: Told, guard: Guard, user: tuple[str, ...], proxy: Proxy | None
    ) -> int:
        """Its container, with its network where that can be ready before the command; its first process then, else 0.
        Raises `OSError`, `Unavailable`.
        """
        await self._tell(*create_argv(self.isolation, spec, told.files, user)[1:], guard=guard)
        told.was_read()
        if not self._is_ready_before:
            return 0
        await self._tell("init", name_of(spec), guard=guard)
        pid = await process_of(self.isolation, spec)
        if proxy is not None:
            await proxy.serve(await asyncio.to_thread(listen_inside, pid, PORT))
        if (network := spec.network) is not None:
            network.attach(await asyncio.to_thread(device_inside, pid, network))
        return pid

    async def _tell(self, *arguments: str, guard: Guard) -> None:
        """Has the runtime do something. Raises `Unavailable` with what it says."""
        code, said = await ask(self.isolation, *arguments, started=guard.watch)
        guard.watch(None)
        if code != 0:
            raise Unavailable(f"{self.isolation} {arguments[0]}: {said or f'it ended with {code}'}")

    async def _user(self, spec: SandboxSpec) -> tuple[str, ...]:
        """As whom it runs, with its folders given to him. Raises `Unavailable`."""
        uid, is_own = os.geteuid(), False
        if uid == 0:
            try:
                for folder in dict.fromkeys((spec.work_folder, *(bind.source for bind in spec.binds))):
                    await asyncio.to_thread(give, folder)
            except OSError as error:
                raise Unavailable(f"the container's folders cannot be given to it: {error}") from error
        elif self.isolation != "podman":
            is_own = await is_rootless(self.isolation)
        return user_argv(self.isolation, uid, os.getegid(), is_rootless=is_own)
