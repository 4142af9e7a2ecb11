"""What a run does: who asks for what, and what is killed when. Pure: everything follows from the seed."""

import itertools
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, get_args

import msgspec

Target = Literal["gateway", "region", "content", "control", "postgres", "replica"]
TARGETS: tuple[Target, ...] = get_args(Target)
_WEIGHTS: dict[Target, int] = {"gateway": 3, "region": 2, "content": 1, "control": 2, "postgres": 2, "replica": 5}
_LIMITS = (4, 12, 30, 60, None)
_SUBJECTS = ("rain", "a lighthouse", "bread", "the moon", "bees", "old maps", "trains", "winter")


class Model(msgspec.Struct, frozen=True):
    """A deployment of the run. `answer_tokens` of the simulated engine; 0: llama.cpp, whose text nobody foretells."""

    name: str
    replicas: int
    clients: int
    answer_tokens: int = 0
    tokens_per_second: float = 0.0

    @property
    def is_simulated(self) -> bool:
        return self.answer_tokens > 0


MODELS = (
    Model("chaos-swift", replicas=3, clients=4, answer_tokens=45, tokens_per_second=40),
    Model("chaos-slow", replicas=2, clients=3, answer_tokens=70, tokens_per_second=18),
    Model("chaos-real", replicas=2, clients=2),
)
CONTEXT_TOKENS = 512


class Client(msgspec.Struct, frozen=True):
    """Someone with a key, who asks one thing after the other. `leaves`: now and then in the middle of an answer.

    `budget`: all that the key may ever spend; None: it has no budget of its own.
    """

    number: int
    model: Model
    leaves: bool
    budget: Decimal | None = None

    @property
    def name(self) -> str:
        return f"client-{self.number}"

    @property
    def most_at_once(self) -> int:
        """The key's limit: a request that was left may still be under way for a moment beside the next."""
        return 2 if self.leaves else 1


class Ask(msgspec.Struct, frozen=True):
    """One request. `leave_after`: events of the stream after which the client hangs up; 0: before any."""

    client: int
    number: int
    model: str
    is_chat: bool
    prompt: str
    is_stream: bool
    wants_usage: bool
    choices: int
    seed: int | None
    max_tokens: int | None
    leave_after: int | None

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def body(self) -> bytes:
        """The request's JSON."""
        body: dict[str, object] = {"model": self.model, "temperature": 0}
        if self.is_chat:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        else:
            body["prompt"] = self.prompt
        optional = {"seed": self.seed, "max_tokens": self.max_tokens, "n": self.choices if self.choices > 1 else None}
        body |= {name: value for name, value in optional.items() if value is not None}
        if self.is_stream:
            body["stream"] = True
            if self.wants_usage:
                body["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(body)


class Kill(msgspec.Struct, frozen=True):
    """`kill -9` at a time after the load's start. `chance` (0 to 1) picks one of several processes."""

    at_seconds: float
    target: Target
    chance: float


def clients_of(models: tuple[Model, ...], budget: Decimal) -> list[Client]:
    """Every model's clients, half of the simulated models' hang up at times; and one of the first with a budget."""
    numbers = itertools.count()
    clients = [
        Client(next(numbers), model, leaves=model.is_simulated and place % 2 == 1)
        for model in models
        for place in range(model.clients)
    ]
    return [*clients, Client(next(numbers), models[0], leaves=False, budget=budget)]


def budget_for(seconds: float) -> Decimal:
    """About half of what a client could spend in a run of so many seconds, and enough for a first request."""
    return max(Decimal("0.0007"), Decimal("0.00001") * round(seconds))


def asks_of(seed: int, client: Client) -> Iterator[Ask]:
    """What a client asks, without end."""
    chance = random.Random(f"{seed} {client.name}")
    number = 0
    while True:
        number += 1
        is_stream = chance.random() < 0.7
        choices = 2 if chance.random() < 0.12 else 1
        max_tokens = chance.choice(_LIMITS) if client.model.is_simulated else chance.choice((6, 16, 40))
        leaves = client.leaves and chance.random() < 0.35
        yield Ask(
            client=client.number,
            number=number,
            model=client.model.name,
            is_chat=chance.random() < 0.7,
            prompt=f"Tell me about {chance.choice(_SUBJECTS)}, {client.name}, time {number}.",
            is_stream=is_stream,
            wants_usage=is_stream and chance.random() < 0.6,
            choices=choices,
            seed=chance.randrange(1000) if choices > 1 or chance.random() < 0.3 else None,
            max_tokens=max_tokens,
            leave_after=chance.randrange(25) if leaves else None,
        )


def kills_of(seed: int, seconds: float, every_seconds: float) -> tuple[Kill, ...]:
    """Kills through `seconds`: each target once in the first round, then at random, replicas most often."""
    chance = random.Random(f"{seed} kills")
    first = list(TARGETS)
    chance.shuffle(first)
    kills: list[Kill] = []
    at_seconds = every_seconds
    while at_seconds < seconds:
        target = first.pop() if first else chance.choices(TARGETS, [_WEIGHTS[name] for name in TARGETS])[0]
        kills.append(Kill(round(at_seconds, 3), target, chance.random()))
        at_seconds += every_seconds * chance.uniform(0.5, 1.5)
    return tuple(kills)
