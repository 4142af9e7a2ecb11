"""Gateway workers as `up` runs them: supervised processes of their own on one address, with what they share."""

import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from cloudcrest.bootstrap import ports, services
from cloudcrest.bootstrap.data_folder import DataFolder
from cloudcrest.bootstrap.settings import UpSettings
from cloudcrest.bootstrap.supervise import Supervisor
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.feed_client import save_state
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.clock import SystemClock
from tests.support.gateway_cloud import KEY
from tests.support.waiting import until_async

_SAMPLE = re.compile(r'(\w+)\{worker="(\d+)"[^}]*\} (\S+)')


class Workers:
    """Running workers. `client` opens a connection for each request, so that they spread."""

    def __init__(self, supervisor: Supervisor, client: httpx2.AsyncClient, url: str, spool: Path) -> None:
        self.supervisor = supervisor
        self.client = client
        self.url = url
        self.spool = spool

    def pid(self, worker: int) -> int:
        """0 while it does not run."""
        return self.supervisor.pids().get(services.gateway_name(worker), 0)

    async def metric(self, name: str) -> dict[int, float]:
        """A metric's sum for each worker, by its number, as one scrape tells it."""
        text = (await self.client.get("/metrics")).text
        found: dict[int, float] = {}
        for metric, worker, value in _SAMPLE.findall(text):
            if metric == name:
                found[int(worker)] = found.get(int(worker), 0.0) + float(value)
        return found


@asynccontextmanager
async def running_workers(folder: Path, state: FeedState, count: int) -> AsyncIterator[Workers]:
    """So many workers that serve `state`. No region service and no control plane is there."""
    data = DataFolder.open(folder / "data", min_free_bytes=0)
    region = data.root / "regions" / services.REGION
    save_state(region / "gateway" / "feed.json", state)
    with _sockets(count) as sockets:
        url = ports.url_of(sockets.public[0], host="127.0.0.1", has_tls=False)
        plan = services.Plan(UpSettings(data=data.root, log_level="warning"), data, data.secrets(), sockets, url, {})
        lifeline = Lifeline()
        host = ProcessHost(
            log_folder=data.logs,
            working_folder=data.run,
            lifeline=lifeline,
            environment=services.service_environment(os.environ),
        )
        supervisor = Supervisor(host, SystemClock(), lambda: None)
        limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=0)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False
        ) as client:
            workers = Workers(supervisor, client, url, region / "spool")
            for service in services.gateway_services(plan):
                supervisor.start(service)

            async def all_report() -> bool:
                return len(await workers.metric("cloudcrest_gateway_connections")) == count

            try:
                await until_async(all_report, "every worker's start")
                yield workers
            finally:
                for number in range(count):
                    await supervisor.stop(services.gateway_name(number))
                await host.close()
                lifeline.close()
                data.close()


@contextlib.contextmanager
def _sockets(count: int) -> Iterator[services.Sockets]:
    with contextlib.ExitStack() as stack:
        public = ports.share(ports.listen_publicly("127.0.0.1", 0), count)
        for each in public:
            stack.enter_context(each)
        # Nobody answers at these.
        others = [stack.enter_context(ports.listen_on_loopback()) for _ in range(3)]
        yield services.Sockets(public, *others)
