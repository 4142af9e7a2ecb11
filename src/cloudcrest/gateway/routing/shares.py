"""Shares of one model's requests between its deployments: a canary beside what it may replace. Pure."""

from collections.abc import Mapping

MAX_CREDIT = 1_000.0


def next_deployment(weights: Mapping[str, float], credit: Mapping[str, float]) -> tuple[str | None, dict[str, float]]:
    """Whose turn it is, and the credits to hand in next time; None where no weight is positive.

    Smooth weighted round robin (nginx's): each gains its weight, the richest is chosen and pays the sum. Any run of
    requests is within one request of its share, so a canary of 1% gets every hundredth, not a burst.
    """
    total = sum(weight for weight in weights.values() if weight > 0)
    if total <= 0:
        return None, {}
    gained = {
        name: min(credit.get(name, 0.0) + weight, MAX_CREDIT * total) for name, weight in weights.items() if weight > 0
    }
    chosen = max(gained, key=lambda name: gained[name])
    gained[chosen] -= total
    return chosen, gained
