"""The categories of moderation, as OpenAI's endpoint has them, and two of our own: pii and secrets."""

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
OWN_CATEGORIES = ("pii", "secrets")


def family(category: str) -> str:
    """The kind that guardrails know a category as: what stands before its slash."""
    return category.partition("/")[0]


def with_parents(scores: dict[str, float]) -> dict[str, float]:
    """A finer category counts for its coarser one too: who threatens, harasses."""
    found = dict(scores)
    for category, score in scores.items():
        parent = family(category)
        found[parent] = max(found.get(parent, 0.0), score)
    return found
