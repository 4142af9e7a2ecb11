"""Guardrails as callers of the API write them."""

from typing import Annotated, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cloudcrest.identity import api
from cloudcrest.identity.api import GUARDRAIL_GROUPS, GuardrailAction

Subject = Literal[
    "pii",
    "email",
    "phone",
    "card",
    "iban",
    "passport",
    "national_id",
    "ip_address",
    "secrets",
    "secret",
    "moderation",
    "harassment",
    "hate",
    "illicit",
    "self-harm",
    "sexual",
    "violence",
]
"""What a rule may name: the groups of identity/api.py, and their kinds."""


def _can_be_done(rules: dict[Subject, GuardrailAction]) -> dict[Subject, GuardrailAction]:
    for subject, action in rules.items():
        if action == "redact" and subject in ("moderation", *GUARDRAIL_GROUPS["moderation"]):
            raise ValueError(f"'{subject}' can be flagged or blocked: there is no value in it to redact")
    return rules


Rules = Annotated[
    dict[Subject, GuardrailAction],
    AfterValidator(_can_be_done),
    Field(max_length=32, examples=[{"pii": "redact", "secrets": "block"}]),
]


class Guardrails(BaseModel):
    """What is done about what is found in requests (`input`) and answers (`output`). What is not named is off.

    A kind goes before its group. The stricter of project and organization holds.
    """

    model_config = ConfigDict(from_attributes=True, extra="forbid")

    input: Rules = {}
    output: Rules = {}

    def to_api(self) -> api.Guardrails:
        """The same as the gateway knows them."""
        return msgspec.convert(self.model_dump(), api.Guardrails)
