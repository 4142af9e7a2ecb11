"""Books, workers and the messages between them, in memory: none of which is sure to arrive, or to arrive in order."""

from collections.abc import Callable, Sequence
from functools import partial

from cloudcrest.billing.grants import Book, GrantsAnswer, GrantsRequest, exchange
from cloudcrest.billing.tariff import Tariff
from cloudcrest.gateway.budget import LIFE, SECOND, Wallet
from cloudcrest.gateway.purse import Claim
from cloudcrest.kernel.usage import Hold

ANSWER = 1_800 * SECOND
FOREVER = 2**62
SCOPES = ("balance", "key")
_ONE = Tariff(1, 1, 1)


class Worker:
    """One life of a worker: its wallet dies with it, its spool does not."""

    def __init__(self, name: str, clock_error: int) -> None:
        self.name = name
        self.clock_error = clock_error
        self.wallet = Wallet(name)
        self.is_alive = True
        self.open: dict[str, Claim] = {}
        self.ended: dict[str, tuple[int, tuple[Hold, ...]]] = {}

    def claim(self, scopes: Sequence[str], most: int, now: int, *, least: int = 0) -> Claim:
        """A claim of `most` units of each scope; `least`: it is open, and may do with that."""
        is_open = 0 < least < most
        pockets = tuple(self.wallet.pocket(scope, scope, FOREVER) for scope in scopes)
        return Claim(
            pockets,
            _ONE,
            "card",
            input_tokens=least - 1 if is_open else most,
            output_tokens=most - least + 1 if is_open else 0,
            branches=1,
            is_open=is_open,
            until=now + self.clock_error + ANSWER,
        )


class Cloud:
    """Everything, with a clock of its own. `recalled`: scopes of which somebody was refused."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.books = {scope: Book(scope, limit) for scope, limit in limits.items()}
        self.workers: list[Worker] = []
        self.messages: list[Callable[[], None]] = []
        self.ingested: dict[str, int] = {}
        self.recalled: set[str] = set()
        self.now = 1_000 * LIFE
        self.count = 0

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def tell(self, worker: Worker) -> None:
        request = worker.wallet.message(self.now + worker.clock_error)
        if request is not None:
            self.messages.append(partial(self._asked, worker, request))

    def begin(self, worker: Worker, claim: Claim) -> bool:
        wallet = worker.wallet
        if not wallet.reserve(claim) and not wallet.reserve_what_there_is(claim):
            wallet.ask_for([claim], self.now + worker.clock_error)
            return False
        worker.open[self.name("r")] = claim
        return True

    def end(self, worker: Worker, request_id: str, charge: int) -> None:
        claim = worker.open.pop(request_id)
        worker.ended[request_id] = (charge, claim.holds())
        if worker.is_alive:
            claim.settle(charge)

    def ingest(self, worker: Worker, request_id: str) -> None:
        if request_id in self.ingested:
            return
        charge, holds = worker.ended[request_id]
        self.ingested[request_id] = charge
        for scope in {hold.scope for hold in holds}:
            self.books[scope].charge(charge, [hold for hold in holds if hold.scope == scope])

    def drain(self, worker: Worker) -> None:
        """What the region tells of a dead worker whose spool is settled and ingested."""
        if not worker.is_alive and not worker.open and worker.ended.keys() <= self.ingested.keys():
            for book in self.books.values():
                book.drain(worker.name)

    def deliver_all(self) -> None:
        while self.messages:
            self.messages.pop(0)()

    def _asked(self, worker: Worker, request: GrantsRequest) -> None:
        answer = exchange(self.books, request, self.now)
        self.recalled |= {refusal.scope for refusal in answer.refusals}
        answer = GrantsAnswer(answer.grants, answer.refusals, tuple(sorted(self.recalled)))
        self.messages.append(partial(self._heard, worker, request, answer))

    def _heard(self, worker: Worker, request: GrantsRequest, answer: GrantsAnswer) -> None:
        if worker.is_alive:
            worker.wallet.heard(request, answer, self.now + worker.clock_error)


def check_held_to(cloud: Cloud) -> None:
    """Not a unit over, whatever what is open comes to cost."""
    for scope, book in cloud.books.items():
        assert book.uncovered_units == 0
        assert book.left_units >= 0
        ever = 0
        for worker in cloud.workers:
            ever += sum(charge for charge, holds in worker.ended.values() if scope in {hold.scope for hold in holds})
            ever += sum(
                claim.most for claim in worker.open.values() if scope in {pocket.scope for pocket in claim.pockets}
            )
        assert ever <= book.limit_units


def check_nothing_is_lost(cloud: Cloud) -> None:
    """Once everything has ended and arrived, all that was not charged is there to be granted again."""
    for worker in cloud.workers:
        for request_id in list(worker.open):
            cloud.end(worker, request_id, 0)
        for request_id in worker.ended:
            cloud.ingest(worker, request_id)
    for _ in range(5):
        cloud.recalled = set(cloud.books)
        for worker in cloud.workers:
            if worker.is_alive:
                cloud.tell(worker)
        cloud.deliver_all()
    for worker in cloud.workers:
        cloud.drain(worker)
    check_held_to(cloud)
    for book in cloud.books.values():
        charged = sum(
            charge
            for worker in cloud.workers
            for charge, holds in worker.ended.values()
            if book.scope in {hold.scope for hold in holds}
        )
        assert book.charged_units == charged
        assert book.left_units == book.limit_units - charged
        book.forget(cloud.now + 3 * LIFE)
        assert not book.grants
