"""Schemathesis over OpenAI's description of its API, against a cloud whose models are simulated.

No made-up request is a fault of the cloud's (5xx); what is refused is refused in OpenAI's shape; what is answered fits
the models of OpenAI's own package.
"""

import functools
from collections import Counter
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok

from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, Tenant, answered, sign_up
from tests.acceptance.test_fuzz import call_often
from tests.conformance.openai_document import OPERATIONS, document_of
from tests.support.cloud import Cloud, new_cloud
from tests.support.waiting import until

EXAMPLES = 8
_MODELS = {"simulated-chat": CHAT_MODEL, "simulated-vectors": EMBEDDING_MODEL}
_ASKED_OF = {"": "simulated-chat", "/embeddings": "simulated-vectors", "/moderations": "omni-moderation-latest"}


@pytest.fixture(scope="module")
def simulated() -> Iterator[Cloud]:
    """A cloud with a simulated model for chats and one for vectors."""
    with new_cloud(flags=["--no-default-models"]) as cloud:
        cloud.start()
        with cloud.client(cloud.operator_key) as operator:
            for name, model in _MODELS.items():
                options = {"decode_tokens_per_second": 10_000.0, "answer_tokens": 8}
                body = {"model": model, "name": name, "engine": "simulated", "slots": 8, "engine_options": options}
                path = f"/api/v1/deployments/{answered(operator.post('/api/v1/deployments', json=body), 201)['id']}"
                until(functools.partial(_is_ready, operator, path), f"the start of {name}")
        yield cloud


def _is_ready(operator: httpx2.Client, path: str) -> bool:
    return bool(answered(operator.get(path))["state"] == "ready")


@pytest.fixture
def owner(simulated: Cloud) -> Iterator[Tenant]:
    """Who has what nobody honours dropped, so that more of what is made up comes to an answer."""
    made = sign_up(simulated.base_url)
    answered(made.http.patch(f"/api/v1/projects/{made.project_id}", json={"strict": False}))
    yield made
    made.http.close()


@pytest.fixture
def known(owner: Tenant) -> dict[str, str]:
    """An id of each kind of thing that the tenant has."""
    headers = {"authorization": f"Bearer {owner.key['key']}"}
    with httpx2.Client(base_url=f"{owner.base_url}/v1", headers=headers, timeout=60, trust_env=False) as http:
        line = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"simulated-chat",'
        line += b'"messages":[{"role":"user","content":"Hi"}]}}\n'
        files = {"file": ("lines.jsonl", line)}
        file = answered(http.post("/files", files=files, data={"purpose": "batch"}))["id"]
        batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return {
            "files": file,
            "batches": answered(http.post("/batches", json=batch))["id"],
            "responses": answered(http.post("/responses", json={"model": "simulated-chat", "input": "Hi"}))["id"],
            "conversations": answered(http.post("/conversations", json={}))["id"],
        }


@pytest.mark.parametrize("modes", [(GenerationMode.POSITIVE,), tuple(GenerationMode)], ids=["served", "all"])
def test_no_input_breaks_what_openai_has(
    owner: Tenant, known: dict[str, str], modes: tuple[GenerationMode, ...]
) -> None:
    is_served = len(modes) == 1
    document = document_of(owner.base_url, _ASKED_OF, known, is_served=is_served)
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=owner.base_url)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == len(OPERATIONS)
    statuses: dict[str, Counter[int]] = {}
    broken: list[str] = []
    for operation in operations:
        for mode in modes:
            told = statuses.setdefault(operation.label, Counter())
            try:
                call_often(operation, mode, told, key=owner.key["key"], examples=EXAMPLES)
            except (FailureGroup, Failure) as failure:
                broken.append(f"{operation.label}: {failure}")
    assert not broken, "\n\n".join(broken)
    unanswered = {label for label, told in statuses.items() if 200 not in told}
    may_be_refused = {f"{each.method.upper()} /v1{each.path}" for each in OPERATIONS if each.known == "gone"}
    may_be_refused.add("POST /v1/batches/{id}/cancel")  # it may have ended
    assert not is_served or unanswered <= may_be_refused, statuses
