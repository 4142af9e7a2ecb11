"""One run: load and kills side by side, the death of `up` at the end, a second `up`, and the judgement."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from tests.support.cloud import new_cloud

from bench.chaos.claims import NO_GRANT, OUT_OF_BUDGET, Death, Evidence, Finding, judge
from bench.chaos.client import Attempt, Line, attempt
from bench.chaos.plan import MODELS, Client, Model, asks_of, budget_for, clients_of, kills_of
from bench.chaos.stage import ENVIRONMENT, FLAGS, Stage

MEASURE_SECONDS = 1.0
PAUSE_SECONDS = 0.1
"""After a connection broke (a process that was killed takes a moment to let go of all it had), or a refusal."""
END_SECONDS = 90.0
"""Every request that is under way when the load ends is over by then, whatever was killed."""

Tell = Callable[[str], object]


class Options(msgspec.Struct, frozen=True):
    """`seconds` of load, with a kill about every `kill_every_seconds`; after the second start, load for a moment."""

    seed: int
    seconds: float
    kill_every_seconds: float
    after_seconds: float = 3.0
    models: tuple[Model, ...] = MODELS


class Outcome(msgspec.Struct, frozen=True):
    """What a run showed."""

    options: Options
    findings: list[Finding]
    requests: dict[str, int]
    endings: dict[str, int]
    kills: dict[str, int]
    kills_passed_over: int
    streams_that_lost_a_replica: int
    streams_at_killed_gateways: int
    refused_out_of_budget: int
    refused_without_grant: int
    events: dict[str, int]
    charged: str
    memory_mib: dict[str, float]

    @property
    def is_good(self) -> bool:
        return not any(finding.broken for finding in self.findings)


def run(options: Options, tell: Tell, keep_logs: Path) -> Outcome:
    """A cloud of its own from its start to the judgement. `tell`: what goes on, line by line.

    `keep_logs`: a folder that is made where a claim broke, with the logs of every process.
    """
    clients = clients_of(options.models, budget_for(options.seconds))
    with new_cloud(flags=FLAGS, environment=ENVIRONMENT) as cloud:
        cloud.start()
        stage = Stage(cloud, options.models, clients)
        try:
            tell(f"{len(clients)} clients, {sum(model.replicas for model in options.models)} replicas are ready")
            before = stage.balance()
            load = _Load(options, stage, clients, tell)
            asyncio.run(load.run_and_die())
            tell("everything is dead; `up` starts again")
            cloud.start()
            stage.wait_ready()
            asyncio.run(load.run_on())
            tell("the load has ended; waiting for what it is charged")
            evidence = Evidence(
                models=options.models,
                budgets={client.number: client.budget for client in clients if client.budget is not None},
                attempts=load.attempts,
                deaths=load.deaths,
                events=stage.settled_events({attempt.request_id for attempt in load.attempts if attempt.status == 200}),
                balance_before=before,
                balance_after=stage.balance(),
                ledger=stage.verify_ledger(),
                memory_mib=stage.memory_mib,
            )
            outcome = _outcome(options, evidence, load.passed_over)
            if not outcome.is_good:
                shutil.copytree(cloud.data / "logs", keep_logs, dirs_exist_ok=True)
            return outcome
        finally:
            stage.close()


class _Load:
    """The clients, and beside them who kills."""

    def __init__(self, options: Options, stage: Stage, clients: list[Client], tell: Tell) -> None:
        self._options = options
        self._stage = stage
        self._tell = tell
        self._clients = clients
        self._asks = {client.number: asks_of(options.seed, client) for client in clients}
        self._is_over = asyncio.Event()
        self.attempts: list[Attempt] = []
        self.deaths: list[Death] = []
        self.passed_over = 0

    async def run_and_die(self) -> None:
        """Load and kills for their time, and the end of everything in the middle of the load."""
        asking = [asyncio.create_task(self._ask(client)) for client in self._clients]
        measuring = asyncio.create_task(self._measure())
        began_at = time.monotonic()
        for kill in kills_of(self._options.seed, self._options.seconds, self._options.kill_every_seconds):
            await asyncio.sleep(began_at + kill.at_seconds - time.monotonic())
            death = await asyncio.to_thread(self._stage.kill, kill)
            if death is None:
                self.passed_over += 1
            else:
                self.deaths.append(death)
            what = kill.target + (f" of {death.model}" if death is not None and death.model else "")
            done = f"{len(self.attempts)} requests"
            self._tell(f"{kill.at_seconds:7.1f} s  {what}{'' if death else ': passed over'}, after {done}")
        await asyncio.sleep(began_at + self._options.seconds - time.monotonic())
        measuring.cancel()
        self._is_over.set()
        self.deaths.append(await asyncio.to_thread(self._stage.kill_all))
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*asking)

    async def run_on(self) -> None:
        """Load for a moment without kills, ended in order."""
        self._is_over = asyncio.Event()
        asking = [asyncio.create_task(self._ask(client)) for client in self._clients]
        await asyncio.sleep(self._options.after_seconds)
        self._is_over.set()
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*asking)

    async def _ask(self, client: Client) -> None:
        """One request after the other, on one connection for as long as it lasts. At least one."""
        line: Line | None = None
        key, port = self._stage.keys[client.number], self._stage.port
        while True:
            if line is None:
                try:
                    line = await Line.open(port)
                except OSError:  # `up` itself is dead
                    if self._is_over.is_set():
                        return
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
            done = await attempt(next(self._asks[client.number]), key, line)
            self.attempts.append(done)
            if done.ending not in ("whole", "refused"):
                line = None
            if done.ending in ("cut", "refused"):
                await asyncio.sleep(PAUSE_SECONDS)
            if self._is_over.is_set():
                break
        if line is not None:
            line.close()

    async def _measure(self) -> None:
        while True:
            await asyncio.to_thread(self._stage.measure)
            await asyncio.sleep(MEASURE_SECONDS)


def _outcome(options: Options, evidence: Evidence, passed_over: int) -> Outcome:
    attempts = evidence.attempts
    kinds = Counter(f"{attempt.ask.model}, {'streamed' if attempt.ask.is_stream else 'whole'}" for attempt in attempts)
    return Outcome(
        options=options,
        findings=judge(evidence),
        requests=dict(sorted(kinds.items())),
        endings=dict(Counter(attempt.ending for attempt in attempts)),
        kills=dict(Counter(death.target for death in evidence.deaths)),
        kills_passed_over=passed_over,
        streams_that_lost_a_replica=sum(bool(evidence.lost_replicas(attempt)) for attempt in attempts),
        streams_at_killed_gateways=sum(evidence.cut_by(attempt) is not None for attempt in attempts),
        refused_out_of_budget=sum(OUT_OF_BUDGET in attempt.said for attempt in attempts),
        refused_without_grant=sum(NO_GRANT in attempt.said for attempt in attempts),
        events=dict(Counter(event.outcome for event in evidence.events)),
        charged=str(evidence.balance_before - evidence.balance_after),
        memory_mib={name: round(mib, 1) for name, mib in sorted(evidence.memory_mib.items())},
    )
