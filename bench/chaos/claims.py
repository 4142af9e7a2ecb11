"""What the gateway promises, held against what clients saw, what was killed, and what was charged. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from itertools import islice
from typing import Literal

import msgspec

from bench.chaos.client import Attempt
from bench.chaos.plan import CONTEXT_TOKENS, Ask, Model, Target
from cloudcrest.serving.engines.simulated_text import chat_prompt, detokenize, generate, tokenize

CUT_SECONDS = 5.0
"""So soon after its gateway's death a client knows."""
COUNT_SECONDS = 15.0
"""What a client left is counted by then."""
MARK_SECONDS = 1.0
LATE_SECONDS = 1.0
"""How late a mark may be on a machine that is busy with everything else."""
MOST_MEMORY_MIB = {"gateway": 80.0, "region": 90.0}
OUT_OF_BUDGET, NO_GRANT = '"insufficient_quota"', '"budget_unavailable"'
CONTROL_AWAY_SECONDS = 45.0
"""How long a killed control plane, with its database's recovery, may leave a fresh gateway without grants."""
_MAX_SHOWN = 5


class Death(msgspec.Struct, frozen=True):
    """Something killed. `model`: of a replica; `ports`: clients' ports that were connected to a gateway.

    With `up` ends every connection, also one that waits for a gateway.
    """

    at: float
    target: Target | Literal["up"]
    model: str = ""
    ports: frozenset[int] = frozenset()


class Event(msgspec.Struct, frozen=True):
    """A usage event as the management API shows it. `client`: whose key; `charge` None: not priced."""

    id: str
    client: int
    outcome: str
    input_tokens: int
    output_tokens: int
    is_estimate: bool
    charge: Decimal | None


class Evidence(msgspec.Struct, dict=True):
    """Everything a run left. `budgets`: by client, what its key may spend; `memory_mib`: the most seen, by process."""

    models: tuple[Model, ...]
    budgets: dict[int, Decimal]
    attempts: list[Attempt]
    deaths: list[Death]
    events: list[Event]
    balance_before: Decimal
    balance_after: Decimal
    ledger: dict[str, object]
    memory_mib: dict[str, float]

    @cached_property
    def by_id(self) -> dict[str, Event]:
        return {event.id: event for event in self.events}

    @cached_property
    def by_name(self) -> dict[str, Model]:
        return {model.name: model for model in self.models}

    def cut_by(self, attempt: Attempt) -> Death | None:
        """The death of the gateway that this attempt's connection was at."""
        for death in self.deaths if attempt.ending == "cut" else ():
            is_its_own = death.target == "up" or attempt.port in death.ports
            if is_its_own and attempt.opened_at <= death.at <= attempt.ended_at:
                return death
        return None

    def died_at(self, attempt: Attempt) -> float | None:
        """When the gateway of an answer that broke off died: at once, or while it counted what a client had left."""
        death = self.cut_by(attempt)
        if death is not None:
            return death.at
        gateways = [death.at for death in self.deaths if death.target in ("gateway", "up")]
        soon = [at for at in gateways if attempt.ended_at <= at <= attempt.ended_at + COUNT_SECONDS]
        return min(soon, default=None)

    def is_rightly_refused(self, attempt: Attempt) -> bool:
        """Whether its key's budget is spent, or its gateway had no grant of the balance and nobody to ask for one."""
        if OUT_OF_BUDGET in attempt.said:
            return attempt.ask.client in self.budgets
        return NO_GRANT in attempt.said and any(
            death.target not in ("gateway", "replica")
            and attempt.ended_at - CONTROL_AWAY_SECONDS < death.at < attempt.ended_at
            for death in self.deaths
        )

    def lost_replicas(self, attempt: Attempt) -> int:
        """How many replicas of its model died while it was under way."""
        return sum(
            death.target == "replica"
            and death.model == attempt.ask.model
            and attempt.began_at <= death.at <= attempt.ended_at
            for death in self.deaths
        )


class Whole(msgspec.Struct, frozen=True):
    """What the simulated engine answers when nobody interrupts it."""

    texts: tuple[str, ...]
    input_tokens: int
    output_tokens: int


class Finding(msgspec.Struct, frozen=True):
    """A claim, how often it was put to the test, and where it broke."""

    claim: str
    checked: int
    broken: tuple[str, ...]


def uninterrupted(ask: Ask, model: Model) -> Whole:
    """The simulated engine's whole answer."""
    prompt = tokenize(chat_prompt([("user", ask.prompt)]) if ask.is_chat else ask.prompt)
    most = min(ask.max_tokens or CONTEXT_TOKENS, CONTEXT_TOKENS - len(prompt))
    answers = [
        list(islice(generate(prompt, answer_tokens=model.answer_tokens, seed=(ask.seed or 0) + index), most))
        for index in range(ask.choices)
    ]
    return Whole(tuple(map(detokenize, answers)), len(prompt), sum(map(len, answers)))


Check = Callable[[Evidence], Iterator[str | None]]
"""Yields once for each thing it looks at: None where it holds, else what is wrong."""


def _answers_arrive(evidence: Evidence) -> Iterator[str | None]:
    for attempt in evidence.attempts:
        ask, ending = attempt.ask, attempt.ending
        if ending in ("whole", "left"):
            yield None
        elif ending == "cut":
            yield None if evidence.cut_by(attempt) else f"{_name(attempt)} was cut, but its gateway lived"
        elif ending == "refused" and evidence.is_rightly_refused(attempt):
            yield None
        elif ending == "error" and ask.choices > 1 and evidence.lost_replicas(attempt):
            yield None  # of several choices none can be carried on; it was told so
        else:
            yield f"{_name(attempt)} ended {ending}: {attempt.status} {attempt.said}"


def _cut_answers_end(evidence: Evidence) -> Iterator[str | None]:
    for attempt in evidence.attempts:
        death = evidence.cut_by(attempt)
        if death is not None:
            late = attempt.ended_at - death.at
            yield None if late < CUT_SECONDS else f"{_name(attempt)} ended {late:.1f} s after its gateway's death"


def _next_requests_work(evidence: Evidence) -> Iterator[str | None]:
    last: dict[int, Attempt] = {}
    for attempt in sorted(evidence.attempts, key=lambda attempt: attempt.began_at):
        before = last.get(attempt.ask.client)
        if before is not None and before.ending == "cut":
            is_fine = (
                evidence.is_rightly_refused(attempt)
                or attempt.ending in ("whole", "left", "error")
                or evidence.cut_by(attempt) is not None
            )
            yield None if is_fine else f"{_name(attempt)}, after one that was cut: {attempt.status} {attempt.said}"
        last[attempt.ask.client] = attempt


def _texts_are_the_uninterrupted(evidence: Evidence) -> Iterator[str | None]:
    for attempt, whole in _simulated(evidence):
        for said, expected in zip(attempt.texts, whole.texts, strict=True):
            if attempt.ending == "whole":
                yield None if said == expected else f"{_name(attempt)} said {said!r}, not {expected!r}"
            else:
                yield None if expected.startswith(said) else f"{_name(attempt)} began {said!r}, not {expected!r}"


def _usage_said_is_true(evidence: Evidence) -> Iterator[str | None]:
    for attempt, whole in _simulated(evidence):
        if attempt.usage is not None:
            expected = (whole.input_tokens, whole.output_tokens)
            yield None if attempt.usage == expected else f"{_name(attempt)} said {attempt.usage}, not {expected}"
    for attempt in evidence.attempts:
        if attempt.ending == "whole" and (attempt.ask.wants_usage or not attempt.ask.is_stream):
            yield None if attempt.usage is not None else f"{_name(attempt)} said no usage"


def _whole_answers_are_charged_as_said(evidence: Evidence) -> Iterator[str | None]:
    for attempt in evidence.attempts:
        if attempt.ending != "whole":
            continue
        event = evidence.by_id.get(attempt.request_id)
        if event is None:
            yield f"{_name(attempt)} has no event"
        elif event.outcome != "completed" or event.is_estimate or event.charge is None:
            yield f"{_name(attempt)} was answered whole, but is {event}"
        elif attempt.usage is not None and (event.input_tokens, event.output_tokens) != attempt.usage:
            yield f"{_name(attempt)} said {attempt.usage}, but is {event}"
        else:
            yield None
    for attempt, whole in _simulated(evidence):
        event = evidence.by_id.get(attempt.request_id)
        if attempt.ending == "whole" and event is not None:
            is_true = (event.input_tokens, event.output_tokens) == (whole.input_tokens, whole.output_tokens)
            yield None if is_true else f"{_name(attempt)} took {whole}, but is {event}"


def _broken_off_answers_are_charged_as_far_as_they_came(evidence: Evidence) -> Iterator[str | None]:
    for attempt in evidence.attempts:
        if attempt.status != 200 or attempt.ending not in ("left", "error", "cut"):
            continue
        event = evidence.by_id.get(attempt.request_id)
        if event is None:
            yield f"{_name(attempt)} has no event"
        elif event.charge is None:
            yield f"{_name(attempt)} was not priced: {event}"
        else:
            yield None
    for attempt, whole in _simulated(evidence):
        event = evidence.by_id.get(attempt.request_id)
        if event is None or attempt.ending not in ("left", "error", "cut"):
            continue
        least, most = _bounds(evidence, attempt, whole)
        if not least <= event.output_tokens <= most:
            took = f"{attempt.ended_at - attempt.began_at:.2f} s, tokens came after {_moments(attempt)}"
            yield f"{_name(attempt)} is to be charged {least} to {most} output tokens, but is {event}; it took {took}"
        elif attempt.ending != "cut" and not event.is_estimate and event.input_tokens != whole.input_tokens:
            yield f"{_name(attempt)} read {whole.input_tokens} tokens, but is {event}"
        else:
            yield None


def _bounds(evidence: Evidence, attempt: Attempt, whole: Whole) -> tuple[int, int]:
    """The output tokens that a simulated answer which broke off may cost."""
    event = evidence.by_id[attempt.request_id]
    arrived = sum(len(tokenize(text)) for text in attempt.texts)
    about = 2 * attempt.ask.choices + 1  # events that are no tokens: roles, ends
    if event.outcome == "completed":  # only its last bytes were lost
        return whole.output_tokens, whole.output_tokens
    if event.outcome != "gateway_lost":
        return max(0, arrived - about * event.is_estimate), whole.output_tokens + about
    died_at = evidence.died_at(attempt)
    if died_at is None:
        return 1, 0  # nothing: there was no reason to give it up for lost
    if attempt.ended_at + LATE_SECONDS < died_at:  # it was marked when the client left, and was being counted
        return max(0, arrived - about), whole.output_tokens + about
    marked = sum(arrival <= died_at - MARK_SECONDS - LATE_SECONDS for arrival in attempt.arrivals) - about
    return max(0, marked), min(arrived, whole.output_tokens) + about


def _nothing_is_lost_or_doubled(evidence: Evidence) -> Iterator[str | None]:
    for event_id, count in Counter(event.id for event in evidence.events).items():
        yield None if count == 1 else f"event {event_id} is there {count} times"
    asked = Counter(attempt.request_id for attempt in evidence.attempts if attempt.request_id)
    for request_id, count in asked.items():
        yield None if count == 1 else f"the id {request_id} was given to {count} requests"
    refused = [attempt for attempt in evidence.attempts if attempt.ending == "refused"]
    for attempt in refused:
        event = evidence.by_id.get(attempt.request_id)
        is_free = event is None or event.charge == 0
        yield None if is_free else f"{_name(attempt)} was refused, but is {event}"
    # Who was cut off or left before the head never learnt the id.
    nameless = Counter(attempt.ask.client for attempt in evidence.attempts if not attempt.request_id)
    strange = Counter(event.client for event in evidence.events if event.id not in asked)
    for client, count in strange.items():
        fits = count <= nameless[client]
        yield (
            None if fits else f"client {client} has {count} events that it knows nothing of, {nameless[client]} may be"
        )


def _money_adds_up(evidence: Evidence) -> Iterator[str | None]:
    charged = sum((event.charge for event in evidence.events if event.charge is not None), Decimal(0))
    spent = evidence.balance_before - evidence.balance_after
    yield None if charged == spent else f"the events' charges add up to {charged}, the balance went down by {spent}"
    yield None if evidence.ledger.get("ok") is True else f"the ledger's replay: {evidence.ledger}"
    waiting = evidence.ledger.get("events_waiting")
    yield None if waiting == 0 else f"{waiting} events wait for a price"


def _budgets_hold(evidence: Evidence) -> Iterator[str | None]:
    for client, budget in evidence.budgets.items():
        charges = [event.charge for event in evidence.events if event.client == client and event.charge is not None]
        spent = sum(charges, Decimal(0))
        yield None if spent <= budget else f"client {client} spent {spent} of {budget}"


def _memory_is_bounded(evidence: Evidence) -> Iterator[str | None]:
    for name, mib in evidence.memory_mib.items():
        most = MOST_MEMORY_MIB.get(name.partition("-")[0])
        if most is not None:
            yield None if mib <= most else f"{name} took {mib:.0f} MiB, at most {most:.0f}"


CLAIMS: dict[str, Check] = {
    "every answer comes whole while its gateway lives": _answers_arrive,
    "an answer at a killed gateway ends": _cut_answers_end,
    "the key's next request works": _next_requests_work,
    "text is the uninterrupted one": _texts_are_the_uninterrupted,
    "usage in answers is true": _usage_said_is_true,
    "whole answers are charged as they said": _whole_answers_are_charged_as_said,
    "broken-off answers are charged as far as they came": _broken_off_answers_are_charged_as_far_as_they_came,
    "no event is lost or doubled": _nothing_is_lost_or_doubled,
    "charges are the change of the balance": _money_adds_up,
    "budgets are never exceeded": _budgets_hold,
    "memory is bounded": _memory_is_bounded,
}


def judge(evidence: Evidence) -> list[Finding]:
    """Every claim, tested."""
    findings = []
    for claim, check in CLAIMS.items():
        results = list(check(evidence))
        findings.append(Finding(claim, len(results), tuple(result for result in results if result is not None)))
    return findings


def describe(findings: Sequence[Finding]) -> str:
    """The broken claims, each with a few of its cases; empty where all hold."""
    lines = []
    for finding in findings:
        if finding.broken:
            lines.append(f"{finding.claim}: broken in {len(finding.broken)} of {finding.checked}")
            lines += [f"    {case}" for case in finding.broken[:_MAX_SHOWN]]
    return "\n".join(lines)


def _simulated(evidence: Evidence) -> Iterator[tuple[Attempt, Whole]]:
    for attempt in evidence.attempts:
        model = evidence.by_name[attempt.ask.model]
        if model.is_simulated and attempt.status == 200:
            whole = uninterrupted(attempt.ask, model)
            if attempt.ask.client in evidence.budgets and attempt.ending == "whole":
                whole = _cut_to_budget(whole, attempt.texts)
            yield attempt, whole


def _cut_to_budget(whole: Whole, texts: Sequence[str]) -> Whole:
    """What is left of a budget may end an answer before its own end."""
    said = tuple(
        text if expected.startswith(text) else expected for text, expected in zip(texts, whole.texts, strict=True)
    )
    return Whole(said, whole.input_tokens, sum(len(tokenize(text)) for text in said))


def _moments(attempt: Attempt) -> str:
    return " ".join(f"{arrival - attempt.began_at:.2f}" for arrival in attempt.arrivals)


def _name(attempt: Attempt) -> str:
    ask = attempt.ask
    kind = ("stream" if ask.is_stream else "answer") + (f" of {ask.choices} choices" if ask.choices > 1 else "")
    return f"{attempt.request_id or 'a request'} (client {ask.client}, time {ask.number}, {kind} of {ask.model})"
