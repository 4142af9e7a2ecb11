"""Secrets: what providers' keys look like, private keys, tokens, and values given to something called a password."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from cloudcrest.governance.detectors.hits import Hit, Segment

_L = r"(?<![A-Za-z0-9])"
_R = r"(?![A-Za-z0-9])"
_TOKENS = (
    ("AWS access key id", rf"{_L}(?:AKIA|ASIA)[A-Z2-7]{{16}}{_R}"),
    ("GitHub token", rf"{_L}(?:gh[pousr]_[A-Za-z0-9]{{36,255}}|github_pat_[A-Za-z0-9_]{{22,255}}){_R}"),
    ("GitLab token", rf"{_L}glpat-[A-Za-z0-9_-]{{20,64}}"),
    ("Slack token", rf"{_L}xox[abeoprs]-[A-Za-z0-9-]{{10,250}}"),
    ("Slack webhook", r"hooks\.slack\.com/services/[A-Za-z0-9]{8,12}/[A-Za-z0-9]{8,12}/[A-Za-z0-9]{20,32}"),
    ("Google API key", rf"{_L}AIza[0-9A-Za-z_-]{{35}}{_R}"),
    ("Google OAuth token", rf"{_L}(?:ya29\.[0-9A-Za-z_-]{{20,500}}|GOCSPX-[A-Za-z0-9_-]{{20,40}})"),
    ("Cloudcrest key", rf"{_L}sk-cc-[A-Za-z0-9_-]{{20,64}}"),
    ("Anthropic key", rf"{_L}sk-ant-[A-Za-z0-9_-]{{20,200}}"),
    (
        "OpenAI-like key",
        rf"{_L}sk-(?=[A-Za-z_-]{{0,160}}[0-9])(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{{20,200}}",
    ),
    ("Stripe key", rf"{_L}[sr]k_(?:live|test)_[0-9A-Za-z]{{16,200}}"),
    ("Hugging Face token", rf"{_L}hf_[A-Za-z0-9]{{30,60}}{_R}"),
    ("npm token", rf"{_L}npm_[A-Za-z0-9]{{36}}{_R}"),
    ("PyPI token", rf"{_L}pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{{40,400}}"),
    ("SendGrid key", rf"{_L}SG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}"),
    ("Telegram bot token", rf"{_L}[0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}{_R}"),
    ("Alibaba Cloud key id", rf"{_L}LTAI[A-Za-z0-9]{{12,20}}{_R}"),
    ("JSON web token", rf"{_L}eyJ[A-Za-z0-9_-]{{8,2000}}\.eyJ[A-Za-z0-9_-]{{8,2000}}\.[A-Za-z0-9_-]{{16,1000}}"),
)
_PATTERNS = tuple((what, re.compile(pattern)) for what, pattern in _TOKENS)
_STARTS = re.compile(
    r"AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|xox|hooks\.slack|AIza|ya29\.|GOCSPX-|sk-|[sr]k_|hf_|npm_|pypi-|SG\.|:AA|LTAI|eyJ"
)
_IN_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^:/?#@\s]{0,64}:([^@/\s]{3,128})@")
_NAMED = re.compile(
    r"(?:passwords?|passwd|passphrase|pwd|passwort|contraseña|mot de passe|密码|口令|secret|api[_ -]?key|apikey|"
    r"access[_ -]?key|secret[_ -]?key|access[_ -]?token|auth[_ -]?token|"
    r"client[_ -]?secret|private[_ -]?key|token|bearer)"
    r"[\"'`]?(?: {0,3}(?:=>|:=|[=:：]) {0,3}| is | )[\"'`]?$"
)
_VALUE = re.compile(r"[^\s\"'`&]{6,512}")
_NO_SECRET = re.compile(
    r"^(?:https?:|\$|%|\.|[/~]|os\.|process\.|env\.|your|my[_-]|example|xxx|\*\*\*|changeme|none\b|null\b)|\(",
    re.IGNORECASE,
)
_SHORTEST_VALUE = 6
_MAX_VALUE = 512


def secrets(segment: Segment) -> Iterator[Hit]:
    """Tokens by their form, private keys by their frame, other values by what they are given to."""
    text = segment.text
    if text.startswith("-----BEGIN "):
        yield Hit(0, len(text), "secret", "private key", 0.99)
        return
    if _STARTS.search(text):
        for what, pattern in _PATTERNS:
            for match in pattern.finditer(text):
                yield Hit(match.start(), match.end(), "secret", what, 0.97)
    for match in _IN_URL.finditer(text):
        yield Hit(match.start(1), match.end(1), "secret", "password in an address", 0.96)
    if segment.digits < len(text) and len(text) >= _SHORTEST_VALUE:
        yield from _given(segment)


def _given(segment: Segment) -> Iterator[Hit]:
    """`password=…`: where a value begins, at the segment's start or behind a sign in it."""
    text = segment.text
    starts = [0, *(match.end() for match in re.finditer(r"[=:] ?", text[:_MAX_VALUE]))][:8]
    for start in starts:
        value = _VALUE.match(text, start)
        if value is None or not _NAMED.search(segment.context(start, 40)):
            continue
        written = value[0].rstrip(".,;:!?") if value[0][-1] not in "!?" else value[0]
        if _is_random(written) and not _NO_SECRET.search(written):
            yield Hit(start, start + len(written), "secret", "value of a password or key", 0.7)
            return


def _is_random(value: str) -> bool:
    """Whether it mixes digits with letters or signs, and does not repeat itself: at least 2.2 bits a character."""
    if len(value) < _SHORTEST_VALUE or not any(map(str.isdigit, value)) or value.isdigit():
        return False
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) >= 2.2
