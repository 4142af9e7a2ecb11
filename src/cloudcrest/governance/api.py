"""The public face of governance: guards over texts, and the rule model of moderation. Pure, for the gateway's sake."""

from cloudcrest.governance.detectors.hits import Detector, Hit
from cloudcrest.governance.detectors.presidio import presidio_detector
from cloudcrest.governance.detectors.registry import detectors
from cloudcrest.governance.guard import Findings, Guard, Placeholders
from cloudcrest.governance.moderation.results import RULE_MODEL, result, rule_verdict
from cloudcrest.governance.moderation.verdicts import Verdict, verdict
from cloudcrest.governance.policy import Actions, actions
from cloudcrest.governance.requests import Screen, Steps

__all__ = [
    "RULE_MODEL",
    "Actions",
    "Detector",
    "Findings",
    "Guard",
    "Hit",
    "Placeholders",
    "Screen",
    "Steps",
    "Verdict",
    "actions",
    "detectors",
    "detectors_for",
    "presidio_detector",
    "result",
    "rule_verdict",
    "verdict",
]


def detectors_for(kinds: Actions) -> tuple[Detector, ...]:
    """The detectors of the kinds that a policy names."""
    return tuple(detector for kind, detector in detectors().items() if kind in kinds) if kinds else ()
