"""Which paths speak another dialect. A new one is a file beside this and its paths here."""

from cloudcrest.gateway.dialects.anthropic.dialect import CountTokens, Messages
from cloudcrest.gateway.dialects.api import Dialect
from cloudcrest.gateway.dialects.dashscope.dialect import DASHSCOPE, ROOT, Elsewhere
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.sound.form import TRANSCRIPTIONS
from cloudcrest.gateway.sound.request import Speech, Transcription, Translation

ANTHROPIC = Messages()
DIALECTS: dict[str, Dialect] = {
    "/v1/messages": ANTHROPIC,
    **DASHSCOPE,
    "/v1/audio/speech": Speech(),
    TRANSCRIPTIONS: Transcription(),
    "/v1/audio/translations": Translation(),
}
COUNTS: dict[str, Dialect] = {"/v1/messages/count_tokens": CountTokens()}
"""Paths that answer with the tokens of a prompt (token_count.py)."""
COMPATIBLE = "/compatible-mode"
"""Where DashScope has its OpenAI-compatible paths."""
_ELSEWHERE = Elsewhere()
_ALIASES = {"/compatible-api/v1/reranks": "/v1/rerank"}
_VERSION = b"anthropic-version"


def dialect_of(request: Request) -> Dialect | None:
    """The dialect that a request is answered in. None: OpenAI's.

    The list of models is at one path for both: who sends the version of Anthropic's API means its.
    """
    path = request.path
    found = DIALECTS.get(path) or COUNTS.get(path)
    if found is None and path.startswith(ROOT):
        return _ELSEWHERE
    if found is None and path.startswith("/v1/models") and any(name == _VERSION for name, _ in request.headers):
        return ANTHROPIC
    return found


def without_alias(path: str) -> str:
    """The path that one under another cloud's name stands for; others as they are."""
    if not path.startswith("/compatible-"):
        return path
    return path.removeprefix(COMPATIBLE) if path.startswith(f"{COMPATIBLE}/v1/") else _ALIASES.get(path, path)
