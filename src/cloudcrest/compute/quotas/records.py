"""Quotas as the control plane keeps them."""

from datetime import datetime

import msgspec

from cloudcrest.compute.quotas.api import QuotaDocument


class StoredQuota(msgspec.Struct, frozen=True):
    """One quota. `project_id` empty: the organization's own. Amounts in thousandths."""

    id: str
    region: str
    organization_id: str
    project_id: str
    resource: str
    guaranteed_milli: int
    ceiling_milli: int | None
    created_by: str
    created_at: datetime
    updated_at: datetime

    def document(self) -> QuotaDocument:
        """What its region is told."""
        return QuotaDocument(
            self.organization_id, self.project_id, self.resource, self.guaranteed_milli, self.ceiling_milli
        )
