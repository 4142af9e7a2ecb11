"""The checks themselves: a run in order breaks no claim, and each kind of wrong breaks its own."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from bench.chaos.claims import OUT_OF_BUDGET, Death, Event, Evidence, judge, uninterrupted
from bench.chaos.client import Attempt
from bench.chaos.plan import MODELS, TARGETS, Ask, asks_of, clients_of, kills_of

from cloudcrest.serving.engines.simulated_text import detokenize, tokenize

MODEL = MODELS[0]
ASK = Ask(
    client=1,
    number=1,
    model=MODEL.name,
    is_chat=True,
    prompt="hello",
    is_stream=True,
    wants_usage=True,
    choices=1,
    seed=None,
    max_tokens=10,
    leave_after=None,
)
WHOLE = uninterrupted(ASK, MODEL)
ARRIVES = "every answer comes whole while its gateway lives"
ENDS = "an answer at a killed gateway ends"
NEXT = "the key's next request works"
TEXT = "text is the uninterrupted one"
USAGE = "usage in answers is true"
CHARGED = "whole answers are charged as they said"
BROKEN_OFF = "broken-off answers are charged as far as they came"
NOTHING_LOST = "no event is lost or doubled"
MONEY = "charges are the change of the balance"
BUDGETS = "budgets are never exceeded"
MEMORY = "memory is bounded"


def attempt(**changes: Any) -> Attempt:
    """A whole streamed answer, with changes."""
    whole = Attempt(
        ask=ASK,
        port=5000,
        opened_at=0.0,
        began_at=10.0,
        ended_at=14.0,
        ending="whole",
        status=200,
        request_id="req_1",
        texts=WHOLE.texts,
        usage=(WHOLE.input_tokens, WHOLE.output_tokens),
        arrivals=tuple(10.0 + place / 3 for place in range(WHOLE.output_tokens + 2)),
    )
    return msgspec.structs.replace(whole, **changes)


def event(**changes: Any) -> Event:
    """What it is charged, with changes."""
    charged = Event("req_1", 1, "completed", WHOLE.input_tokens, WHOLE.output_tokens, False, Decimal("0.5"))
    return msgspec.structs.replace(charged, **changes)


CUT = attempt(ending="cut", texts=(WHOLE.texts[0][:20],), usage=None, ended_at=13.5, arrivals=(10.5, 11.0, 12.9, 13.4))
LOST = event(outcome="gateway_lost", output_tokens=3, is_estimate=True)
DEATH = Death(13.5, "gateway", ports=frozenset({5000}))


def broken(
    attempts: list[Attempt], events: list[Event], deaths: tuple[Death, ...] = (), **changes: Any
) -> dict[str, str]:
    """The claims that broke, each with its first case."""
    spent = sum((each.charge or Decimal(0) for each in events), Decimal(0))
    evidence = Evidence(
        models=MODELS,
        budgets={9: Decimal("0.6")},
        attempts=attempts,
        deaths=list(deaths),
        events=events,
        balance_before=Decimal(10),
        balance_after=Decimal(10) - spent,
        ledger={"ok": True, "events_waiting": 0},
        memory_mib={"gateway": 40.0, "region": 40.0},
    )
    for name, value in changes.items():
        setattr(evidence, name, value)
    return {finding.claim: finding.broken[0] for finding in judge(evidence) if finding.broken}


def test_a_run_in_order_breaks_nothing() -> None:
    following = attempt(ask=msgspec.structs.replace(ASK, number=2), request_id="req_2", began_at=15.0, ended_at=19.0)
    left = attempt(ending="left", texts=(WHOLE.texts[0][:10],), usage=None)
    assert broken([attempt()], [event()]) == {}
    assert broken([CUT, following], [LOST, event(id="req_2")], (DEATH,)) == {}
    assert broken([left], [event(outcome="cancelled", output_tokens=5)]) == {}
    assert broken([attempt(ending="refused", status=503, texts=("",), usage=None)], []).keys() == {ARRIVES}


@pytest.mark.parametrize(
    ("ending", "claim"), [("hung", ARRIVES), ("unfinished", ARRIVES), ("garbled", ARRIVES), ("error", ARRIVES)]
)
def test_an_answer_that_does_not_come_whole(ending: Any, claim: str) -> None:
    assert claim in broken([attempt(ending=ending)], [event()])


def test_a_cut_needs_a_dead_gateway_that_held_its_connection() -> None:
    elsewhere = msgspec.structs.replace(DEATH, ports=frozenset({6000}))
    earlier = msgspec.structs.replace(DEATH, at=-1.0)
    assert ARRIVES in broken([CUT], [LOST], (elsewhere,))
    assert ARRIVES in broken([CUT], [LOST], (earlier,))
    assert ENDS in broken([msgspec.structs.replace(CUT, ended_at=30.0)], [LOST], (DEATH,))


def test_several_choices_may_end_in_an_error_where_a_replica_died() -> None:
    ask = msgspec.structs.replace(ASK, choices=2)
    failed = attempt(ask=ask, ending="error", texts=("", ""), usage=None, said="{}")
    charged = [event(outcome="engine_error", output_tokens=3)]
    assert broken([failed], charged, (Death(12.0, "replica", model=MODEL.name),)) == {}
    assert ARRIVES in broken([failed], charged, (Death(12.0, "replica", model="another"),))
    assert ARRIVES in broken([failed], charged)


def test_the_request_after_a_cut_one_is_to_work() -> None:
    refused = attempt(
        ask=msgspec.structs.replace(ASK, number=2),
        request_id="req_2",
        began_at=15.0,
        ending="refused",
        status=429,
        texts=("",),
        usage=None,
    )
    assert NEXT in broken([CUT, refused], [LOST], (DEATH,))


def test_texts_and_usage_are_those_of_the_engine_alone() -> None:
    assert TEXT in broken([attempt(texts=(WHOLE.texts[0] + "x",))], [event()])
    assert TEXT in broken([msgspec.structs.replace(CUT, texts=("x",))], [LOST], (DEATH,))
    assert USAGE in broken([attempt(usage=(1, 1))], [event()])
    assert USAGE in broken([attempt(usage=None)], [event()])


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event(output_tokens=1)],
        [event(input_tokens=1)],
        [event(outcome="cancelled")],
        [event(is_estimate=True)],
        [event(charge=None)],
    ],
)
def test_a_whole_answer_charged_wrongly(events: list[Event]) -> None:
    assert CHARGED in broken([attempt()], events)


def test_a_broken_off_answer_charged_wrongly() -> None:
    left = attempt(ending="left", usage=None)
    cancelled = event(outcome="cancelled")
    assert BROKEN_OFF in broken([left], [])
    assert BROKEN_OFF in broken([left], [msgspec.structs.replace(cancelled, charge=None)])
    assert BROKEN_OFF in broken([left], [msgspec.structs.replace(cancelled, output_tokens=5)])
    assert BROKEN_OFF in broken([left], [msgspec.structs.replace(cancelled, output_tokens=50)])
    assert BROKEN_OFF in broken([left], [msgspec.structs.replace(cancelled, input_tokens=50)])
    assert BROKEN_OFF in broken([CUT], [], (DEATH,))
    assert BROKEN_OFF in broken([CUT], [msgspec.structs.replace(LOST, output_tokens=30)], (DEATH,))
    many = msgspec.structs.replace(CUT, arrivals=tuple(10.0 + place / 10 for place in range(15)))
    assert BROKEN_OFF in broken([many], [msgspec.structs.replace(LOST, output_tokens=2)], (DEATH,))


def test_events_that_are_there_twice_or_for_nothing() -> None:
    assert NOTHING_LOST in broken([attempt()], [event(), event()])
    assert NOTHING_LOST in broken([attempt()], [event(), event(id="req_9")])
    assert NOTHING_LOST in broken([attempt(), attempt()], [event()])
    refused = attempt(ending="refused", status=503, texts=("",), usage=None)
    assert NOTHING_LOST in broken([refused], [event()])
    nameless = attempt(ending="left", status=0, request_id="", texts=("",), usage=None)
    assert broken([nameless], [event(outcome="cancelled", output_tokens=0)]) == {}
    assert NOTHING_LOST in broken([nameless], [event(), event(id="req_9")])


def test_money_and_memory() -> None:
    assert MONEY in broken([attempt()], [event()], balance_after=Decimal("9.6"))
    assert MONEY in broken([attempt()], [event()], ledger={"ok": False, "events_waiting": 0})
    assert MONEY in broken([attempt()], [event()], ledger={"ok": True, "events_waiting": 1})
    assert MEMORY in broken([attempt()], [event()], memory_mib={"gateway-1": 400.0})


def test_a_budget_ends_answers_and_refuses_but_is_never_exceeded() -> None:
    ask = msgspec.structs.replace(ASK, client=9)
    text = detokenize(tokenize(WHOLE.texts[0])[:3])
    short = attempt(ask=ask, texts=(text,), usage=(WHOLE.input_tokens, 3))
    refused = attempt(
        ask=ask, request_id="req_2", ending="refused", status=429, texts=("",), usage=None, said=OUT_OF_BUDGET
    )
    charged = event(client=9, output_tokens=3)
    assert broken([short, refused], [charged]) == {}
    assert ARRIVES in broken([attempt(ending="refused", status=429, texts=("",), usage=None, said=OUT_OF_BUDGET)], [])
    assert TEXT in broken([attempt(texts=(text,), usage=(WHOLE.input_tokens, 3))], [event(output_tokens=3)])
    assert BUDGETS in broken([short], [msgspec.structs.replace(charged, charge=Decimal("0.7"))])


def test_a_seed_is_a_schedule() -> None:
    assert kills_of(7, 60, 2) == kills_of(7, 60, 2) != kills_of(8, 60, 2)
    assert {kill.target for kill in kills_of(7, 60, 2)[: len(TARGETS)]} == set(TARGETS)
    client = clients_of(MODELS, Decimal(1))[1]
    first, again = asks_of(7, client), asks_of(7, client)
    asks = [next(first) for _ in range(200)]
    assert asks == [next(again) for _ in range(200)]
    assert {ask.is_stream for ask in asks} == {ask.is_chat for ask in asks} == {True, False}
    assert {ask.choices for ask in asks} == {1, 2}
    assert any(ask.leave_after is not None for ask in asks)
