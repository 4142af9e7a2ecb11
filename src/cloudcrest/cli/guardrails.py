"""Guardrails as they are written on the command line: `pii=redact`, `input.email=off`."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from cloudcrest.cli.errors import WrongUsage

STAGES = ("input", "output")
ACTIONS = ("off", "flag", "redact", "block")

GuardrailOption = Annotated[
    list[str] | None,
    Parameter(
        name="--guardrail",
        negative=(),
        help="KIND=off|flag|redact|block, or input.KIND=… or output.KIND=… for one stage; KIND= to say nothing of it. "
        "Kinds: pii, secrets, moderation, or one of theirs. May be repeated.",
    ),
]


def with_guardrails(before: dict[str, Any], given: list[str]) -> dict[str, dict[str, str]]:
    """What there is, with what is given in place of what it names."""
    after = {stage: dict(before.get(stage, {})) for stage in STAGES}
    for text in given:
        name, separator, action = text.partition("=")
        stage, dot, kind = name.partition(".")
        stages, kind = ((stage,), kind) if dot else (STAGES, name)
        if not separator or not kind or not set(stages) <= set(STAGES) or (action and action not in ACTIONS):
            raise WrongUsage(
                f"'{text}' is no guardrail", hint="write --guardrail pii=redact, or --guardrail output.secrets=block"
            )
        for stage in stages:
            after[stage].pop(kind, None)
            if action:
                after[stage][kind] = action
    return after


def guardrails_shown(item: Mapping[str, Any]) -> str:
    """As a table shows them: what holds at both stages once."""
    rules = item.get("guardrails") or {}
    said = {stage: rules.get(stage, {}) for stage in STAGES}
    both = {kind: action for kind, action in said["input"].items() if said["output"].get(kind) == action}
    shown = [f"{kind}={action}" for kind, action in both.items()]
    shown += [
        f"{stage}.{kind}={action}" for stage in STAGES for kind, action in said[stage].items() if kind not in both
    ]
    return " ".join(shown)
