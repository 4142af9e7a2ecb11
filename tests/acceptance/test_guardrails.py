"""Guardrails in a whole cloud: set on the command line and by a tenant, and in force at the gateway within a moment."""

import openai

from tests.acceptance.conftest import Cli
from tests.acceptance.tenants import QUESTION, Tenant, answered, infer, known
from tests.support.cloud import Cloud
from tests.support.waiting import until

CARD = "4111 1111 1111 1111"


def test_a_tenants_guardrails_hold_for_its_key_alone(cloud: Cloud, anyone: Tenant, cli: Cli) -> None:
    key = anyone.make_key()
    known(cloud.base_url, key["key"])
    least = {"guardrails": {"input": {"card": "block"}}}
    answered(anyone.http.patch(f"/api/v1/organizations/{anyone.organization_id}", json=least))
    own = {"guardrails": {"input": {"card": "flag", "email": "redact"}}}
    answered(anyone.http.patch(f"/api/v1/projects/{key['project_id']}", json=own))
    asked = QUESTION | {"messages": [{"role": "user", "content": f"My card is {CARD}."}], "max_tokens": 4}

    def code() -> str | None:
        response = infer(cloud.base_url, key["key"], "POST", "/v1/chat/completions", json=asked)
        assert CARD not in response.text
        code: str | None = response.json().get("error", {}).get("code")
        return code

    until(lambda: code() == "content_blocked", "the organization's least holds", seconds=5)
    asked["messages"] = [{"role": "user", "content": "My address is ann@example.org."}]
    response = infer(cloud.base_url, key["key"], "POST", "/v1/chat/completions", json=asked)
    assert (response.status_code, response.headers["x-cloudcrest-guardrails"]) == (200, "input email=redact:1")
    ours = openai.OpenAI(api_key=cloud.api_key, base_url=f"{cloud.base_url}/v1", max_retries=0)
    judged = ours.moderations.create(input=f"i will kill you, {CARD}")
    assert judged.model == "cloudcrest-moderation-rules"
    assert judged.results[0].categories.harassment_threatening
    shown = cli("projects", "update", key["project_id"], "--guardrail", "output.secrets=flag", "--format", "json")
    assert shown.json()["guardrails"] == own["guardrails"] | {"output": {"secrets": "flag"}}
