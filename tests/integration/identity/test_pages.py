"""Where mailed links lead."""

import re

import pytest

from cloudcrest.identity.pages import PATHS, router
from tests.integration.identity.cloud import Cloud, register

pytestmark = pytest.mark.anyio


async def test_every_mailed_link_leads_to_a_page(cloud: Cloud) -> None:
    ada = await register(cloud, "ada")
    invitations = f"/organizations/{ada.organization_id}/invitations"
    await ada.client.post(invitations, json={"role": "viewer", "email": "grace@example.com"})
    await ada.client.post("/auth/password-reset", json={"email": ada.email})
    await cloud.jobs.run_waiting()
    mailed = "\n".join(mail.body for mail in cloud.mailer.sent)
    assert set(re.findall(r"https?://[^/\s]+(/[a-z-]+)#token=", mailed)) == set(PATHS)


async def test_a_page_runs_its_own_script_alone(cloud: Cloud) -> None:
    cloud.app.include_router(router())
    for path in PATHS:
        answer = await cloud.client().get(f"http://cloud.test{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'sha256-" in policy
        assert "frame-ancestors 'none'" in policy
    assert not set(PATHS) & set(cloud.app.openapi()["paths"])
