"""The control plane's slices, put together: who is handed to whom."""

from dataclasses import dataclass

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

import cloudcrest.billing.routes
import cloudcrest.billing.seed
import cloudcrest.billing.tasks
import cloudcrest.catalog.routes
import cloudcrest.catalog.seed
import cloudcrest.compute.accelerator_types.routes
import cloudcrest.compute.jobs.routes
import cloudcrest.compute.jobs.tasks
import cloudcrest.compute.nodes.routes
import cloudcrest.compute.quotas.routes
import cloudcrest.identity.pages
import cloudcrest.identity.routes
import cloudcrest.identity.seed
import cloudcrest.identity.tasks
import cloudcrest.regions.routes
import cloudcrest.regions.seed
import cloudcrest.serving.routes
import cloudcrest.serving.seed
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.budgets import Budgets
from cloudcrest.billing.service.granting import Granting
from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.billing.service.rate_cards import RateCards
from cloudcrest.billing.service.usage import UsageReport
from cloudcrest.billing.service.verification import Verification
from cloudcrest.bootstrap.settings import ControlSettings
from cloudcrest.catalog.service import CatalogService
from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.jobs.secrets import ComputePolicies, ProjectSecrets
from cloudcrest.compute.jobs.service import JobService
from cloudcrest.compute.nodes.service import NodeService
from cloudcrest.compute.quotas.service import QuotaService
from cloudcrest.identity.api import OrganizationCreated
from cloudcrest.identity.mail import FolderMailer, Mailer, SmtpMailer
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.provider import configured_provider
from cloudcrest.identity.service.accounts import AccountService
from cloudcrest.identity.service.keys import KeyService
from cloudcrest.identity.service.members import MemberService
from cloudcrest.identity.service.oidc import OidcService
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.service.owners import OwnerLookup
from cloudcrest.identity.service.verification import VerificationService
from cloudcrest.identity.tokens import new_secret, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.jobs import Jobs
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.ids import NewId
from cloudcrest.metering.repository import UsageRepository
from cloudcrest.regions.service import RegionService, token_hash
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.service import DeploymentService


@dataclass(frozen=True)
class Base:
    """What every slice stands on."""

    settings: ControlSettings
    database: Database
    jobs: Jobs
    sealer: Sealer
    clock: Clock
    new_id: NewId


class Slices:
    """Every service of the control plane; `routers` and `seed` bring them to the application and the database."""

    def __init__(self, base: Base, notifier: FeedNotifier) -> None:
        self._base = base
        self._notifier = notifier
        self.regions = RegionService(clock=base.clock)
        self.billing = _Billing(base)
        self.identity = _Identity(base, self.billing.accounts)
        self.catalog = CatalogService(clock=base.clock, new_id=base.new_id, regions=self.regions)
        self.accelerators = AcceleratorTypes(base.clock)
        self.nodes = NodeService(types=self.accelerators, regions=self.regions, clock=base.clock, new_id=base.new_id)
        self.deployments = DeploymentService(
            models=self.catalog,
            pulls=self.catalog,
            regions=self.regions,
            engines=create_engines(EngineSettings(base.settings.data_folder / "runtimes")),
            sealer=base.sealer,
            clock=base.clock,
            new_id=base.new_id,
        )

        self.compute = _Compute(base, self.regions, self.accelerators)

    def routers(self) -> list[APIRouter]:
        """All the routes, of people and of regions."""
        return [
            self.identity.router(),
            cloudcrest.identity.pages.router(),
            cloudcrest.regions.routes.router(self.regions, self.nodes, self._base.clock),
            cloudcrest.catalog.routes.router(self.catalog),
            cloudcrest.compute.nodes.routes.router(self.nodes),
            cloudcrest.compute.accelerator_types.routes.router(self.accelerators, self.billing.cards),
            cloudcrest.serving.routes.router(self.deployments),
            self.billing.router(),
            self.compute.router(),
            cloudcrest.compute.quotas.routes.router(self.compute.quotas),
            cloudcrest.regions.routes.internal_router(self._notifier),
            cloudcrest.compute.nodes.routes.internal_router(self.nodes),
            cloudcrest.serving.routes.internal_router(self.deployments),
            cloudcrest.compute.jobs.routes.internal_router(self.compute.jobs),
            cloudcrest.billing.routes.internal_router(self.billing.ingest, self.billing.granting),
        ]

    async def seed(self) -> None:
        """Start data, each part in a transaction of its own; run at every start."""
        base, settings = self._base, self._base.settings
        async with base.database.transaction() as session:
            await self.identity.seed(session)
        async with base.database.transaction() as session:
            await cloudcrest.regions.seed.seed(
                session, clock=base.clock, token_sha256=token_hash(settings.region_token)
            )
        async with base.database.transaction() as session:
            await cloudcrest.catalog.seed.seed(session, clock=base.clock)
        async with base.database.transaction() as session:
            await self.accelerators.seed(session)
        async with base.database.transaction() as session:
            await cloudcrest.billing.seed.seed(session, base.clock, base.new_id)
            await self.billing.budgets.publish_missing(session)
        async with base.database.transaction() as session:
            await self.compute.secrets.bind_old(session)
        if settings.default_models:
            async with base.database.transaction() as session:
                await cloudcrest.serving.seed.seed(session, self.deployments)


class _Identity:
    def __init__(self, base: Base, opening: OrganizationCreated) -> None:
        self._base = base
        settings = base.settings.identity
        clock, new_id = base.clock, base.new_id
        self._passwords = Passwords()
        self.organizations = OrganizationService(
            clock=clock, new_id=new_id, settings=settings, organization_created=opening
        )
        seeded = (base.settings.first_api_key, base.settings.operator_api_key, base.settings.probe_api_key)
        self._keys = KeyService(
            clock=clock,
            new_id=new_id,
            settings=settings,
            new_secret=new_secret,
            seeded=frozenset(map(sha256_hex, seeded)),
        )
        self._members = MemberService(
            clock=clock,
            new_id=new_id,
            settings=settings,
            new_secret=new_secret,
            passwords=self._passwords,
            jobs=base.jobs,
            sealer=base.sealer,
        )
        self._accounts = AccountService(
            database=base.database,
            clock=clock,
            new_id=new_id,
            settings=settings,
            new_secret=new_secret,
            passwords=self._passwords,
            organizations=self.organizations,
            jobs=base.jobs,
        )
        self._verification = VerificationService(
            database=base.database, clock=clock, settings=settings, new_secret=new_secret, jobs=base.jobs
        )
        self._oidc = OidcService(
            provider=configured_provider(settings, clock),
            accounts=self._accounts,
            organizations=self.organizations,
            database=base.database,
            sealer=base.sealer,
            jobs=base.jobs,
            settings=settings,
            clock=clock,
            new_id=new_id,
            new_secret=new_secret,
        )
        tasks = cloudcrest.identity.tasks.blueprint(
            accounts=self._accounts,
            verification=self._verification,
            keys=self._keys,
            mailer=_mailer(base),
            sealer=base.sealer,
            database=base.database,
        )
        base.jobs.register("identity", tasks)

    def router(self) -> APIRouter:
        return cloudcrest.identity.routes.router(
            account_service=self._accounts,
            verification_service=self._verification,
            oidc_service=self._oidc,
            organization_service=self.organizations,
            member_service=self._members,
            key_service=self._keys,
            secure_cookies=self._base.settings.identity.secure_cookies,
        )

    async def seed(self, session: AsyncSession) -> None:
        settings = self._base.settings
        await cloudcrest.identity.seed.seed(
            session,
            first_key=settings.first_api_key,
            operator_key=settings.operator_api_key,
            probe_key=settings.probe_api_key,
            operator_email=settings.operator_email,
            operator_password=settings.operator_password,
            organization_service=self.organizations,
            key_service=self._keys,
            passwords=self._passwords,
            clock=self._base.clock,
            new_id=self._base.new_id,
        )


class _Billing:
    def __init__(self, base: Base) -> None:
        events = UsageRepository()
        self.accounts = Accounts(base.settings.billing, base.clock, base.new_id)
        self.granting = Granting(base.clock)
        self.budgets = Budgets(base.clock, base.new_id)
        self.ingest = UsageIngest(events, self.accounts, self.granting, base.clock, base.new_id)
        self._owners = OwnerLookup()
        self.cards = RateCards(base.clock, base.new_id, cloudcrest.billing.tasks.deferrer(base.jobs))
        self._report = UsageReport(events)
        self._verification = Verification(events)
        tasks = cloudcrest.billing.tasks.blueprint(self.ingest, self.granting, base.database)
        base.jobs.register(cloudcrest.billing.tasks.NAMESPACE, tasks)

    def router(self) -> APIRouter:
        return cloudcrest.billing.routes.router(
            self._report,
            self.cards,
            self.accounts,
            self._verification,
            budget_service=self.budgets,
            owners=self._owners,
        )


class _Compute:
    def __init__(self, base: Base, regions: RegionService, types: AcceleratorTypes) -> None:
        owners = OwnerLookup()
        self.jobs = JobService(
            regions=regions, types=types, owners=owners, standing=owners, clock=base.clock, new_id=base.new_id
        )
        self.quotas = QuotaService(regions=regions, types=types, owners=owners, clock=base.clock, new_id=base.new_id)
        self.secrets = ProjectSecrets(base.sealer, base.clock)
        self._policies = ComputePolicies(base.clock)
        tasks = cloudcrest.compute.jobs.tasks.blueprint(self.jobs, base.database)
        base.jobs.register(cloudcrest.compute.jobs.tasks.NAMESPACE, tasks)

    def router(self) -> APIRouter:
        return cloudcrest.compute.jobs.routes.router(self.jobs, self.secrets, self._policies)


def _mailer(base: Base) -> Mailer:
    """SMTP where it is set up; else mails lie in the data folder, where an operator finds them."""
    settings = base.settings.identity
    if settings.smtp_host is None:
        folder = base.settings.data_folder / "mails"
        return FolderMailer(folder, sender=settings.mail_from, clock=base.clock, new_id=base.new_id)
    return SmtpMailer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username,
        password=settings.smtp_password,
        starttls=settings.smtp_starttls,
        sender=settings.mail_from,
        clock=base.clock,
    )
