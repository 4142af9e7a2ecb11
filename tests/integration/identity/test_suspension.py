"""An organization is suspended by operators and for want of balance, independently."""

import pytest

from tests.integration.identity.cloud import OPERATOR_KEY, Cloud, Tenant

pytestmark = pytest.mark.anyio


async def test_operators_and_billing_do_not_lift_each_others_suspension(cloud: Cloud, ada: Tenant) -> None:
    await cloud.seed()
    operator = cloud.client(OPERATOR_KEY)
    path = f"/organizations/{ada.organization_id}"
    await operator.post(f"{path}/suspend", json={"reason": "abuse"})
    for reason, seen in (("no balance", "abuse; no balance"), (None, "abuse"), ("no balance", "abuse; no balance")):
        async with cloud.database.transaction() as session:
            await cloud.organizations.suspend(session, ada.organization_id, reason)
        assert (await ada.client.get(path)).json()["suspended_reason"] == seen
        assert (await cloud.documents("organization"))[ada.organization_id]["suspended_reason"] == seen
    lifted = await operator.post(f"{path}/unsuspend")
    assert lifted.json()["suspended_reason"] == "no balance"
    assert (await cloud.documents("organization"))[ada.organization_id]["suspended_reason"] == "no balance"
