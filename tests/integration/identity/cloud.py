"""Identity as bootstrap puts it together, on a real database, with clients that speak to it in memory."""

from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
from fastapi import APIRouter, FastAPI
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from cloudcrest.identity import routes
from cloudcrest.identity.authentication import authentication
from cloudcrest.identity.fakes import FakeMailer, FakeOrganizationCreated
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.provider import configured_provider
from cloudcrest.identity.seed import seed
from cloudcrest.identity.service.accounts import AccountService
from cloudcrest.identity.service.keys import KeyService
from cloudcrest.identity.service.members import MemberService
from cloudcrest.identity.service.oidc import OidcService
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.service.verification import VerificationService
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tasks import blueprint
from cloudcrest.identity.tokens import new_secret, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.http.app import CSRF_HEADER, create_app
from cloudcrest.infra.jobs import Jobs
from cloudcrest.infra.publication import read_page
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.ids import NewId, id_maker

PASSWORD = "three unrelated words"
FIRST_KEY = "sk-cc-first" + "x" * 38
OPERATOR_KEY = "sk-cc-operator" + "x" * 35
PROBE_KEY = "sk-cc-probe" + "x" * 38


@dataclass
class Cloud:
    """The parts, for tests to look into."""

    app: FastAPI
    database: Database
    clock: ManualClock
    jobs: Jobs
    new_id: NewId
    passwords: Passwords
    organizations: OrganizationService
    keys: KeyService
    mailer: FakeMailer = field(default_factory=FakeMailer)
    created: FakeOrganizationCreated = field(default_factory=FakeOrganizationCreated)
    _clients: list[httpx2.AsyncClient] = field(default_factory=list)

    def client(self, key: str | None = None) -> httpx2.AsyncClient:
        """A client with its own cookies, or with an API key."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx2.ASGITransport(app=self.app)
        client = httpx2.AsyncClient(transport=transport, base_url="http://cloud.test/api/v1", headers=headers)
        self._clients.append(client)
        return client

    async def documents(self, kind: str) -> dict[str, dict[str, Any]]:
        """What gateways are told now, by id."""
        async with self.database.transaction() as session:
            page = await read_page(session, "", region="local")
        return {item.id: item.body for item in page.documents if item.kind == kind and item.body is not None}

    async def seed(self) -> None:
        """What a new cloud starts with."""
        async with self.database.transaction() as session:
            await seed(
                session,
                first_key=FIRST_KEY,
                operator_key=OPERATOR_KEY,
                probe_key=PROBE_KEY,
                operator_email="operator@example.com",
                operator_password=PASSWORD,
                organization_service=self.organizations,
                key_service=self.keys,
                passwords=self.passwords,
                clock=self.clock,
                new_id=self.new_id,
            )

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


@dataclass
class Tenant:
    """A person with an organization of their own, signed in."""

    client: httpx2.AsyncClient
    email: str
    user_id: str
    organization_id: str
    project_id: str


def build(database: Database, clock: ManualClock, **changes: Any) -> Cloud:
    """The control plane's app with identity's routes alone; `changes` to its settings."""
    settings = msgspec.structs.replace(IdentitySettings(), **changes)
    new_id = id_maker(clock)
    jobs = Jobs(database)
    sealer = Sealer(Sealer.new_master_key())
    mailer, created = FakeMailer(), FakeOrganizationCreated()
    passwords = Passwords(PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),)))
    organizations = OrganizationService(clock=clock, new_id=new_id, settings=settings, organization_created=created)
    seeded = frozenset(map(sha256_hex, (FIRST_KEY, OPERATOR_KEY, PROBE_KEY)))
    keys = KeyService(clock=clock, new_id=new_id, settings=settings, new_secret=new_secret, seeded=seeded)
    members = MemberService(
        clock=clock,
        new_id=new_id,
        settings=settings,
        new_secret=new_secret,
        passwords=passwords,
        jobs=jobs,
        sealer=sealer,
    )
    accounts = AccountService(
        database=database,
        clock=clock,
        new_id=new_id,
        settings=settings,
        new_secret=new_secret,
        passwords=passwords,
        organizations=organizations,
        jobs=jobs,
    )
    verification = VerificationService(
        database=database, clock=clock, settings=settings, new_secret=new_secret, jobs=jobs
    )
    tasks = blueprint(
        accounts=accounts, verification=verification, keys=keys, mailer=mailer, sealer=sealer, database=database
    )
    jobs.register("identity", tasks)
    oidc = OidcService(
        provider=configured_provider(settings, clock),
        accounts=accounts,
        organizations=organizations,
        database=database,
        sealer=sealer,
        jobs=jobs,
        settings=settings,
        clock=clock,
        new_id=new_id,
        new_secret=new_secret,
    )
    router = routes.router(
        account_service=accounts,
        verification_service=verification,
        oidc_service=oidc,
        organization_service=organizations,
        member_service=members,
        key_service=keys,
        secure_cookies=settings.secure_cookies,
    )
    return Cloud(
        app=make_app(database, sealer, router, clock, new_id),
        database=database,
        clock=clock,
        jobs=jobs,
        new_id=new_id,
        passwords=passwords,
        organizations=organizations,
        keys=keys,
        mailer=mailer,
        created=created,
    )


def make_app(database: Database, sealer: Sealer, router: APIRouter, clock: ManualClock, new_id: NewId) -> FastAPI:
    """The application, as the control plane makes it."""
    return create_app(
        "Cloudcrest",
        database,
        sealer=sealer,
        version="0",
        routers=[router],
        authentication=[authentication(database=database, clock=clock)],
        clock=clock,
        make_id=new_id,
    )


async def register(cloud: Cloud, name: str) -> Tenant:
    """A new tenant, signed in, whose client sends the CSRF header."""
    client = cloud.client()
    email = f"{name}@example.com"
    answer = await client.post("/auth/register", json={"email": email, "password": PASSWORD, "name": name})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    client.headers[CSRF_HEADER] = body["csrf_token"]
    projects = (await client.get("/projects")).json()["data"]
    return Tenant(
        client=client,
        email=email,
        user_id=body["user"]["id"],
        organization_id=body["organization_id"],
        project_id=projects[0]["id"],
    )


async def join(cloud: Cloud, host: Tenant, name: str, role: str, project_id: str | None = None) -> Tenant:
    """Another tenant who also joins the host's organization with a role."""
    guest = await register(cloud, name)
    body = {"role": role, "project_id": project_id}
    invited = await host.client.post(f"/organizations/{host.organization_id}/invitations", json=body)
    assert invited.status_code == 201, invited.text
    token = invited.json()["link"].partition("token=")[2]
    accepted = await guest.client.post("/invitations/accept", json={"token": token})
    assert accepted.status_code == 201, accepted.text
    return guest


async def make_key(tenant: Tenant, **fields: Any) -> dict[str, Any]:
    """A new key of the tenant's project, with its secret in `key`."""
    body = {"project_id": tenant.project_id, "name": "a key"} | fields
    answer = await tenant.client.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def mailed_token(cloud: Cloud, mark: str) -> str:
    """The token of the newest mailed link with `mark` before it, once every waiting mail is sent."""
    await cloud.jobs.run_waiting()
    links = [line for mail in cloud.mailer.sent for line in mail.body.splitlines() if mark in line]
    return links[-1].partition(mark)[2]


async def member_id_of(host: Tenant, guest: Tenant) -> str:
    """The id of the guest's membership in the host's organization."""
    answer = await host.client.get(f"/organizations/{host.organization_id}/members")
    found: list[str] = [item["id"] for item in answer.json()["data"] if item["user_id"] == guest.user_id]
    return found[0]
