from typing import get_args

import pytest

from cloudcrest.governance.policy import actions
from cloudcrest.identity.api import GUARDRAIL_GROUPS, GUARDRAIL_KINDS, GuardrailAction, Guardrails
from cloudcrest.identity.guardrail_schemas import Subject

NONE = Guardrails()


def test_a_kind_goes_before_its_group_and_what_is_not_named_is_off() -> None:
    own = Guardrails(input={"pii": "redact", "email": "off", "secret": "block"}, output={"card": "flag"})
    found = actions(NONE, own, "input")
    assert found == dict.fromkeys(GUARDRAIL_GROUPS["pii"][1:], "redact") | {"secret": "block"}
    assert actions(NONE, own, "output") == {"card": "flag"}
    assert actions(NONE, NONE, "input") == {}


@pytest.mark.parametrize(
    ("least", "own", "holds"),
    [("flag", "block", "block"), ("block", "flag", "block"), ("redact", "off", "redact"), ("off", "flag", "flag")],
)
def test_a_project_tightens_and_does_not_loosen(
    least: GuardrailAction, own: GuardrailAction, holds: GuardrailAction
) -> None:
    assert actions(Guardrails(input={"pii": least}), Guardrails(input={"email": own}), "input")["email"] == holds


def test_the_api_takes_the_kinds_there_are() -> None:
    assert set(get_args(Subject)) == {*GUARDRAIL_GROUPS, *GUARDRAIL_KINDS}
