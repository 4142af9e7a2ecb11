"""A hard budget holds to the last unit however workers, deaths, messages and clocks interleave, and nothing of it is
lost for ever.
"""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudcrest.billing.grants import grant_units
from cloudcrest.gateway.budget import LIFE, SECOND, SKEW
from tests.unit.gateway.budget_cloud import SCOPES, Cloud, Worker, check_held_to, check_nothing_is_lost


class AnyOrder(RuleBasedStateMachine):
    @initialize(limits=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)))
    def found(self, limits: tuple[int, int]) -> None:
        self.cloud = Cloud(dict(zip(SCOPES, limits, strict=True)))

    @precondition(lambda self: len(self.cloud.workers) < 6)
    @rule(clock_error=st.integers(-SKEW, SKEW))
    def start(self, clock_error: int) -> None:
        self.cloud.workers.append(Worker(self.cloud.name("w"), clock_error))

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.alive())).is_alive = False

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        self.cloud.tell(data.draw(st.sampled_from(self.alive())))

    @precondition(lambda self: self.cloud.messages)
    @rule(data=st.data(), is_lost=st.sampled_from([False, False, False, True]))
    def message(self, data: st.DataObject, is_lost: bool) -> None:
        message = self.cloud.messages.pop(data.draw(st.integers(0, len(self.cloud.messages) - 1)))
        if not is_lost:
            message()

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), most=st.integers(1, 300), least=st.integers(0, 30), both=st.booleans())
    def begin(self, data: st.DataObject, most: int, least: int, both: bool) -> None:
        worker = data.draw(st.sampled_from(self.alive()))
        scopes = SCOPES if both else SCOPES[:1]
        self.cloud.begin(worker, worker.claim(scopes, most, self.cloud.now, least=least))

    @precondition(lambda self: any(worker.open for worker in self.cloud.workers))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.cloud.workers if worker.open]))
        request_id = data.draw(st.sampled_from(sorted(worker.open)))
        self.cloud.end(worker, request_id, data.draw(st.integers(0, worker.open[request_id].most)))

    @precondition(lambda self: any(worker.ended for worker in self.cloud.workers))
    @rule(data=st.data())
    def ingest(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.cloud.workers if worker.ended]))
        self.cloud.ingest(worker, data.draw(st.sampled_from(sorted(worker.ended))))

    @precondition(lambda self: self.cloud.workers)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.cloud.drain(data.draw(st.sampled_from(self.cloud.workers)))

    @rule(step=st.integers(1, LIFE), forget=st.booleans(), recalled=st.sets(st.sampled_from(SCOPES)))
    def time_passes(self, step: int, forget: bool, recalled: set[str]) -> None:
        self.cloud.now += step
        self.cloud.recalled = recalled
        if forget:
            for book in self.cloud.books.values():
                book.forget(self.cloud.now - 600 * SECOND)

    @invariant()
    def never_a_unit_over(self) -> None:
        if hasattr(self, "cloud"):
            check_held_to(self.cloud)

    def teardown(self) -> None:
        if hasattr(self, "cloud"):
            check_nothing_is_lost(self.cloud)

    def alive(self) -> list[Worker]:
        return [worker for worker in self.cloud.workers if worker.is_alive]


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.parametrize("decade", range(15))
def test_long_walks(decade: int) -> None:
    """Hypothesis finds short stories; these are long ones, in which budgets run low and late messages are very late."""
    assert sum(long_walk(seed) for seed in range(10 * decade, 10 * decade + 10)) > 100


def long_walk(seed: int) -> int:
    """How many requests were charged in it."""
    rng = random.Random(seed)
    cloud = Cloud({"balance": rng.randint(500, 2_000), "key": rng.randint(500, 2_000)})
    for _ in range(600):
        alive = [worker for worker in cloud.workers if worker.is_alive]
        if not alive or (len(alive) < 4 and rng.random() < 0.01):
            cloud.workers.append(Worker(cloud.name("w"), rng.randint(-SKEW, SKEW)))
            continue
        walk(cloud, rng, rng.choice(alive))
        check_held_to(cloud)
    check_nothing_is_lost(cloud)
    return len(cloud.ingested)


def walk(cloud: Cloud, rng: random.Random, worker: Worker) -> None:  # noqa: PLR0912 - a branch a kind of step
    """One step of a long walk."""
    step = rng.random()
    if step < 0.2:
        cloud.tell(worker)
    elif step < 0.5 and cloud.messages:
        message = cloud.messages.pop(rng.randrange(len(cloud.messages)))
        if rng.random() < 0.9:
            message()
    elif step < 0.7:
        scopes = rng.choice((SCOPES, SCOPES[:1]))
        cloud.begin(worker, worker.claim(scopes, rng.randint(1, 150), cloud.now, least=rng.randint(0, 20)))
    elif step < 0.82:
        for each in cloud.workers:
            for request_id, claim in list(each.open.items()):
                if rng.random() < 0.4:
                    cloud.end(each, request_id, rng.randint(0, claim.most))
    elif step < 0.92:
        for each in cloud.workers:
            for request_id in each.ended:
                if rng.random() < 0.6:
                    cloud.ingest(each, request_id)
            cloud.drain(each)
    elif step < 0.95:
        cloud.recalled = {scope for scope in SCOPES if rng.random() < 0.4}
    elif step < 0.96:
        worker.is_alive = False
    else:
        cloud.now += rng.randint(1, LIFE // 2)
        for book in cloud.books.values():
            book.forget(cloud.now - 600 * SECOND)


@given(
    left=st.integers(0, 10**6),
    least=st.integers(1, 10**6),
    needed=st.integers(1, 10**6),
    wanted=st.integers(0, 10**6),
    holders=st.integers(1, 64),
)
def test_a_grant_is_what_is_needed_or_a_small_share(
    left: int, least: int, needed: int, wanted: int, holders: int
) -> None:
    least = min(least, needed)
    units = grant_units(left, least=least, needed=needed, wanted=wanted, holders=holders)

    if least > left:
        assert units == 0
    else:
        assert least <= units <= left
        assert min(needed, left) <= units <= max(needed, left // (4 * holders))


def test_what_an_idle_worker_holds_is_there_for_another_once_it_is_recalled() -> None:
    cloud = Cloud({"balance": 1_000})
    idle, busy = cloud.workers = [Worker("w0", 0), Worker("w1", 0)]
    assert not cloud.begin(idle, idle.claim(["balance"], 900, cloud.now))
    assert not cloud.begin(busy, busy.claim(["balance"], 500, cloud.now))
    for worker in (idle, busy):
        cloud.tell(worker)
    cloud.deliver_all()
    assert not cloud.begin(busy, busy.claim(["balance"], 500, cloud.now + SECOND))
    assert cloud.recalled == {"balance"}

    cloud.tell(idle)
    cloud.deliver_all()
    cloud.tell(idle)
    cloud.deliver_all()
    cloud.now += SECOND
    assert not cloud.begin(busy, busy.claim(["balance"], 500, cloud.now))
    cloud.tell(busy)
    cloud.deliver_all()

    assert cloud.begin(busy, busy.claim(["balance"], 500, cloud.now))
    check_held_to(cloud)


def test_who_has_plenty_never_waits_again() -> None:
    cloud = Cloud({"balance": 10**9})
    (worker,) = cloud.workers = [Worker("w0", 0)]
    assert not cloud.begin(worker, worker.claim(["balance"], 100, cloud.now))
    for _ in range(10_000):
        if worker.wallet.has_news:
            cloud.tell(worker)
            cloud.deliver_all()
        assert cloud.begin(worker, worker.claim(["balance"], 100, cloud.now)) or not worker.ended
        for request_id in list(worker.open):
            cloud.end(worker, request_id, 70)
    assert len(worker.ended) >= 9_999
    for request_id in worker.ended:
        cloud.ingest(worker, request_id)
    check_nothing_is_lost(cloud)


def test_an_open_claim_is_limited_to_what_there_is() -> None:
    cloud = Cloud({"balance": 250})
    (worker,) = cloud.workers = [Worker("w0", 0)]
    claim = worker.claim(["balance"], 1_000, cloud.now, least=101)
    assert not cloud.begin(worker, claim)
    cloud.tell(worker)
    cloud.deliver_all()

    assert cloud.begin(worker, claim)

    assert claim.is_capped
    assert (claim.input_tokens, claim.output_tokens, claim.most) == (100, 150, 250)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4))
def test_a_burst_spends_the_budget_but_for_less_than_a_reservation_per_worker(seed: int, workers: int) -> None:
    rng = random.Random(seed)
    waiting = [rng.randint(50, 1_000) for _ in range(1_000)]
    limit, largest = 50_000, max(waiting)
    cloud = Cloud({"balance": limit})
    book = cloud.books["balance"]
    cloud.workers = [Worker(f"w{index}", 0) for index in range(workers)]
    idle_rounds = 0
    while waiting and idle_rounds < 4:
        retry: list[int] = []
        for most in waiting:
            worker = rng.choice(cloud.workers)
            if not cloud.begin(worker, worker.claim(["balance"], most, cloud.now)):
                retry.append(most)
        for worker in cloud.workers:
            cloud.tell(worker)
        cloud.deliver_all()
        is_idle = len(retry) == len(waiting) and not any(worker.open for worker in cloud.workers)
        idle_rounds = idle_rounds + 1 if is_idle else 0
        finish_some(cloud, rng)
        cloud.now += SECOND
        waiting = retry
    finish_some(cloud, rng, everything=True)
    unused = limit - book.charged_units
    assert unused >= 0
    assert book.uncovered_units == 0
    assert not waiting or unused < workers * largest


def finish_some(cloud: Cloud, rng: random.Random, *, everything: bool = False) -> None:
    for worker in cloud.workers:
        for request_id, claim in list(worker.open.items()):
            if everything or rng.random() < 0.5:
                cloud.end(worker, request_id, rng.randint(0, claim.most))
                cloud.ingest(worker, request_id)
