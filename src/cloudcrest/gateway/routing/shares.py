"""Shares of one model's requests between its deployments: a canary beside what it may replace. Pure."""

from collections.abc import Collection, Mapping
from hashlib import blake2b
from math import log

MAX_CREDIT = 1_000.0
STICKY_REQUESTS = 16
"""How many requests a deployment may be ahead of its share for conversations to stay where they are."""
_HASH_BYTES = 8


class Shares:
    """Whose turn it is among the deployments of one model name, by weight. One worker's view."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.weights = weights
        self._credit: dict[str, float] = {}

    def turn(self, ready: Collection[str], conversation: bytes) -> str | None:
        """The deployment for a request, of those `ready`; None where none of them has a weight.

        The share of one that is not ready goes to the others. An empty `conversation` belongs to none.
        """
        weights = {name: weight for name, weight in self.weights.items() if name in ready}
        preferred = home(weights, conversation) if conversation else None
        chosen, credit = next_deployment(weights, self._credit, preferred)
        if chosen is not None:
            self._credit |= credit
        return chosen


def home(weights: Mapping[str, float], conversation: bytes) -> str | None:
    """Where a conversation belongs: the same at every worker and, as far as can be, after a change of weights.

    Weighted rendezvous hashing: conversations fall to the deployments by their weights.
    """
    scores = {
        name: -log((_number(name, conversation) + 0.5) / (1 << 8 * _HASH_BYTES)) / weight
        for name, weight in weights.items()
        if weight > 0
    }
    return min(scores, key=lambda name: scores[name], default=None)


def next_deployment(
    weights: Mapping[str, float], credit: Mapping[str, float], preferred: str | None = None
) -> tuple[str | None, dict[str, float]]:
    """Whose turn it is, and the credits to hand in next time; None where no weight is positive.

    Smooth weighted round robin (nginx's): each gains its weight, the chosen one pays the sum. That is the richest, so
    that a canary of 1% gets every hundredth request and not a burst; or the `preferred`, while that leaves it no more
    than `STICKY_REQUESTS` ahead of its share.
    """
    total = sum(weight for weight in weights.values() if weight > 0)
    if total <= 0:
        return None, {}
    gained = {
        name: min(credit.get(name, 0.0) + weight, MAX_CREDIT * total) for name, weight in weights.items() if weight > 0
    }
    if preferred in gained and gained[preferred] >= (1 - STICKY_REQUESTS) * total:
        chosen = preferred
    else:
        chosen = max(gained, key=lambda name: gained[name])
    gained[chosen] -= total
    return chosen, gained


def _number(name: str, conversation: bytes) -> int:
    digest = blake2b(conversation, digest_size=_HASH_BYTES, key=name.encode()[:64])
    return int.from_bytes(digest.digest())
