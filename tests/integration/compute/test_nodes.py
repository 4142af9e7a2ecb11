"""The routes of nodes, racks and accelerator types over a real database."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import cloudcrest.compute.accelerator_types.routes
import cloudcrest.compute.nodes.routes
from cloudcrest.billing.service.rate_cards import Prices, RateCards
from cloudcrest.compute.accelerator_types import service as types_service
from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.accelerators.known import known_types
from cloudcrest.compute.api import AcceleratorFacts, NodeAllocation, NodeDocument, NodeFacts, NodeStatus
from cloudcrest.compute.nodes.service import FORGET_AFTER, NodeService
from cloudcrest.identity.api import Caller, Membership
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.ids import id_maker
from cloudcrest.kernel.units import GIB, MIB
from tests.support.management import REGION_TOKEN, linked_region, management_client
from tests.support.published import published

pytestmark = pytest.mark.anyio

CALLERS = {
    "operator": Caller(kind="user", id="user_1", is_operator=True),
    "tenant": Caller(kind="user", id="user_2", memberships=(Membership("org_1", "owner"),)),
}
OPERATOR, TENANT = {"x-caller": "operator"}, {"x-caller": "tenant"}


class Cloud:
    """The routes in memory over a database, and a region that reports."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        nodes: NodeService,
        types: AcceleratorTypes,
        database: Database,
        cards: RateCards,
    ) -> None:
        self.client = client
        self.nodes = nodes
        self.types = types
        self.database = database
        self.cards = cards

    async def report(self, *statuses: NodeStatus, status_code: int = 204) -> httpx2.Response:
        headers = {"authorization": f"Bearer {REGION_TOKEN}"}
        answer = await self.client.put("/internal/v1/nodes", content=msgspec.json.encode(statuses), headers=headers)
        assert answer.status_code == status_code, answer.text
        return answer

    async def call(self, method: str, path: str, body: Any = None, *, status_code: int = 200) -> Any:
        answer = await self.client.request(method, f"/api/v1{path}", json=body, headers=OPERATOR)
        assert answer.status_code == status_code, answer.text
        return answer.json() if answer.content else None

    async def only_node(self) -> Any:
        (node,) = (await self.call("GET", "/nodes"))["data"]
        return node

    async def documents(self, kind: str) -> dict[str, dict[str, Any] | None]:
        page = await published(self.database)
        return {document.id: document.body for document in page.documents if document.kind == kind}


@pytest.fixture
async def cloud(database: Database, clock: ManualClock) -> AsyncIterator[Cloud]:
    regions = await linked_region(database, clock)
    types = AcceleratorTypes(clock)
    nodes = NodeService(types=types, regions=regions, clock=clock, new_id=id_maker(clock))
    cards = RateCards(clock, id_maker(clock), price_waiting)
    async with database.transaction() as session:
        await types.seed(session)
    routers = (
        cloudcrest.compute.nodes.routes.router(nodes),
        cloudcrest.compute.nodes.routes.internal_router(nodes),
        cloudcrest.compute.accelerator_types.routes.router(types, cards),
    )
    async with management_client(database, *routers, callers=CALLERS, regions=regions) as client:
        yield Cloud(client, nodes, types, database, cards)


async def price_waiting(_: AsyncSession) -> None:
    """Nothing waits for a price here."""


def gpus(count: int, name: str = "NVIDIA H100 80GB HBM3", mib: int = 81559) -> tuple[AcceleratorFacts, ...]:
    return tuple(AcceleratorFacts(index, "nvidia", "?", name, mib * MIB) for index in range(count))


def node(name: str = "n1", *accelerators: AcceleratorFacts, **more: Any) -> NodeFacts:
    return NodeFacts(name, "10.0.0.1", 64_000, 512 * GIB, accelerators, cpu_model="Some CPU", **more)


async def test_a_reported_node_is_shown_with_what_is_given_out(cloud: Cloud) -> None:
    other = AcceleratorFacts(0, "nvidia", "?", "Tesla T4", 15360 * MIB)
    allocated = NodeAllocation(8_000, 64 * GIB, {0: 1000, 3: 250}, 2)
    await cloud.report(NodeStatus(node("n1", *gpus(4), other, labels={"cloudcrest.io/zone": "a"}), allocated))
    shown = await cloud.only_node()
    assert (shown["node"], shown["region"], shown["state"], shown["zone"]) == ("n1", "local", "ready", "a")
    assert (shown["cpu_milli"], shown["cpu_allocated_milli"], shown["processes"]) == (64_000, 8_000, 2)
    assert shown["memory_bytes"] == 512 * GIB - shown["reserved_memory_bytes"]
    assert shown["memory_allocated_bytes"] == 64 * GIB
    assert shown["accelerators"] == {
        "type": "nvidia-h100-80gb",
        "family": "nvidia",
        "name": "NVIDIA H100 80GB HBM3",
        "count": 4,
        "memory_bytes": 81559 * MIB,
        "allocated_milli": 1250,
    }
    assert [(each["type"], each["count"]) for each in shown["other_accelerators"]] == [("nvidia-t4-16gb", 1)]
    assert await cloud.call("GET", f"/nodes/{shown['id']}") == shown


async def test_a_node_that_is_no_longer_reported_is_gone_and_may_come_back(cloud: Cloud, clock: ManualClock) -> None:
    await cloud.report(NodeStatus(node("n1")), NodeStatus(node("n2")))
    clock.advance(5)
    await cloud.report(NodeStatus(node("n2")))
    listed = {each["node"]: each for each in (await cloud.call("GET", "/nodes"))["data"]}
    assert (listed["n1"]["state"], listed["n2"]["state"]) == ("gone", "ready")
    assert listed["n1"]["gone_since"].startswith(clock.now().isoformat()[:19])
    await cloud.report(NodeStatus(node("n1")), NodeStatus(node("n2")))
    back = await cloud.call("GET", f"/nodes/{listed['n1']['id']}")
    assert (back["state"], back["gone_since"]) == ("ready", None)


async def test_what_nobody_set_anything_of_is_forgotten_after_days(cloud: Cloud, clock: ManualClock) -> None:
    await cloud.report(NodeStatus(node("n1")), NodeStatus(node("n2")))
    ids = {each["node"]: each["id"] for each in (await cloud.call("GET", "/nodes"))["data"]}
    await cloud.call("PATCH", f"/nodes/{ids['n2']}", {"zone": "a"})
    await cloud.report()
    clock.advance(FORGET_AFTER.total_seconds() + 1)
    await cloud.report()
    assert (await cloud.only_node())["node"] == "n2"
    # An operator forgets it, settings and all.
    await cloud.call("DELETE", f"/nodes/{ids['n2']}", status_code=204)
    assert (await cloud.call("GET", "/nodes"))["data"] == []
    assert (await cloud.documents("node"))[ids["n2"]] is None


async def test_states_say_how_a_node_is(cloud: Cloud, clock: ManualClock) -> None:
    await cloud.report(NodeStatus(node(is_ready=False, reason="GPU 0 fell off the bus")))
    shown = await cloud.only_node()
    assert (shown["state"], shown["reason"]) == ("not_ready", "GPU 0 fell off the bus")
    await cloud.report(NodeStatus(node()))
    path = f"/nodes/{shown['id']}"
    assert (await cloud.call("PATCH", path, {"is_cordoned": True}))["state"] == "cordoned"
    assert (await cloud.call("PATCH", path, {"is_draining": True}))["state"] == "draining"
    assert (await cloud.call("PATCH", path, {"is_cordoned": False, "is_draining": False}))["state"] == "ready"
    clock.advance(60)
    assert (await cloud.only_node())["state"] == "unknown"


async def test_settings_go_to_the_region_and_outlive_reports(cloud: Cloud) -> None:
    await cloud.report(NodeStatus(node("n1", labels={"disk": "ssd", "cloudcrest.io/rack": "r9"})))
    assert await cloud.documents("node") == {}
    node_id = (await cloud.only_node())["id"]
    body = {
        "labels": {"team": "search", "disk": None},
        "taints": ["experiments", "experiments"],
        "zone": "b",
        "power_watts": 400,
        "reserved_cpu_milli": 4000,
        "reserved_memory_bytes": GIB,
    }
    changed = await cloud.call("PATCH", f"/nodes/{node_id}", body)
    assert changed["labels"] == {
        "disk": "ssd",
        "team": "search",
        "cloudcrest.io/rack": "r9",
        "cloudcrest.io/zone": "b",
    }
    assert (changed["set_labels"], changed["taints"]) == ({"team": "search"}, ["experiments"])
    assert (changed["zone"], changed["rack"], changed["cpu_milli"]) == ("b", "r9", 60_000)
    (document,) = (await cloud.documents("node")).values()
    assert msgspec.convert(document, NodeDocument) == NodeDocument(
        id=node_id,
        node_id="n1",
        labels={"team": "search"},
        taints=("experiments",),
        zone="b",
        power_watts=400,
        reserved_cpu_milli=4000,
        reserved_memory_bytes=GIB,
    )
    await cloud.report(NodeStatus(node("n1")))
    assert (await cloud.only_node())["set_labels"] == {"team": "search"}
    back = await cloud.call("PATCH", f"/nodes/{node_id}", {"labels": {"team": None}, "zone": None, "taints": []})
    assert (back["set_labels"], back["zone"], back["taints"]) == ({}, "", [])


@pytest.mark.parametrize(
    "body",
    [
        {"labels": {"": "x"}},
        {"labels": {"a": "x" * 64}},
        {"labels": {f"l{number}": "" for number in range(65)}},
        {"taints": ["a"] * 33},
        {"power_watts": -1},
        {"reserved_memory_bytes": 2**60},
        {"unknown": 1},
    ],
)
async def test_settings_are_bounded(cloud: Cloud, body: Any) -> None:
    await cloud.report(NodeStatus(node()))
    node_id = (await cloud.only_node())["id"]
    answer = await cloud.client.patch(f"/api/v1/nodes/{node_id}", json=body, headers=OPERATOR)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_nodes_come_in_pages_and_by_region(cloud: Cloud) -> None:
    await cloud.report(*(NodeStatus(node(f"n{number}")) for number in range(5)))
    first = await cloud.call("GET", "/nodes?limit=3")
    second = await cloud.call("GET", f"/nodes?limit=3&cursor={first['next_cursor']}")
    names = [each["node"] for each in (*first["data"], *second["data"])]
    assert (len(first["data"]), sorted(names), second["next_cursor"]) == (
        3,
        [f"n{number}" for number in range(5)],
        None,
    )
    assert (await cloud.call("GET", "/nodes?region=elsewhere"))["data"] == []


async def test_a_report_that_says_nothing_new_writes_nothing(cloud: Cloud, clock: ManualClock) -> None:
    await cloud.report(NodeStatus(node()))
    before = (await cloud.only_node())["changed_at"]
    clock.advance(5)
    await cloud.report(NodeStatus(node()))
    assert (await cloud.only_node())["changed_at"] == before


async def test_a_report_is_bounded_and_needs_the_regions_token(cloud: Cloud) -> None:
    many = [NodeStatus(NodeFacts(str(number), "", 0, 0)) for number in range(8_001)]
    assert "at most 8000 nodes" in (await cloud.report(*many, status_code=400)).text
    bad = await cloud.client.put(
        "/internal/v1/nodes", content=b"{", headers={"authorization": f"Bearer {REGION_TOKEN}"}
    )
    assert bad.status_code == 400
    assert (await cloud.client.put("/internal/v1/nodes", content=b"[]")).status_code == 401


async def test_zones_are_those_of_nodes_that_are_there(cloud: Cloud) -> None:
    labels = {"cloudcrest.io/zone": "a"}
    await cloud.report(*(NodeStatus(node(name, labels=labels)) for name in ("n1", "n2")), NodeStatus(node("n3")))
    ids = {each["node"]: each["id"] for each in (await cloud.call("GET", "/nodes"))["data"]}
    await cloud.call("PATCH", f"/nodes/{ids['n2']}", {"zone": "c"})
    await cloud.call("PATCH", f"/nodes/{ids['n3']}", {"labels": {"cloudcrest.io/zone": "b"}})

    async def zones() -> dict[str, list[str]]:
        async with cloud.database.transaction() as session:
            return await cloud.nodes.zones_by_region(session)

    assert await zones() == {"local": ["a", "b", "c"]}
    await cloud.report(NodeStatus(node("n2", labels=labels)))
    assert await zones() == {"local": ["c"]}


async def test_racks_have_limits(cloud: Cloud) -> None:
    body = {"region": "local", "zone": "a", "name": "r1", "power_limit_watts": 40_000}
    rack = await cloud.call("POST", "/racks", body, status_code=201)
    assert (await cloud.documents("rack"))[rack["id"]] == {"name": "r1", "power_limit_watts": 40_000, "zone": "a"}
    await cloud.call("POST", "/racks", body, status_code=409)
    await cloud.call("POST", "/racks", {**body, "zone": None}, status_code=201)
    await cloud.call("POST", "/racks", {**body, "region": "nowhere"}, status_code=400)
    assert (await cloud.call("PATCH", f"/racks/{rack['id']}", {"power_limit_watts": 60_000}))[
        "power_limit_watts"
    ] == 60_000
    assert await cloud.call("GET", f"/racks/{rack['id']}") in (await cloud.call("GET", "/racks"))["data"]
    await cloud.call("DELETE", f"/racks/{rack['id']}", status_code=204)
    await cloud.call("GET", f"/racks/{rack['id']}", status_code=404)
    assert (await cloud.documents("rack"))[rack["id"]] is None


async def test_known_types_are_there_and_unknown_ones_are_learnt(cloud: Cloud) -> None:
    await cloud.report(NodeStatus(node("n1", *gpus(2, "NVIDIA RTX 4500 Ada Generation", 24570))))
    learnt = await cloud.call("GET", "/accelerators/nvidia-rtx-4500-ada-generation-24gb")
    assert (learnt["origin"], learnt["memory_bytes"], learnt["bandwidth_bytes_per_second"]) == (
        "detected",
        24570 * MIB,
        None,
    )
    assert learnt["counts"] == [{"region": "local", "total": 2, "allocated_milli": 0}]
    listed = (await cloud.call("GET", "/accelerators?limit=200"))["data"]
    assert {each["id"] for each in listed} == {each.id for each in known_types()} | {learnt["id"]}
    assert [each["id"] for each in listed] == sorted(each["id"] for each in listed)
    h100 = await cloud.call("GET", "/accelerators/nvidia-h100-80gb")
    assert (h100["origin"], h100["regions"], h100["peak_tflops"]["bf16"]) == ("known", [], 989.4)
    assert {*(await cloud.documents("accelerator_type"))} == {each["id"] for each in listed}


async def test_a_type_has_the_price_of_its_rate_card_in_force(cloud: Cloud, clock: ManualClock) -> None:
    none = Decimal(0)
    later = clock.now() + timedelta(days=1)
    for price, valid_from in (("0.0008", None), ("0.0007", later)):
        prices = Prices(none, none, none, accelerator=Decimal(price))
        async with cloud.database.transaction() as session:
            await cloud.cards.create(
                session, "compute/nvidia-l4-24gb", "USD", prices, valid_from=valid_from, created_by=None
            )
    path = "/accelerators/nvidia-l4-24gb"
    assert (await cloud.call("GET", path))["prices"] == [{"currency": "USD", "per_second": "0.0008"}]
    clock.advance(86_400)
    assert (await cloud.call("GET", path))["prices"] == [{"currency": "USD", "per_second": "0.0007"}]
    assert (await cloud.call("GET", "/accelerators/nvidia-t4-16gb"))["prices"] == []


async def test_accelerators_come_in_pages(cloud: Cloud) -> None:
    ids: list[str] = []
    cursor = ""
    while True:
        page = await cloud.call("GET", f"/accelerators?limit=7{cursor}")
        ids += [each["id"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert ids == sorted(each.id for each in known_types())


async def test_an_operator_adds_and_completes_types(cloud: Cloud) -> None:
    await cloud.report(NodeStatus(node("n1", AcceleratorFacts(0, "acme", "?", "ACME-1", 8 * GIB))))
    made = await cloud.call("PATCH", "/accelerators/acme-1-8gb", {"power_watts": 75, "peak_tflops": {"fp16": 20}})
    assert (made["origin"], made["power_watts"], made["peak_tflops"]) == ("operator", 75, {"fp16": 20.0})
    body = {"id": "acme-one", "family": "acme", "name": "Acme One", "names": ["acme 1"], "memory_bytes": 8 * GIB}
    await cloud.call("POST", "/accelerators", body, status_code=201)
    await cloud.call("POST", "/accelerators", body, status_code=409)
    await cloud.call("POST", "/accelerators", {**body, "id": "Not An Id"}, status_code=422)
    # The one made of facts has the name, too; the nearer in memory and then in the alphabet is taken.
    await cloud.call("PATCH", "/accelerators/acme-1-8gb", {"names": [], "name": "Old"})
    assert (await cloud.only_node())["accelerators"]["type"] == "acme-one"
    await cloud.report(NodeStatus(node("n1", AcceleratorFacts(0, "acme", "?", "ACME-1", 8 * GIB))))
    assert (await cloud.call("GET", "/accelerators/acme-one"))["regions"] == ["local"]
    assert (await cloud.call("GET", "/accelerators/acme-1-8gb"))["regions"] == []


async def test_later_versions_leave_what_operators_changed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.call("PATCH", "/accelerators/nvidia-l4-24gb", {"power_watts": 60})
    newer = [msgspec.structs.replace(each, interconnect="new") for each in known_types()]
    monkeypatch.setattr(types_service, "known_types", lambda: newer)
    async with cloud.database.transaction() as session:
        await cloud.types.seed(session)
    assert (await cloud.call("GET", "/accelerators/nvidia-l4-24gb"))["interconnect"] == "PCIe 4 x16"
    assert (await cloud.call("GET", "/accelerators/nvidia-t4-16gb"))["interconnect"] == "new"


async def test_tenants_see_types_and_whether_there_are_any_and_nothing_of_nodes(cloud: Cloud) -> None:
    await cloud.report(NodeStatus(node("secret-node", *gpus(2)), NodeAllocation(accelerators_milli={0: 1000})))
    node_id = (await cloud.only_node())["id"]
    rack = {"region": "local", "name": "r1", "power_limit_watts": 1}
    rack_id = (await cloud.call("POST", "/racks", rack, status_code=201))["id"]
    shown = (await cloud.client.get("/api/v1/accelerators/nvidia-h100-80gb", headers=TENANT)).json()
    assert (shown["regions"], shown["counts"]) == (["local"], None)
    new = {"id": "x", "family": "x", "name": "X", "memory_bytes": 1}
    for method, path, body in [
        ("GET", "/nodes", None),
        ("GET", f"/nodes/{node_id}", None),
        ("PATCH", f"/nodes/{node_id}", {"is_cordoned": True}),
        ("DELETE", f"/nodes/{node_id}", None),
        ("GET", "/racks", None),
        ("GET", f"/racks/{rack_id}", None),
        ("POST", "/racks", rack),
        ("PATCH", f"/racks/{rack_id}", {"power_limit_watts": 5}),
        ("DELETE", f"/racks/{rack_id}", None),
        ("POST", "/accelerators", new),
        ("PATCH", "/accelerators/nvidia-h100-80gb", {"power_watts": 1}),
    ]:
        for headers, status_code in ((TENANT, 403), ({}, 401)):
            answer = await cloud.client.request(method, f"/api/v1{path}", json=body, headers=headers)
            assert answer.status_code == status_code, (method, path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert "secret-node" not in answer.text
    assert (await cloud.only_node())["state"] == "ready"


@pytest.mark.parametrize("path", ["/nodes/node_x", "/racks/rack_x", "/accelerators/none"])
async def test_what_is_not_there_is_not_found(cloud: Cloud, path: str) -> None:
    body = {"power_limit_watts": 1} if path.startswith("/racks") else {}
    await cloud.call("GET", path, status_code=404)
    await cloud.call("PATCH", path, body, status_code=404)
    if not path.startswith("/accelerators"):
        await cloud.call("DELETE", path, status_code=404)


async def test_a_node_that_is_there_is_not_forgotten(cloud: Cloud) -> None:
    await cloud.report(NodeStatus(node()))
    answer = await cloud.call("DELETE", f"/nodes/{(await cloud.only_node())['id']}", status_code=409)
    assert "drain it" in answer["hint"]
