"""What a replayed usage event is held against: pure, so that the ledger's check can itself be checked."""

from cloudcrest.billing.api import Charge, Difference, DifferenceKind, LedgerEntry, PricedLine
from cloudcrest.kernel.money import Money, plain
from cloudcrest.kernel.usage import UsageEvent


def compare_entry(
    event: UsageEvent, charge: Charge | None, entry: LedgerEntry | None, *, is_waiting: bool
) -> list[Difference]:
    """Where the booked `entry` of `event` is not what its replayed `charge` says. No charge: it cannot be priced."""

    def difference(kind: DifferenceKind, field: str, expected: str, found: str) -> Difference:
        return Difference(kind, event.id, event.organization_id, field, expected, found)

    if charge is None and entry is None:
        return [] if is_waiting else [difference("unpriced", "event", "listed as waiting for a price", "not listed")]
    if charge is None:
        assert entry is not None  # noqa: S101 - for the type checker
        return [difference("wrong_entry", "rate_card_id", "no entry: no rate card is valid", str(entry.rate_card_id))]
    if entry is None:
        kind: DifferenceKind = "unpriced" if is_waiting else "missing_entry"
        return [difference(kind, "amount", f"-{plain(charge.amount)} {charge.currency}", "no entry")]
    expected_and_found = {
        "kind": ("usage", entry.kind),
        "organization_id": (event.organization_id, entry.organization_id),
        "project_id": (event.project_id, str(entry.project_id)),
        "key_id": (event.key_id, str(entry.key_id)),
        "model": (event.model, str(entry.model)),
        "currency": (charge.currency, entry.currency),
        "rate_card_id": (charge.rate_card_id, str(entry.rate_card_id)),
        "amount": (plain((-Money(charge.amount, charge.currency)).amount), plain(entry.amount)),
        "lines": (_shown(charge.lines), _shown(entry.lines)),
    }
    differences = [
        difference("wrong_entry", field, expected, found)
        for field, (expected, found) in expected_and_found.items()
        if expected != found
    ]
    if is_waiting:
        differences.append(difference("wrong_entry", "event", "not listed as waiting", "listed as waiting"))
    return differences


def _shown(lines: tuple[PricedLine, ...]) -> str:
    return "; ".join(f"{line.kind} {line.quantity} at {plain(line.price)} = {plain(line.amount)}" for line in lines)
