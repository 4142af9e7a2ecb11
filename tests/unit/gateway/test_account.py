"""What an account writes is the event of its request, whatever it has in common with others was encoded before."""

from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.billing.grants import Grant as BudgetGrant
from cloudcrest.billing.tariff import Tariff
from cloudcrest.gateway.account import Account, Origin
from cloudcrest.gateway.admit import Grant
from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.purse import Claim, Pocket, Purse
from cloudcrest.gateway.record import Recorder
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.usage import Hold, Outcome, Tier, Usage, UsageEvent
from cloudcrest.serving.api import RouteDocument
from tests.support.gateway_cloud import route_document

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
COUNTS = st.integers(0, 1_000)
USAGES = st.builds(Usage, COUNTS, COUNTS, st.just(0), st.just(0), st.booleans())
SINCE = 1_767_225_600_000_000


def claim_of(holds: list[Hold], rate_card_id: str) -> Claim:
    """One that holds these parts."""
    claim = Claim(
        (), Tariff(1, 1, 1), rate_card_id, input_tokens=10**9, output_tokens=10**9, branches=1, is_open=False, until=0
    )
    for hold in holds:
        pocket = Pocket(hold.scope, "a budget", 0)
        claim.parts.append((Purse(BudgetGrant(hold.grant_id, hold.scope, "w", hold.units, 0), pocket), hold.units))
    return claim


@given(st.data())
def test_what_is_written_is_the_event(data: st.DataObject) -> None:
    clock, spool = ManualClock(), MemorySpool()
    region, gateway = data.draw(TEXTS), data.draw(TEXTS)
    origin = Origin(region, gateway, Recorder(spool), Metrics(), clock)
    keys = data.draw(st.lists(st.builds(KeyDocument, st.sampled_from("ab"), TEXTS, TEXTS, TEXTS), min_size=1))
    routes: list[RouteDocument] = [
        route_document(name, deployment_id=deployment_id)
        for name, deployment_id in data.draw(st.lists(st.tuples(TEXTS, st.sampled_from("ab")), min_size=1))
    ]
    for number in range(data.draw(st.integers(1, 4))):
        key, route = data.draw(st.sampled_from(keys)), data.draw(st.sampled_from(routes))
        holds = data.draw(st.lists(st.builds(Hold, TEXTS, TEXTS, st.integers(0, 10**30)), max_size=3))
        rate_card_id = data.draw(TEXTS)
        is_claimed, is_stream, answers = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.booleans())
        tier: Tier = data.draw(st.sampled_from(get_args(Tier)))
        request_id, replica, endpoint = f"{data.draw(TEXTS)}{number}", data.draw(TEXTS), data.draw(TEXTS)
        estimate, usage = data.draw(USAGES), data.draw(USAGES)
        outcome: Outcome = data.draw(st.sampled_from(get_args(Outcome)))
        account = Account(
            origin,
            request_id=request_id,
            endpoint=endpoint,
            key=key,
            route=route,
            grant=Grant([], 0),
            is_stream=is_stream,
            claim=claim_of(holds, rate_card_id) if is_claimed else None,
            started_at=SINCE,
            tier=tier,
        )
        account.open(replica, estimate)
        clock.advance(1.25)
        if answers:
            account.first_token()
        clock.advance(2)
        account.end(outcome, usage)

        opened = UsageEvent(
            id=request_id,
            started_at_microseconds=SINCE,
            duration_milliseconds=0,
            first_token_milliseconds=None,
            region=region,
            gateway=gateway,
            organization_id=key.organization_id,
            project_id=key.project_id,
            key_id=key.id,
            model=route.model_name,
            deployment_id=route.deployment_id,
            replica_id=replica,
            endpoint=endpoint,
            outcome="gateway_lost",
            usage=estimate,
            is_stream=is_stream,
            grants=tuple(holds) if is_claimed and rate_card_id else (),
            rate_card_id=rate_card_id if is_claimed else "",
            tier=tier,
        )
        assert spool.opened == [opened]
        assert spool.ended == [
            msgspec.structs.replace(
                opened,
                outcome=outcome,
                usage=usage,
                duration_milliseconds=3250,
                first_token_milliseconds=1250 if answers else None,
            )
        ]
        spool.opened.clear()
        spool.ended.clear()
