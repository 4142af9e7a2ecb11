"""The public face of quotas: what regions are told."""

import msgspec

from cloudcrest.compute.scheduler.quotas import Quota

QUOTA_KIND = "quota"


class QuotaDocument(msgspec.Struct, frozen=True):
    """One quota, published to its region. `project_id` empty: the organization's own. Thousandths."""

    organization_id: str
    project_id: str
    resource: str
    guaranteed_milli: int
    ceiling_milli: int | None = None

    def quota(self) -> Quota:
        """As the scheduler takes it."""
        owner = (self.organization_id, self.project_id) if self.project_id else (self.organization_id,)
        return Quota(owner, self.resource, self.guaranteed_milli, self.ceiling_milli)
