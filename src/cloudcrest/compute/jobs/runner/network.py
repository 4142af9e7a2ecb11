"""A member's part in the network of its attempt: what it could have, and what it has once all are ready."""

import socket

from cloudcrest.compute.jobs.gang.carrier import Carrier, listen_at
from cloudcrest.compute.jobs.running import Gang, MemberNetwork, RunnerSpec
from cloudcrest.compute.sandbox.api import Sandbox


class MembersNetwork:
    """`host`: the address of this node, where its runner listens for those of the other members."""

    def __init__(self, host: str) -> None:
        self.found = MemberNetwork()
        self._host = host
        self._listening: socket.socket | None = None
        self._carrier: Carrier | None = None

    async def prepare(self, spec: RunnerSpec, sandbox: Sandbox) -> None:
        """Finds out what it could have, where there are others; listens where that is a network of their own. Raises
        `OSError`.
        """
        if spec.members == 1:
            return
        reach, problem = await sandbox.reach(in_image=bool(spec.image))
        port = 0
        if reach == "private":
            self._listening = listen_at(self._host)
            port = self._listening.getsockname()[1]
        self.found = MemberNetwork(reach, port, problem)

    def join(self, gang: Gang | None, member: int) -> Carrier | None:
        """Connects with the others; the network to start the command with, None where there is none of their own."""
        if gang is not None and self._listening is not None:
            self._carrier, self._listening = Carrier(gang, member, self._listening), None
        return self._carrier

    async def close(self) -> None:
        """Leaves it."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._carrier is not None:
            await self._carrier.close()
            self._carrier = None
