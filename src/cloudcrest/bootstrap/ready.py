"""Ready means that a chat request was answered through the gateway. Until then, what is going on is shown."""

import asyncio
import ssl
from collections.abc import Sequence

import httpx2
import msgspec

from cloudcrest.bootstrap.services import Plan
from cloudcrest.bootstrap.ui import Ui
from cloudcrest.kernel.units import format_bytes

_LOOK_EVERY_SECONDS = 0.2
_PROBE_EVERY_SECONDS = 0.1
_CALL_SECONDS = 60.0
_OTHERS_SECONDS = 20.0
_FAILED = ("failed", "degraded", "stopped")


class _Pull(msgspec.Struct):
    phase: str
    done_bytes: int = 0
    total_bytes: int | None = None


class _Replica(msgspec.Struct):
    pull: _Pull | None = None


class _Replicas(msgspec.Struct):
    min: int


class Deployment(msgspec.Struct):
    """What matters here of a deployment of the management API."""

    name: str
    task: str
    engine: str
    state: str
    replicas: _Replicas
    reason: str | None = None
    organization_id: str | None = None
    replica_states: list[_Replica] = []

    @property
    def is_ours(self) -> bool:
        """Whether it is to run here: asking a provider costs money, and others' are not ours to ask."""
        return self.replicas.min > 0 and self.engine != "upstream" and self.organization_id is None


class _Page(msgspec.Struct):
    data: list[Deployment]
    next_cursor: str | None = None


async def become_ready(plan: Plan, ui: Ui) -> str | None:
    """Returns when a chat was answered: the model that did. None: nothing that could answer is deployed.

    Waits as long as it takes; whatever stands in the way is on the screen with its reason.
    """
    verify = _trust(plan)
    management = {"authorization": f"Bearer {plan.secrets.operator_api_key}"}
    inference = {"authorization": f"Bearer {plan.secrets.probe_api_key}"}
    async with (
        httpx2.AsyncClient(base_url=plan.sockets.control_url, headers=management, trust_env=False) as control,
        httpx2.AsyncClient(base_url=plan.base_url, headers=inference, verify=verify, trust_env=False) as gateway,
    ):
        while True:
            deployments = await _deployments(control)
            if deployments is not None:
                ours = [deployment for deployment in deployments if deployment.is_ours]
                chats = [deployment for deployment in ours if deployment.task == "chat"]
                if not chats:
                    await _until_gateway_answers(gateway)
                    return None
                ui.step(describe(ours))
                for chat in chats:
                    if chat.state != "ready":
                        continue
                    refusal = await _ask(gateway, chat.name)
                    if refusal is None:
                        await _wait_for_others(control, ui)
                        await _until_content_answers(gateway, ui)
                        return chat.name
                    ui.step(f"{chat.name} does not answer yet: {refusal}")
            await asyncio.sleep(_LOOK_EVERY_SECONDS)


def describe(deployments: Sequence[Deployment]) -> str:
    """One line about everything that is not ready yet."""
    waiting = [deployment for deployment in deployments if deployment.state != "ready"]
    return "; ".join(_describe(deployment) for deployment in waiting) or "Asking a first question"


def _describe(deployment: Deployment) -> str:
    pulls = [replica.pull for replica in deployment.replica_states if replica.pull is not None]
    for pull in pulls:
        if pull.phase == "downloading" and pull.total_bytes:
            total = format_bytes(pull.total_bytes)
            return f"{deployment.name}: downloading, {format_bytes(pull.done_bytes)} of {total}"
        if pull.phase in ("downloading", "verifying", "converting"):
            return f"{deployment.name}: {pull.phase}"
    return f"{deployment.name}: {deployment.reason or deployment.state}"


async def _deployments(control: httpx2.AsyncClient) -> list[Deployment] | None:
    """The deployments; None while the control plane does not answer."""
    try:
        answer = await control.get("/api/v1/deployments", params={"limit": 200}, timeout=_CALL_SECONDS)
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=_Page).data[::-1]
    except (httpx2.HTTPError, ValueError):
        return None


async def _ask(gateway: httpx2.AsyncClient, model: str) -> str | None:
    """Asks for one token: None when it came, else what came instead."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        answer = await gateway.post("/v1/chat/completions", json=body, timeout=_CALL_SECONDS)
    except httpx2.HTTPError as error:
        return f"the gateway is not reached ({type(error).__name__})"
    if answer.status_code == 200:
        return None
    return answer.text[:300]


async def _until_gateway_answers(gateway: httpx2.AsyncClient) -> None:
    while True:
        try:
            answer = await gateway.get("/v1/models", timeout=_CALL_SECONDS)
            if answer.status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(_PROBE_EVERY_SECONDS)


async def _wait_for_others(control: httpx2.AsyncClient, ui: Ui) -> None:
    """Gives the rest a moment, unless it has failed: chat works, and that is what counts."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _OTHERS_SECONDS
    while loop.time() < deadline:
        deployments = [item for item in await _deployments(control) or [] if item.is_ours]
        if all(item.state == "ready" or item.state in _FAILED for item in deployments):
            return
        ui.step(describe(deployments))
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def _until_content_answers(gateway: httpx2.AsyncClient, ui: Ui) -> None:
    """Gives files and batches a moment: they begin with the control plane, which is there."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _OTHERS_SECONDS
    while loop.time() < deadline:
        try:
            answer = await gateway.get("/v1/files", params={"limit": 1}, timeout=_CALL_SECONDS)
        except httpx2.HTTPError:
            return
        if answer.status_code != 503:
            return
        ui.step("Starting the content service")
        await asyncio.sleep(_PROBE_EVERY_SECONDS)


def _trust(plan: Plan) -> ssl.SSLContext | bool:
    """TLS to our own socket trusts our own certificate, whatever name it is for."""
    certificate = plan.settings.tls_cert
    if certificate is None:
        return True
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
