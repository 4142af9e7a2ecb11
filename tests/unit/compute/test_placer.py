"""The live placer over a fake fabric and a clock that moves when told to."""

import asyncio
import dataclasses
import threading
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cloudcrest.billing.api import RateCard, RateCardsDocument
from cloudcrest.bootstrap.region_placement import Published, accelerator_prices, rules
from cloudcrest.compute.api import AcceleratorFacts, NodeDocument, NodeFacts
from cloudcrest.compute.fakes import FakeNodes
from cloudcrest.compute.placement.labels import place_labels, running_of
from cloudcrest.compute.placement.placer import LivePlacer
from cloudcrest.compute.scheduler.model import Demand, Placed, Running, Spot, Workload
from cloudcrest.compute.scheduler.packing.api import Packing
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.compute.scheduler.quotas import CPU, Quota
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.units import GIB
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
NOW = ManualClock().now()
START = ManualClock().unix_seconds()


def machine(name: str, *, zone: str = "", accelerators: int = 0, is_ready: bool = True) -> NodeFacts:
    chips = tuple(AcceleratorFacts(index, "nvidia", "h100", "H100", 80 * GIB) for index in range(accelerators))
    labels = {"cloudcrest.io/zone": zone} if zone else {}
    return NodeFacts(name, "127.0.0.1", 4_000, 16 * GIB, chips, labels, is_ready)


def workload(name: str, *, cpu: int = 1_000, gpus: int = 0, **more: object) -> Workload:
    return msgspec.structs.replace(Workload(name, Demand(cpu, GIB, gpus), since=START), **more)


class SlowFit(BestFit):
    """Chooses when it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_choosing = threading.Event()
        self.go_on = threading.Event()

    def choose(self, demand: Demand, among: Iterable[str] | None = None) -> Spot | None:
        self.is_choosing.set()
        assert self.go_on.wait(30)
        return super().choose(demand, among)


class Region:
    """A placer and its two sources."""

    def __init__(
        self, clock: ManualClock, *machines: NodeFacts, path: Path | None = None, packing: Packing | None = None
    ) -> None:
        self.clock = clock
        self.fabric = FakeNodes(*machines)
        self.news_of: list[str] = []
        self.packing = packing or BestFit()
        self.placer = LivePlacer(self.fabric, self.packing, rules(Published(), NOW), clock=clock, history_path=path)
        for source in ("serving", "jobs"):
            self.placer.watch(source, partial(self.news_of.append, source))

    async def begin(self) -> None:
        """Both sources have nothing to adopt."""
        self.placer.news("serving")
        self.placer.news("jobs")
        await self.step()

    async def step(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        await self.placer.step()

    def places(self, source: str = "jobs") -> dict[str, list[str]]:
        placed = self.placer.news(source).placed
        return {each.workload_id: [spot.node_id for spot in each.spots] for each in placed}

    def reasons(self, source: str = "jobs") -> dict[str, tuple[str, str]]:
        return {each.workload_id: (each.code, each.reason) for each in self.placer.news(source).refused}


async def test_places_what_is_offered_and_says_why_the_rest_waits(clock: ManualClock) -> None:
    region = Region(clock, machine("a"))
    await region.begin()
    region.placer.offer("jobs", workload("small"))
    region.placer.offer("jobs", workload("large", cpu=4_000, since=START + 1))
    region.placer.offer("jobs", workload("never", gpus=1))
    assert region.reasons()["small"] == ("capacity", "is about to be placed")
    await region.step()
    assert region.places() == {"small": ["a"]}
    assert region.reasons()["large"][0] == "capacity"
    assert "needs 4 CPUs" in region.reasons()["large"][1]
    assert region.reasons()["never"][0] == "impossible"
    assert region.places("serving") == {}
    region.placer.release("jobs", "small")
    await region.step()
    assert region.places() == {"large": ["a"]}
    assert "jobs" in region.news_of


async def test_gives_nothing_out_before_every_source_has_said_what_runs(clock: ManualClock) -> None:
    region = Region(clock, machine("a"))
    region.placer.offer("jobs", workload("job", cpu=4_000))
    region.placer.news("jobs")
    await region.step()
    assert region.reasons() == {"job": ("capacity", "serving must first say what runs already")}
    region.placer.adopt("serving", Running(workload("replica"), (Spot("a"),), 0.0))
    region.placer.news("serving")
    await region.step()
    assert region.places() == {}
    assert region.places("serving") == {"replica": ["a"]}
    assert region.reasons()["job"][0] == "capacity"


async def test_says_that_nodes_cannot_be_asked_for_and_goes_on_when_they_can(clock: ManualClock) -> None:
    region = Region(clock, machine("a"))
    region.fabric.failure = Unavailable("the node agent does not answer")
    await region.begin()
    region.placer.offer("jobs", workload("job"))
    await region.step()
    assert "the node agent does not answer" in region.reasons()["job"][1]
    region.fabric.failure = None
    await region.step()
    assert region.places() == {"job": ["a"]}
    region.fabric.failure = Unavailable("the node agent does not answer")
    await region.step(60.0)
    assert not region.placer.is_lost("a")


async def test_a_replica_preempts_a_job_and_gets_its_place_when_that_has_gone(clock: ManualClock) -> None:
    region = Region(clock, machine("a", accelerators=1))
    await region.begin()
    region.placer.offer("jobs", workload("job", gpus=1))
    await region.step()
    region.placer.offer("serving", workload("replica", gpus=1, priority=10))
    await region.step()
    (preempted,) = region.placer.news("jobs").preempted
    assert (preempted.workload_id, preempted.by) == ("job", "replica")
    assert region.reasons("serving")["replica"][0] == "waits_for_preemption"
    region.placer.release("jobs", "job")
    await region.step()
    assert region.placer.news("serving").placed == (Placed("replica", (Spot("a", (0,)),)),)
    assert region.placer.news("jobs").preempted == ()


async def test_what_is_made_free_for_one_is_not_taken_by_another(clock: ManualClock) -> None:
    region = Region(clock, machine("a", accelerators=1))
    await region.begin()
    region.placer.offer("jobs", workload("spot", gpus=1, is_spot=True, owner=("o", "p")))
    await region.step()
    region.placer.offer("jobs", workload("first", gpus=1, owner=("o", "p")))
    await region.step()
    assert region.reasons()["first"][0] == "waits_for_preemption"
    region.placer.release("jobs", "spot")
    region.placer.offer("jobs", workload("urgent", gpus=1, owner=("o", "p"), priority=9))
    region.placer.offer("jobs", workload("first", gpus=1, owner=("o", "p")))  # said again
    await region.step()
    assert list(region.places()) == ["first"]


async def test_of_two_jobs_the_one_with_less_to_lose_is_stopped(clock: ManualClock) -> None:
    region = Region(clock, machine("a", accelerators=2))
    await region.begin()
    region.placer.offer("jobs", workload("old", gpus=1, owner=("o", "p")))
    await region.step()
    region.placer.offer("jobs", workload("new", gpus=1, owner=("o", "p")))
    await region.step(3_600)
    region.placer.offer("serving", workload("replica", gpus=1, priority=10))
    await region.step()
    assert [each.workload_id for each in region.placer.news("jobs").preempted] == ["new"]


async def test_a_job_that_has_just_saved_its_work_has_less_to_lose(clock: ManualClock) -> None:
    region = Region(clock, machine("a", accelerators=2))
    await region.begin()
    region.placer.offer("jobs", workload("old", gpus=1, owner=("o", "p")))
    await region.step()
    region.placer.offer("jobs", workload("new", gpus=1, owner=("o", "p")))
    await region.step(3_600)
    await region.step(600)
    region.placer.saved("jobs", "old", clock.unix_seconds() - 10)
    region.placer.saved("jobs", "unknown", clock.unix_seconds())
    region.placer.offer("serving", workload("replica", gpus=1, priority=10))
    await region.step()
    assert [each.workload_id for each in region.placer.news("jobs").preempted] == ["old"]


async def test_quotas_hold_over_both_sources(clock: ManualClock) -> None:
    region = Region(clock, machine("a"))
    quotas = (Quota(("org",), CPU, 1_000, 1_000),)
    region.placer.update(dataclasses.replace(rules(Published(), NOW), quotas=quotas))
    await region.begin()
    region.placer.offer("jobs", workload("first", owner=("org", "p")))
    region.placer.offer("jobs", workload("second", owner=("org", "p"), since=START + 1))
    await region.step()
    assert list(region.places()) == ["first"]
    assert region.reasons()["second"][0] == "quota"


async def test_tells_what_is_on_a_drained_node_to_move(clock: ManualClock) -> None:
    region = Region(clock, machine("a"), machine("b"))
    await region.begin()
    region.placer.adopt("serving", Running(workload("replica"), (Spot("a"),), 0.0))
    region.placer.update(rules(Published(nodes=[NodeDocument(id="node_1", node_id="a", is_draining=True)]), NOW))
    (preempted,) = region.placer.news("serving").preempted
    assert (preempted.by, preempted.reason) == ("", "node 'a' is being drained")


async def test_a_node_that_stays_away_is_lost_and_one_that_comes_back_is_not(clock: ManualClock) -> None:
    region = Region(clock, machine("a"), machine("b"))
    await region.begin()
    region.placer.adopt("jobs", Running(workload("job", cpu=4_000), (Spot("a"),), 0.0))
    region.fabric.machines = [machine("a", is_ready=False), machine("b")]
    await region.step()
    assert not region.placer.is_lost("a")
    region.fabric.machines = [machine("a"), machine("b")]
    await region.step()
    region.fabric.machines = [machine("b")]
    await region.step()
    assert not region.placer.is_lost("a")
    await region.step(3.0)
    assert region.placer.is_lost("a")
    assert region.places() == {"job": ["a"]}
    region.fabric.machines = [machine("a"), machine("b")]
    await region.step()
    assert not region.placer.is_lost("a")
    region.placer.offer("jobs", workload("other", cpu=4_000))
    await region.step()
    assert region.places()["other"] == ["b"]


async def test_what_was_found_running_takes_what_there_is_though_it_does_not_fit(clock: ManualClock) -> None:
    region = Region(clock, machine("a", accelerators=1))
    region.placer.adopt("jobs", Running(workload("first", cpu=3_000, gpus=1), (Spot("a", (0,)),), 0.0))
    region.placer.adopt("jobs", Running(workload("second", cpu=3_000, gpus=1), (Spot("a", (0,)),), 0.0))
    await region.begin()
    assert len(region.places()) == 2
    region.placer.offer("jobs", workload("third", cpu=1_000))
    await region.step()
    assert region.reasons()["third"][0] == "capacity"
    region.placer.release("jobs", "second")
    await region.step()
    assert region.places()["third"] == ["a"]


async def test_an_offer_again_keeps_its_places(clock: ManualClock) -> None:
    region = Region(clock, machine("a"))
    await region.begin()
    region.placer.offer("jobs", workload("job"))
    await region.step()
    region.placer.offer("jobs", workload("job", cpu=2_000))
    assert region.places() == {"job": ["a"]}
    assert region.reasons() == {}


async def test_what_comes_while_a_decision_is_made_counts_after_it(clock: ManualClock) -> None:
    region = Region(clock, machine("a"), packing=SlowFit())
    packing = region.packing
    assert isinstance(packing, SlowFit)
    await region.begin()
    region.placer.adopt("jobs", Running(workload("before", cpu=3_000), (Spot("a"),), 0.0))
    region.placer.offer("jobs", workload("small"))
    step = asyncio.create_task(region.step())
    await until_async(packing.is_choosing.is_set, "it is being decided")
    region.placer.release("jobs", "before")
    region.placer.offer("jobs", workload("before", cpu=2_000))
    assert region.places() == {}
    assert list(region.reasons()) == ["small"]
    packing.go_on.set()
    await step
    assert region.places() == {"small": ["a"]}
    assert region.reasons()["before"] == ("capacity", "is about to be placed")
    await region.step()
    assert region.places() == {"small": ["a"], "before": ["a"]}


async def test_a_new_placer_knows_the_shapes_that_were_asked_for(clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "shapes.json"
    region = Region(clock, machine("a"), path=path)
    await region.begin()
    region.placer.offer("jobs", workload("job", cpu=700))
    region.placer.offer("jobs", workload("job", cpu=700))
    await region.step(60.0)
    assert msgspec.json.decode(path.read_bytes(), type=list[Demand]) == [Demand(700, GIB)]
    path.write_bytes(b"not JSON")
    again = Region(clock, machine("a"), path=path)
    await again.begin()
    assert again.places() == {}


def test_labels_say_again_what_they_were_made_of() -> None:
    made = Workload(
        "job-1", Demand(500, GIB, 2), 1, ("org", "proj"), priority=-3, is_spot=True, group="job-1", since=12.5
    )
    running = Running(made, (Spot("a", (1, 3)),), 17.25)
    found = running_of("job-1", [place_labels(running)])
    assert found == msgspec.structs.replace(running, workload=msgspec.structs.replace(made, since=0.0))
    assert running_of("job-1", [{"node": "a"}]) is None
    assert running_of("job-1", []) is None


def test_the_cheapest_is_told_by_prices_of_one_currency() -> None:
    def rate(type_id: str, currency: str, price: str | None) -> RateCardsDocument:
        amount = None if price is None else Decimal(price)
        nothing = Decimal(0)
        card = RateCard("rate_1", type_id, currency, NOW, nothing, nothing, nothing)
        card = msgspec.structs.replace(card, price_per_accelerator_second=amount)
        return RateCardsDocument(type_id, currency, (card,))

    rates = [
        rate("compute/h100", "EUR", "0.002"),
        rate("compute/h100", "USD", "0.003"),
        rate("compute/910b", "USD", "0.001"),
        rate("compute/cpu", "USD", None),
        rate("smollm2", "USD", "9"),
    ]
    assert accelerator_prices(rates, NOW) == {"h100": 0.003, "910b": 0.001}
    assert accelerator_prices([], NOW) == {}
