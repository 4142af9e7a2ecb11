"""What a gateway knows: lookup tables over the documents of its feed. Rebuilt cheaply: only what changed is converted.

A document that cannot be read (a newer control plane's, say) is skipped and logged; it never takes the others with it.
"""

from collections.abc import Callable, Iterator
from time import time as unix_time
from typing import Any, TypeVar

import msgspec
import structlog

from cloudcrest.gateway.admit import Scope, ScopeKind
from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.deadline import least_timeout
from cloudcrest.gateway.errors import model_not_allowed
from cloudcrest.gateway.guardrails import Policies
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.route import Balancer
from cloudcrest.gateway.routing.shares import Shares
from cloudcrest.identity.api import (
    KEY_KIND,
    ORGANIZATION_KIND,
    PROJECT_KIND,
    Guardrails,
    KeyDocument,
    Limits,
    OrganizationDocument,
    ProjectDocument,
)
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.errors import NotFound
from cloudcrest.kernel.registry import close_matches
from cloudcrest.serving.api import ROUTE_KIND, RouteDocument

MAX_ACCESSES = 10_000
_NO_LIMITS = Limits()
_log = structlog.get_logger(__name__)
DocumentType = TypeVar("DocumentType", KeyDocument, ProjectDocument, OrganizationDocument, RouteDocument)


class Route:
    """One deployment of a public model name with its replicas, and what is known of them. `now`: monotonic seconds.

    `replicas` get requests, those `leaving` finish theirs. `split`: the deployments that share the name's requests,
    where there are several and this stands for the name.
    """

    def __init__(self, document: RouteDocument, now: float = 0.0) -> None:
        self.document = document
        self.balancer = Balancer(now)
        self.replicas: list[Upstream] = []
        self.leaving: list[Upstream] = []
        self.scope: Scope | None = None
        self.split: Split | None = None


class Split:
    """The deployments of one name that get requests, each with a positive weight."""

    def __init__(self, routes: list[Route], shares: Shares) -> None:
        self.routes = routes
        self.shares = shares

    def in_turn(self, conversation: bytes) -> Iterator[Route]:
        """Whose turn it is, then the others that are ready. All, where none is: to say why."""
        ready = {route.document.deployment_id: route for route in self.routes if route.replicas}
        chosen = self.shares.turn(ready, conversation)
        if chosen is None:
            yield from self.routes
            return
        yield ready.pop(chosen)
        yield from ready.values()


class Access:
    """What one key may ask one model for: its route, the limits on the way, and the least time among them.

    `is_sole`: there is no other deployment, and no other model, that might answer.
    """

    __slots__ = ("is_sole", "route", "scopes", "timeout_seconds")

    def __init__(self, route: Route, scopes: list[Scope], *, is_sole: bool = False) -> None:
        self.route = route
        self.is_sole = is_sole
        self.scopes = scopes
        self.timeout_seconds = least_timeout(scopes)


class Snapshot:
    """The tables. `update` follows the feed; everything else only reads. `monotonic`: seconds.

    `routes`: what stands for each public model name; `deployments`: every route there is, by its document's id.

    Of a replica's slots this worker counts on its share: the other `workers` use it as well.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        workers: int = 1,
        unix_time: Callable[[], float] = unix_time,
        rounds: Rounds | None = None,
    ) -> None:
        self._rounds = rounds
        self._monotonic = monotonic
        self._unix_time = unix_time
        self._workers = workers
        self.keys: dict[bytes, KeyDocument] = {}
        self.organizations: dict[str, OrganizationDocument] = {}
        self.routes: dict[str, Route] = {}
        self.deployments: dict[str, Route] = {}
        self.is_loaded = False
        self.policies = Policies()
        self._bodies: dict[str, dict[str, Any]] = {}
        self._scopes: dict[tuple[ScopeKind, str], Scope] = {}
        self._key_digests: dict[str, bytes] = {}
        self._fallbacks: dict[str, dict[str, tuple[str, ...]]] = {}
        self.lenient_projects: set[str] = set()
        self._accesses: dict[str, dict[str, Access]] = {}
        """By key and model."""
        self._accesses_held = 0
        self.usual_keys: dict[bytes, KeyDocument] = {}
        """Those that are known to be for inference, for as long as the feed brings nothing new."""

    def update(self, state: FeedState, kinds: set[str]) -> None:
        """Takes over the documents of these kinds."""
        self._forget_accesses()
        self.usual_keys.clear()
        self.is_loaded = self.is_loaded or bool(state.cursor)
        if ORGANIZATION_KIND in kinds:
            self._follow(
                state, ORGANIZATION_KIND, OrganizationDocument, self._set_organization, self._drop_organization
            )
        if PROJECT_KIND in kinds:
            self._follow(state, PROJECT_KIND, ProjectDocument, self._set_project, self._drop_project)
        if KEY_KIND in kinds:
            self._follow(state, KEY_KIND, KeyDocument, self._set_key, self._drop_key)
        if ROUTE_KIND in kinds:
            self._follow(state, ROUTE_KIND, RouteDocument, self._set_route, self._drop_route)

    def access(self, key: KeyDocument, model: str) -> Access:
        """Looked up with the first request, and kept until the feed brings anything new.

        Raises `NotFound` naming what comes close, and `PermissionDenied` where the key is for other models.
        """
        of_key = self._accesses.get(key.id)
        found = of_key.get(model) if of_key is not None else None
        if found is not None:
            return found
        route = self.route_for(key, model)
        if key.models is not None and model not in key.models:
            raise model_not_allowed(model)
        if self._accesses_held >= MAX_ACCESSES:
            self._forget_accesses()
        is_sole = route.split is None and not self.has_fallbacks(key, model)
        found = Access(route, self.scopes_of(key, route), is_sole=is_sole)
        self._accesses.setdefault(key.id, {})[model] = found
        self._accesses_held += 1
        return found

    def _forget_accesses(self) -> None:
        self._accesses.clear()
        self._accesses_held = 0

    def scopes_of(self, key: KeyDocument, route: Route | None) -> list[Scope]:
        """The limits a request of this key for this model is held to, narrowest first. None: for no model."""
        get = self._scopes.get
        found = (
            # A key's buckets are made with its first request: most of a large cloud's keys are idle at one worker.
            get(("key", key.id)) or self._limit("key", key.id, key.limits),
            get(("project", key.project_id)),
            get(("organization", key.organization_id)),
            None if route is None else route.scope,
        )
        return [scope for scope in found if scope is not None]

    def route_for(self, key: KeyDocument, model: str) -> Route:
        """The route of a model this key may see. Raises `NotFound` naming what comes close."""
        route = self.routes.get(model)
        if route is not None and route.document.organization_id in (None, key.organization_id):
            return route
        known = close_matches(model[:256], self.visible_models(key))
        hint = f"did you mean {' or '.join(known)}?" if known else "GET /v1/models lists what there is"
        raise NotFound(f"there is no model '{model[:100]}'", code="model_not_found", param="model", hint=hint)

    def digest_of(self, key_id: str) -> bytes | None:
        """The SHA-256 of a key, by its id."""
        return self._key_digests.get(key_id)

    def has_fallbacks(self, key: KeyDocument, model: str) -> bool:
        """Whether the key's project names others for when this model cannot answer."""
        fallbacks = self._fallbacks.get(key.project_id)
        return fallbacks is not None and model in fallbacks

    def candidates(self, key: KeyDocument, model: str, conversation: bytes) -> Iterator[Route]:
        """Who may answer, in order: the model's deployments, then those of its project's fallbacks.

        Only what this key may use.
        """
        for name in (model, *self._fallbacks.get(key.project_id, {}).get(model, ())):
            route = self.routes.get(name)
            if route is None or not _may_use(key, route):
                continue
            if route.split is None:
                yield route
            else:
                yield from route.split.in_turn(conversation)

    def visible_models(self, key: KeyDocument) -> list[str]:
        """The names a key may use, sorted."""
        return sorted(name for name, route in self.routes.items() if _may_use(key, route))

    def _follow(
        self,
        state: FeedState,
        kind: str,
        document_type: type[DocumentType],
        put: Callable[[str, DocumentType], None],
        drop: Callable[[str], None],
    ) -> None:
        """Calls `put` for what is new or changed and `drop` for what is gone."""
        bodies = state.documents.get(kind, {})
        before = self._bodies.get(kind, {})
        for document_id in before.keys() - bodies.keys():
            drop(document_id)
        for document_id, body in bodies.items():
            # A follower replaces a body when it changes, so the same object is the same content.
            if before.get(document_id) is body:
                continue
            try:
                put(document_id, msgspec.convert(body, document_type))
            except (msgspec.ValidationError, ValueError) as error:
                drop(document_id)
                _log.warning("document_skipped", kind=kind, id=document_id, error=str(error))
        self._bodies[kind] = dict(bodies)

    def _set_organization(self, _: str, document: OrganizationDocument) -> None:
        self.organizations[document.id] = document
        self._limit("organization", document.id, document.limits)
        self.policies.set_organization(document.id, document.guardrails)

    def _drop_organization(self, organization_id: str) -> None:
        self.organizations.pop(organization_id, None)
        self._scopes.pop(("organization", organization_id), None)
        self.policies.set_organization(organization_id, Guardrails())

    def _set_project(self, _: str, document: ProjectDocument) -> None:
        self._limit("project", document.id, document.limits)
        self.policies.set_project(document.id, document.guardrails)
        self._fallbacks.pop(document.id, None)
        if document.fallbacks:
            self._fallbacks[document.id] = document.fallbacks
        self.lenient_projects.discard(document.id)
        if not document.strict:
            self.lenient_projects.add(document.id)

    def _drop_project(self, project_id: str) -> None:
        self._fallbacks.pop(project_id, None)
        self.lenient_projects.discard(project_id)
        self._scopes.pop(("project", project_id), None)
        self.policies.set_project(project_id, Guardrails())

    def _set_key(self, _: str, document: KeyDocument) -> None:
        digest = bytes.fromhex(document.key_sha256)
        previous = self._key_digests.get(document.id)
        if previous is not None and previous != digest:
            self.keys.pop(previous, None)
        self._key_digests[document.id] = digest
        self.keys[digest] = document
        if ("key", document.id) in self._scopes:
            self._limit("key", document.id, document.limits)

    def _drop_key(self, key_id: str) -> None:
        digest = self._key_digests.pop(key_id, None)
        if digest is not None:
            self.keys.pop(digest, None)
        self._scopes.pop(("key", key_id), None)

    def _set_route(self, document_id: str, document: RouteDocument) -> None:
        route = self.deployments.get(document_id)
        if route is None:
            route = self.deployments[document_id] = Route(document, self._monotonic())
        route.document = document
        before = {(replica.name, replica.url): replica for replica in [*route.replicas, *route.leaving]}
        replicas: list[Upstream] = []
        leaving: list[Upstream] = []
        ahead_seconds = self._monotonic() - self._unix_time()
        for endpoint in document.replicas:
            replica = before.pop((endpoint.id, endpoint.url), None)
            if replica is None:
                slots = max(1, endpoint.slots // self._workers)
                replica = Upstream(
                    endpoint.url, token=endpoint.token, slots=slots, name=endpoint.id, rounds=self._rounds
                )
            if endpoint.leave_by_unix_seconds is not None:
                replica.retire(endpoint.leave_by_unix_seconds + ahead_seconds)
                leaving.append(replica)
                continue
            if replica.is_retired:
                replica.restore()
            replicas.append(replica)
        for gone in before.values():
            gone.retire(gone.leave_at)
        route.replicas = replicas
        route.leaving = leaving
        route.balancer.set_replicas(replicas, self._monotonic())
        route.scope = self._limit("model", document.model_name, document.limits)
        self._regroup(document.model_name)

    def _drop_route(self, document_id: str) -> None:
        route = self.deployments.pop(document_id, None)
        if route is None:
            return
        for replica in [*route.replicas, *route.leaving]:
            replica.retire(replica.leave_at)
        self._regroup(route.document.model_name)

    def _regroup(self, name: str) -> None:
        """Finds what stands for a name: its deployment, or of several with a weight the first, with their split."""
        found = [route for route in self.deployments.values() if route.document.model_name == name]
        found.sort(key=lambda route: (route.document.created_at_unix_seconds, route.document.deployment_id))
        serving = [route for route in found if route.document.weight > 0]
        before = self.routes.pop(name, None)
        split = before.split if before is not None else None
        for route in found:
            route.split = None
        if not found:
            self._scopes.pop(("model", name), None)
        elif not serving:  # warm, but to get nothing
            reason = "none of its deployments has a weight"
            document = msgspec.structs.replace(found[0].document, replicas=(), unavailable_reason=reason)
            self.routes[name] = Route(document)
        else:
            route = self.routes[name] = serving[0]
            if len(serving) > 1:
                weights = {each.document.deployment_id: each.document.weight for each in serving}
                has_changed = split is None or split.shares.weights != weights
                route.split = Split(serving, Shares(weights) if split is None or has_changed else split.shares)

    def _limit(self, kind: ScopeKind, scope_id: str, limits: Limits) -> Scope | None:
        """Makes, changes or removes a scope; what is used of it stays counted."""
        scope = self._scopes.get((kind, scope_id))
        if limits == _NO_LIMITS:
            self._scopes.pop((kind, scope_id), None)
            return None
        if scope is None:
            scope = self._scopes[kind, scope_id] = Scope(kind, scope_id, limits, self._monotonic())
        else:
            scope.set_limits(limits, self._monotonic())
        return scope


def _may_use(key: KeyDocument, route: Route) -> bool:
    """Whether this model is there for the key's organization, and for the key."""
    document = route.document
    return document.organization_id in (None, key.organization_id) and (
        key.models is None or document.model_name in key.models
    )
