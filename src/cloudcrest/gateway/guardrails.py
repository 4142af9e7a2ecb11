"""Guardrails at the door: whose they are, and a request that is looked through before anything else happens to it.

A long request is looked through a few milliseconds at a time, with others' in between. A key whose project and
organization have none pays for one look at `Policies.is_any`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from cloudcrest.gateway.deadline import refuse
from cloudcrest.gateway.fields import TEXT_BODIES
from cloudcrest.gateway.guard_outlet import GuardOutlet
from cloudcrest.gateway.metrics import Metrics
from cloudcrest.gateway.outlet import Outlet
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.sound.fields import TranscriptionBody
from cloudcrest.gateway.sound.guard import TranscriptGuard
from cloudcrest.gateway.sound.request import with_fields
from cloudcrest.gateway.validate import build, parse
from cloudcrest.governance.api import Actions, Detector, Findings, Guard, Screen, Steps, actions, detectors_for
from cloudcrest.identity.api import Guardrails, GuardrailStage, KeyDocument
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput

MAX_POLICIES = 10_000
GUARDRAILS_HEADER = b"x-cloudcrest-guardrails"
AT_ONCE_CHARACTERS = 32 * 1024
"""Bodies up to so many bytes are looked through without letting others in between."""
_NONE = Guardrails()
_log = structlog.get_logger(__name__)


class Stage(msgspec.Struct, frozen=True):
    """What is looked for at one stage, and what is done about it."""

    actions: Actions
    detectors: tuple[Detector, ...]


class Policy(msgspec.Struct, frozen=True):
    """What holds for a project's requests and answers; None: nothing is looked at there."""

    input: Stage | None
    output: Stage | None


class Policies:
    """By project, from the feed. `is_any`: somebody has some. `extra`: detectors beside our own."""

    def __init__(self) -> None:
        self.is_any = False
        self.extra: tuple[Detector, ...] = ()
        self._least: dict[str, Guardrails] = {}
        self._own: dict[str, Guardrails] = {}
        self._made: dict[tuple[str, str], Policy | None] = {}

    def set_organization(self, organization_id: str, guardrails: Guardrails) -> None:
        self._set(self._least, organization_id, guardrails)

    def set_project(self, project_id: str, guardrails: Guardrails) -> None:
        self._set(self._own, project_id, guardrails)

    def of(self, key: KeyDocument) -> Policy | None:
        """What holds for this key's requests."""
        ids = key.organization_id, key.project_id
        try:
            return self._made[ids]
        except KeyError:
            if len(self._made) >= MAX_POLICIES:
                self._made.clear()
            least, own = self._least.get(ids[0], _NONE), self._own.get(ids[1], _NONE)
            policy = Policy(self._stage(least, own, "input"), self._stage(least, own, "output"))
            self._made[ids] = policy if policy.input or policy.output else None
            return self._made[ids]

    def _stage(self, least: Guardrails, own: Guardrails, stage: GuardrailStage) -> Stage | None:
        found = actions(least, own, stage)
        return Stage(found, detectors_for(found) + self.extra) if found else None

    def _set(self, table: dict[str, Guardrails], owner_id: str, guardrails: Guardrails) -> None:
        if table.get(owner_id, _NONE) == guardrails:
            return
        table.pop(owner_id, None)
        if guardrails != _NONE:
            table[owner_id] = guardrails
        self._made.clear()
        self.is_any = bool(self._least or self._own)


class Screening:
    """One request before its way through the stages. `go_on` takes it from there."""

    def __init__(
        self,
        policy: Policy,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        metrics: Metrics,
        go_on: Callable[[Parsed], Responder],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._policy = policy
        self._connection = connection
        self._request = request
        self._key = key
        self._parsed = parsed
        self._metrics = metrics
        self._go_on = go_on
        self._soon = soon
        self._inner: Responder | None = None
        self._is_paused = False
        self._is_over = False
        stage = policy.input
        self._screen = Screen(stage.actions, stage.detectors) if stage is not None else Screen({}, ())
        self._steps: Steps | None = None

    def start(self) -> Responder:
        """Looks through a short request at once, else begins to. Raises what it is refused for."""
        parsed = self._parsed
        self._check_logprobs()
        if self._policy.input is None:
            return self._pass(parsed)
        self._steps = self._screen.steps({name: msgspec.json.decode(raw) for name, raw in parsed.fields.items()})
        if parsed.size_bytes <= AT_ONCE_CHARACTERS:
            changed = self._step()
            while changed is None:
                changed = self._step()
            return self._pass(self._with(changed))
        self._soon(self._go)
        return self

    def client_gone(self) -> None:
        self._is_over = True
        if self._inner is not None:
            self._inner.client_gone()

    def client_paused(self) -> None:
        self._is_paused = True
        if self._inner is not None:
            self._inner.client_paused()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._inner is not None:
            self._inner.client_resumed()

    def deadline_passed(self) -> None:
        if self._inner is not None:
            self._inner.deadline_passed()
        else:
            self._is_over = True
            refuse(self._connection, self._request)

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    # inside

    def _go(self) -> None:
        """One step, then others' turn."""
        if self._is_over:
            return
        try:
            changed = self._step()
            if changed is None:
                self._soon(self._go)
                return
            self._inner = self._pass(self._with(changed))
        except CloudcrestError as error:
            self._metrics.responses[error.status] += 1
            self._connection.respond_error(error)
            return
        if self._is_paused:
            self._inner.client_paused()

    def _step(self) -> Mapping[str, Any] | None:
        """Looks at some more; the changed fields when all is looked at."""
        if self._steps is None:
            return {}
        try:
            next(self._steps)
        except StopIteration as end:
            found: Mapping[str, Any] = end.value
            return found
        except CloudcrestError:
            self._told()
            raise
        return None

    def _with(self, changed: Mapping[str, Any]) -> Parsed:
        """The request with what was redacted, checked and measured anew."""
        parsed = self._parsed
        if not changed:
            return parsed
        fields = parsed.fields | {name: msgspec.json.encode(value) for name, value in changed.items()}
        if parsed.sound is not None:
            return with_fields(parsed, fields)
        new = parse(parsed.endpoint, build(fields))
        redacted = parsed.rewritten(new.body, new.fields)
        redacted.size_bytes, redacted.prompts = new.size_bytes, new.prompts
        return redacted

    def _pass(self, parsed: Parsed) -> Responder:
        self._told()
        if self._policy.output is not None and isinstance(parsed.body, TEXT_BODIES):
            parsed.guard_outlet = self._outlet
        elif self._policy.output is not None and isinstance(parsed.body, TranscriptionBody):
            parsed.guard_outlet = self._transcript_outlet
        return self._go_on(parsed)

    def _told(self) -> None:
        """Says what was found in the request: in the answer's head, the metrics and the log."""
        note(self._metrics, self._request, self._key, "input", self._screen.findings)

    def _outlet(self, _: str) -> Outlet:
        stage = self._policy.output
        findings = Findings()

        def told() -> None:
            note(self._metrics, self._request, self._key, "output", findings)

        return GuardOutlet(
            stage.actions if stage is not None else {},
            stage.detectors if stage is not None else (),
            self._screen.placeholders.copy(),
            findings,
            told,
            wants_usage=self._parsed.wants_usage,
            choices=self._parsed.choices * (len(self._parsed.prompts) or 1),
            is_json=b'"json_' in self._parsed.fields.get("response_format", b""),
        )

    def _transcript_outlet(self, _: str) -> Outlet:
        stage = self._policy.output or Stage({}, ())
        findings, placeholders = Findings(), self._screen.placeholders.copy()
        return TranscriptGuard(
            lambda: Guard(stage.actions, stage.detectors, placeholders, findings),
            lambda: note(self._metrics, self._request, self._key, "output", findings),
            getattr(self._parsed.body, "response_format", None) or "json",
        )

    def _check_logprobs(self) -> None:
        """Raises `InvalidInput` where logprobs would spell out what is redacted."""
        output = self._policy.output
        if output is not None and getattr(self._parsed.body, "logprobs", None) not in (None, False):
            raise InvalidInput(
                "this project's guardrails look at what is answered, and logprobs would spell it out all the same",
                param="logprobs",
                code="unsupported_parameter",
                hint="leave logprobs out",
            )


def note(metrics: Metrics, request: Request, key: KeyDocument, stage: GuardrailStage, findings: Findings) -> None:
    """Counts what was found, names it in the head of an answer that has not begun, and logs whose it was."""
    counts, findings.counts = findings.counts, Counter()
    if not counts:
        return
    for (kind, action), count in counts.items():
        metrics.guardrails[stage, kind, action] += count
    said = {f"{kind}={action}": count for (kind, action), count in sorted(counts.items())}
    request.extra_head += b"%b: %b %b\r\n" % (
        GUARDRAILS_HEADER,
        stage.encode(),
        " ".join(f"{name}:{count}" for name, count in said.items()).encode(),
    )
    ids = {"id": request.id, "organization": key.organization_id, "project": key.project_id, "key": key.id}
    _log.info("guardrail", stage=stage, found=said, **ids)
