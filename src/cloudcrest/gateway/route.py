"""The replicas of one deployment as the live gateway sees them. How one is chosen: `routing/`."""

from collections.abc import Collection, Sequence
from typing import Final

from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.routing.books import Member
from cloudcrest.gateway.routing.prompt import BLOCK_BYTES, BLOCK_TOKENS, BYTES_PER_TOKEN, block_hashes
from cloudcrest.gateway.routing.router import Ask, Router, Ticket

_TOKENS_PER_SECOND: Final = 5_000.0
_OVERHEAD_SECONDS: Final = 0.01
_CROWDING_SECONDS: Final = 0.1
"""What a full replica's decoding counts for in seconds of waiting, on the reference replica."""


def prefill_seconds(new_tokens: int, cached_tokens: int) -> float:  # noqa: ARG001  # the cost's shape
    """Of the reference replica; how much slower or faster each one is, the router learns from first tokens."""
    return _OVERHEAD_SECONDS + new_tokens / _TOKENS_PER_SECOND


class Trip:
    """One attempt of a request at a replica: `begin`, `first_token` where it is seen, `end` once or more often."""

    __slots__ = ("_router", "_ticket", "replica")

    def __init__(self, replica: Upstream, router: Router, ticket: Ticket | None = None) -> None:
        self.replica = replica
        self._router = router
        self._ticket = ticket

    def begin(self, now: float, *, is_stream: bool) -> None:
        """Only of a stream will it be told when the first token came."""
        if self._ticket is not None:
            self._router.send(self._ticket, now, is_observed=is_stream)

    def first_token(self, now: float) -> None:
        if self._ticket is not None:
            self._router.first_token(self._ticket, now)

    def end(self, now: float, *, is_failure: bool = False) -> None:
        """`is_failure`: the replica's doing."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._router.end(ticket, now, is_failure=is_failure)


class Balancer:
    """Chooses replicas of one deployment and learns from what becomes of the requests. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.router = Router(prefill_seconds, crowding_seconds=_CROWDING_SECONDS, now=now)
        self._replicas: list[Upstream] = []
        self._named: dict[str, Upstream] = {}

    def set_replicas(self, replicas: Sequence[Upstream], now: float) -> None:
        """Takes over the replicas there are now; those that stay keep what is known of them."""
        self._replicas = list(replicas)
        self._named = {each.name: each for each in replicas}
        self.router.set_members([Member(each.name, each.slots) for each in replicas], now)

    def pick(self, body: bytes, now: float, excluded: Collection[Upstream] = ()) -> Trip | None:
        """The replica for a request with this body; None: all are in `excluded`."""
        replicas, router = self._replicas, self.router
        if len(replicas) == 1:  # nothing to weigh, and no reason to read the prompt
            return None if excluded and replicas[0] in excluded else Trip(replicas[0], router)
        size_bytes = len(body)
        blocks = block_hashes(body) if size_bytes >= BLOCK_BYTES else ()
        ask = Ask(size_bytes // BYTES_PER_TOKEN + 1, blocks, BLOCK_TOKENS)
        tried = [each.name for each in excluded] if excluded else ()
        ticket = router.choose(ask, now, tried)
        if ticket is None:
            return None
        replica = self._named[ticket.replica.member.name]
        if replica.paused_until_seconds > now:  # then they are avoided, all that are
            ticket = router.choose(ask, now, tried, [each.name for each in replicas if each.paused_until_seconds > now])
            if ticket is None:
                return None
            replica = self._named[ticket.replica.member.name]
        return Trip(replica, router, ticket)
