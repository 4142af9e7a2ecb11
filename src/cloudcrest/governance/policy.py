"""What an organization and a project want done about what is found, at one stage. Pure."""

from collections.abc import Mapping

from cloudcrest.identity.api import (
    GUARDRAIL_GROUPS,
    GUARDRAIL_KINDS,
    GuardrailAction,
    Guardrails,
    GuardrailStage,
)

_ORDER: tuple[GuardrailAction, ...] = ("off", "flag", "redact", "block")
Actions = Mapping[str, GuardrailAction]


def actions(organization: Guardrails, project: Guardrails, stage: GuardrailStage) -> dict[str, GuardrailAction]:
    """By kind, what is done: the stricter of what both say. Kinds about which nothing is done are left out.

    Of one of them, what names a kind itself goes before what names its group.
    """
    least, own = getattr(organization, stage), getattr(project, stage)
    if not least and not own:
        return {}
    found = {kind: max(_said(least, kind), _said(own, kind), key=_ORDER.index) for kind in GUARDRAIL_KINDS}
    return {kind: action for kind, action in found.items() if action != "off"}


def _said(rules: Mapping[str, GuardrailAction], kind: str) -> GuardrailAction:
    if kind in rules:
        return rules[kind]
    return next((rules[group] for group, kinds in GUARDRAIL_GROUPS.items() if kind in kinds and group in rules), "off")
