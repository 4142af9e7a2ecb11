"""The cloud of a run: its deployments and keys, what can be killed in it, and what it charged."""

import contextlib
import os
import signal
import time
from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import psutil
from tests.support.cloud import Cloud
from tests.support.waiting import until
from tests.support.weights import CHAT_MODEL

from bench.chaos.claims import Death, Event
from bench.chaos.plan import CONTEXT_TOKENS, Client, Kill, Model
from cloudcrest.infra.feed import FeedState
from cloudcrest.serving.api import ReplicaEndpoint, RouteDocument

READY_SECONDS = 60.0
SETTLE_SECONDS = 60.0
END_SECONDS = 20.0
MIB = 1024 * 1024
FLAGS = ("--no-default-models", "--gateway-workers", "2")
ENVIRONMENT = {
    "CLOUDCREST_STARTING_CREDIT": "1000",
    # Replicas are killed for minutes on end: the wait for a new one is not what is measured.
    "CLOUDCREST_SERVING_BACKOFF_FIRST_SECONDS": "0.2",
    "CLOUDCREST_SERVING_BACKOFF_MOST_SECONDS": "1",
}
_PRICES = {
    "input_price_per_million_tokens": "0.123457",
    "cached_input_price_per_million_tokens": "0.0654321",
    "output_price_per_million_tokens": "0.987654321",
}


class Stage:
    """A started cloud, made ready for a run."""

    def __init__(self, cloud: Cloud, models: tuple[Model, ...], clients: list[Client]) -> None:
        self.cloud = cloud
        self.models = models
        self.keys: dict[int, str] = {}
        self._client_of_key: dict[str, int] = {}
        self._probes = httpx2.Client(timeout=2, trust_env=False)
        self.memory_mib: dict[str, float] = {}
        for model in models:
            self._deploy(model)
        with cloud.client() as management:
            project = _ok(management.get("/api/v1/projects")).json()["data"][0]["id"]
            for client in clients:
                limits = {"concurrent_requests": client.most_at_once}
                body = {"project_id": project, "name": client.name, "limits": limits}
                made = _ok(management.post("/api/v1/keys", json=body)).json()
                self.keys[client.number] = made["key"]
                self._client_of_key[made["id"]] = client.number
                if client.budget is not None:
                    budget = {"key_id": made["id"], "period": "total", "amount": str(client.budget)}
                    _ok(management.post("/api/v1/budgets", json=budget))
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when every gateway knows every replica and every key."""
        until(self._is_ready, "every replica's start", seconds=READY_SECONDS)

    @property
    def port(self) -> int:
        return int(self.cloud.base_url.rpartition(":")[2])

    def close(self) -> None:
        self._probes.close()

    def _is_ready(self) -> bool:
        feeds = self._feeds()
        return bool(feeds) and all(
            self._client_of_key.keys() <= feed.documents.get("key", {}).keys()
            and all(len(_replicas(feed, model.name)) == model.replicas for model in self.models)
            for feed in feeds
        )

    # what is killed

    def kill(self, kill: Kill) -> Death | None:
        """Kills what is meant; None where that would leave a model without a replica, or nothing runs to be killed."""
        if kill.target == "replica":
            return self._kill_replica(kill.chance)
        if kill.target == "gateway":
            workers = self._gateways()
            return self._kill_gateway(_one_of(workers, kill.chance)) if workers else None
        state = self.cloud.state()
        pid = 0 if state is None else state.processes.get(kill.target, 0)
        if kill.target == "postgres" and pid:
            pid = next(iter(self.cloud.children_of("postgres")), 0)  # the postmaster; pid is its guard's
        if not pid:
            return None
        death = Death(time.monotonic(), kill.target)
        return death if _kill(pid) else None

    def kill_all(self) -> Death:
        """Kills `up` and the gateways; everything else ends by itself."""
        assert self.cloud.up is not None
        tree, gateways = self.cloud.tree(), self._gateways()
        at = time.monotonic()
        for pid in (self.cloud.up.pid, *gateways):
            _kill(pid)
        self.cloud.up.wait()
        _, alive = psutil.wait_procs(tree, timeout=END_SECONDS)
        assert not alive, f"still run without `up`: {alive}"
        return Death(at, "up")

    def _kill_gateway(self, pid: int) -> Death | None:
        """Stopped first: then who is connected to it stays so until it is dead."""
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.kill(pid, signal.SIGSTOP)
            ports = self._clients_of(pid)
            os.kill(pid, signal.SIGKILL)
            return Death(at, "gateway", ports=ports)
        return None

    def _kill_replica(self, chance: float) -> Death | None:
        """One of a model that has another one which answers and which every gateway knows."""
        choices = [model for model in self.models if len(self._alive(model)) > 1]
        if not choices:
            return None
        model = _one_of(choices, chance)
        victim = _one_of(self._alive(model), chance * 997 % 1)
        pid = self._pid_at(int(victim.url.rpartition(":")[2]))
        death = Death(time.monotonic(), "replica", model=model.name)
        return death if pid and _kill(pid) else None

    def _alive(self, model: Model) -> list[ReplicaEndpoint]:
        feeds = self._feeds()
        if not feeds:
            return []
        known = [{replica.url: replica for replica in _replicas(feed, model.name)} for feed in feeds]
        everywhere = set.intersection(*(set(replicas) for replicas in known))
        return [known[0][url] for url in sorted(everywhere) if self._answers(known[0][url])]

    def _answers(self, replica: ReplicaEndpoint) -> bool:
        try:
            headers = {"authorization": f"Bearer {replica.token}"}
            return self._probes.get(f"{replica.url}/health", headers=headers).status_code == 200
        except httpx2.HTTPError:
            return False

    def _pid_at(self, port: int) -> int:
        for pid in self.cloud.replica_pids():
            with contextlib.suppress(psutil.Error):
                listening = psutil.Process(pid).net_connections("tcp")
                if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in listening):
                    return pid
        return 0

    def _gateways(self) -> list[int]:
        state = self.cloud.state()
        found = {} if state is None else state.processes
        return [found[name] for name in sorted(found) if name.startswith("gateway")]

    def _clients_of(self, pid: int) -> frozenset[int]:
        """Clients' ports that are connected to a gateway."""
        with contextlib.suppress(psutil.NoSuchProcess):
            links = psutil.Process(pid).net_connections("tcp")
            return frozenset(
                link.raddr.port for link in links if link.status != psutil.CONN_LISTEN and link.laddr.port == self.port
            )
        return frozenset()

    # what there is to see

    def measure(self) -> None:
        """Notes the memory of the processes that are always there."""
        state = self.cloud.state()
        for name, pid in ({} if state is None else state.processes).items():
            with contextlib.suppress(psutil.Error):
                mib = psutil.Process(pid).memory_info().rss / MIB
                self.memory_mib[name] = max(mib, self.memory_mib.get(name, 0.0))

    def balance(self) -> Decimal:
        """What the organization has left."""
        with self.cloud.client() as client:
            return Decimal(_ok(client.get("/api/v1/ledger/balance")).json()["amount"])

    def settled_events(self, wanted: set[str]) -> list[Event]:
        """Every usage event, once all of `wanted` are there, dead gateways' spools are empty, and no more come."""
        seen: list[list[Event]] = []

        def look() -> list[Event] | None:
            try:
                events = self._events()
            except httpx2.HTTPError:  # the control plane is just coming back
                return None
            seen.append(events)
            is_all_there = wanted <= {event.id for event in events}
            is_drained = self._open_spools() <= len(self._gateways())
            is_quiet = len(seen) > 1 and len(seen[-1]) == len(seen[-2])
            return events if is_all_there and is_drained and is_quiet else None

        try:
            return until(look, "the events of all that was served", seconds=SETTLE_SECONDS, pause_seconds=1.0) or []
        except AssertionError:
            return seen[-1] if seen else []  # what is missing is a broken claim, which says more

    def verify_ledger(self) -> dict[str, object]:
        """The report of a replay of the ledger."""
        with self.cloud.client(self.cloud.operator_key) as client:
            report: dict[str, object] = _ok(client.post("/api/v1/ledger/verify", json={}, timeout=120)).json()
            return report

    def _events(self) -> list[Event]:
        events: list[Event] = []
        parameters: dict[str, Any] = {"limit": 200}
        with self.cloud.client() as client:
            while True:
                page = _ok(client.get("/api/v1/usage", params=parameters)).json()
                events += [self._event(row) for row in page["data"]]
                if page["next_cursor"] is None:
                    return events
                parameters["cursor"] = page["next_cursor"]

    def _event(self, row: dict[str, Any]) -> Event:
        usage, charge = row["usage"], row["charge"]
        return Event(
            id=row["id"],
            client=self._client_of_key.get(row["key_id"], -1),
            outcome=row["outcome"],
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            is_estimate=usage["is_estimate"],
            charge=None if charge is None else Decimal(charge["amount"]),
        )

    def _open_spools(self) -> int:
        return sum(1 for path in (self.cloud.data / "regions" / "local" / "spool").iterdir() if path.is_dir())

    def _feeds(self) -> list[FeedState]:
        """What each gateway knows."""
        feeds = []
        for path in (self.cloud.data / "regions" / "local").glob("gateway*/feed.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                feeds.append(msgspec.json.decode(path.read_bytes(), type=FeedState))
        return feeds

    def _deploy(self, model: Model) -> None:
        body: dict[str, Any] = {
            "model": CHAT_MODEL,
            "name": model.name,
            "replicas": {"min": model.replicas, "max": model.replicas},
            "context_tokens": CONTEXT_TOKENS,
            "slots": 4,
            "resources": {"cpu_threads": 1},
        }
        if model.is_simulated:
            options = {"answer_tokens": model.answer_tokens, "decode_tokens_per_second": model.tokens_per_second}
            body |= {"engine": "simulated", "engine_options": options}
        with self.cloud.client(self.cloud.operator_key) as client:
            _ok(client.post("/api/v1/rate-cards", json={"model": model.name, **_PRICES}))
            _ok(client.post("/api/v1/deployments", json=body))


def _replicas(feed: FeedState, model: str) -> list[ReplicaEndpoint]:
    routes = [msgspec.convert(body, RouteDocument) for body in feed.documents.get("route", {}).values()]
    return [replica for route in routes if route.model_name == model for replica in route.replicas]


def _one_of(choices: list[Any], chance: float) -> Any:
    return choices[int(chance * len(choices))]


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _ok(response: httpx2.Response) -> httpx2.Response:
    if response.is_error:
        raise httpx2.HTTPError(f"{response.status_code}: {response.text}")
    return response
