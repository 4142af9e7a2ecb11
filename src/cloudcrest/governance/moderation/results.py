"""Results of `/v1/moderations`, and those of the rule model. Pure."""

from typing import Any

from cloudcrest.governance.detectors.hits import CONTEXT_CHARACTERS, best, segment
from cloudcrest.governance.detectors.registry import detectors
from cloudcrest.governance.moderation.categories import CATEGORIES, OWN_CATEGORIES, with_parents
from cloudcrest.governance.moderation.rules import judge
from cloudcrest.governance.moderation.verdicts import Verdict
from cloudcrest.governance.segments import find_segments, normalise
from cloudcrest.identity.api import GUARDRAIL_GROUPS

RULE_MODEL = "cloudcrest-moderation-rules"
FLAGGED_FROM = 0.51


def rule_verdict(text: str) -> Verdict:
    """What the lexicon has against a text, and whether it holds personal data or secrets."""
    normal = normalise(text)
    scores: dict[str, float] = {}
    for _, _, category, score in judge(normal, 0, len(normal)):
        scores[category] = max(scores.get(category, 0.0), score)
    for begin, end in find_segments(normal, 0, is_final=True).segments:
        looked_at = segment(normal[begin:end], normal[max(0, begin - CONTEXT_CHARACTERS) : begin])
        for hit in best(hit for detector in detectors().values() for hit in detector(looked_at)):
            group = "secrets" if hit.kind in GUARDRAIL_GROUPS["secrets"] else "pii"
            scores[group] = max(scores.get(group, 0.0), hit.confidence)
    return Verdict(any(score >= FLAGGED_FROM for score in scores.values()), scores)


def result(verdict: Verdict) -> dict[str, Any]:
    """One result in OpenAI's shape, with `pii` and `secrets` beside its categories."""
    scores = with_parents(verdict.scores)
    names = (*CATEGORIES, *OWN_CATEGORIES)
    return {
        "flagged": verdict.is_flagged,
        "categories": {name: scores.get(name, 0.0) >= FLAGGED_FROM for name in names},
        "category_scores": {name: scores.get(name, 0.0) for name in names},
        "category_applied_input_types": {name: ["text"] for name in names},
    }
