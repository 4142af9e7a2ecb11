"""What guard models say, in OpenAI's categories. Pure. Their own chat templates hold their prompts and policies.

Llama Guard (3, 4): "safe", or "unsafe" and a line of hazards "S1,S10" of MLCommons' taxonomy.
Qwen3Guard (Gen): "Safety: Safe|Controversial|Unsafe" and "Categories: Violent, …".
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from cloudcrest.catalog.api import ModerationFormat
from cloudcrest.kernel.errors import EngineFault

CONTROVERSIAL = 0.5
_LLAMA_HAZARDS: dict[str, tuple[str, ...]] = {
    "S1": ("violence", "illicit/violent"),
    "S2": ("illicit",),
    "S3": ("sexual", "illicit/violent"),
    "S4": ("sexual/minors",),
    "S5": ("harassment",),
    "S6": (),  # specialized advice
    "S7": ("pii",),
    "S8": (),  # intellectual property
    "S9": ("illicit/violent",),
    "S10": ("hate",),
    "S11": ("self-harm",),
    "S12": ("sexual",),
    "S13": (),  # elections
    "S14": ("illicit",),
}
_QWEN_CATEGORIES: dict[str, tuple[str, ...]] = {
    "violent": ("violence",),
    "non-violent illegal acts": ("illicit",),
    "sexual content or sexual acts": ("sexual",),
    "pii": ("pii",),
    "personally identifiable information": ("pii",),
    "suicide & self-harm": ("self-harm",),
    "unethical acts": ("harassment",),
    "politically sensitive topics": (),
    "copyright violation": (),
    "jailbreak": (),
}
_LLAMA = re.compile(r"\s{0,16}(safe|unsafe)\b[^S]{0,64}((?:S\d{1,2}[ ,]{0,3}){0,20})", re.IGNORECASE)
_QWEN = re.compile(r"Safety:\s{0,8}(Safe|Unsafe|Controversial)", re.IGNORECASE)
_QWEN_LIST = re.compile(r"Categories:([^\n]{0,512})", re.IGNORECASE)


class Verdict(NamedTuple):
    """`scores`: of what the model names; 1 where it is sure. Flagged without any: for what OpenAI has no category."""

    is_flagged: bool
    scores: dict[str, float]


def _llama_guard(text: str) -> Verdict | None:
    match = _LLAMA.match(text)
    if match is None:
        return None
    if match[1].lower() == "safe":
        return Verdict(False, {})
    hazards = re.findall(r"S\d{1,2}", match[2])
    return Verdict(True, {category: 1.0 for hazard in hazards for category in _LLAMA_HAZARDS.get(hazard, ())})


def _qwen3guard(text: str) -> Verdict | None:
    match = _QWEN.search(text)
    if match is None:
        return None
    said = match[1].lower()
    if said == "safe":
        return Verdict(False, {})
    listed = _QWEN_LIST.search(text)
    names = [name.strip().lower() for name in listed[1].split(",")] if listed is not None else []
    score = 1.0 if said == "unsafe" else CONTROVERSIAL
    return Verdict(said == "unsafe", {category: score for name in names for category in _QWEN_CATEGORIES.get(name, ())})


_READERS: dict[ModerationFormat, Callable[[str], Verdict | None]] = {
    "llama-guard": _llama_guard,
    "qwen3guard": _qwen3guard,
}


def verdict(moderation_format: ModerationFormat, text: str) -> Verdict:
    """Raises `EngineFault` for an answer that is no verdict: silence is not "safe"."""
    found = _READERS[moderation_format](text[:4096])
    if found is None:
        raise EngineFault(
            "the moderation model answered with no verdict",
            hint="an operator checks that its moderation_format in the catalog is the right one",
        )
    return found
