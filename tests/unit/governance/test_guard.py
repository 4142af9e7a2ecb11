import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cloudcrest.governance
from cloudcrest.governance.api import Findings, Guard, Placeholders, detectors, detectors_for
from cloudcrest.governance.segments import MAX_KEY_BLOCK, MAX_WORD, find_segments
from cloudcrest.identity.api import GUARDRAIL_KINDS, GuardrailAction
from tests.unit.governance.finding import ALL, cut, guarded

PIECES = [
    "john.doe@example.com", "4111 1111 1111 1111", "4111111111111111", "GB82 WEST 1234 5698 7654 32", "AB 12 34 56 C",
    "(555) 123-4567", "+49 30 1234567", "A123456(3)", "529.982.247-25", "11010519491231002X", "１２３", "你好", "é",
    "password=", "hunter2!x", " is ", "passport no. ", "C01X00T47", "sk-cc-" + "a1" * 20, "eyJhbGciOiJ.eyJzdWIiOiIx.",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n", "-----END RSA PRIVATE KEY-----", "-----BEG", "IN PRIVATE KEY-----",
    "i will ", "kill ", "you", "how to make a ", "bomb", "THE CAT ", "AB ", "10 ", "5", "a" * 20, "a" * MAX_WORD,
    " ", "\n", "\\n", "\\u0041", "\\", '"', "{", "(", ")", ".", ",", "@", "-", "\u200b",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
POLICIES = st.dictionaries(
    st.sampled_from(GUARDRAIL_KINDS), st.sampled_from(["flag", "redact", "block"]), min_size=4
).map(lambda rules: {k: "flag" if a == "redact" and k not in detectors() else a for k, a in rules.items()})


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, actions=POLICIES, is_json=st.booleans(), data=st.data())
def test_however_a_text_is_cut_the_same_comes_out(
    text: str, actions: dict[str, GuardrailAction], is_json: bool, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=20))
    whole = guarded([text], actions, is_json=is_json)
    assert guarded(cut(text, places), actions, is_json=is_json) == whole
    if len(text) < 300:
        assert guarded(list(text), actions, is_json=is_json) == whole


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_flags_change_nothing(text: str) -> None:
    assert guarded(list(text), dict.fromkeys(detectors(), "flag"))[0] == text


def test_prose_is_held_back_by_a_word_at_most() -> None:
    guard = Guard(ALL, detectors_for(ALL), Placeholders(), Findings())
    out = ""
    text = "Once upon a time, in 1984, there lived a small cat; 我们都很喜欢它。"
    for index, character in enumerate(text, 1):
        out += guard.feed(character)
        assert text.startswith(out)
        assert len(text[len(out) : index].split()) <= 2
    assert out + guard.end() == text


def test_the_same_value_has_the_same_placeholder() -> None:
    text = "Ann@x.org, bob@x.org and ann@x.org; 4111 1111 1111 1111 = 4111111111111111"
    assert guarded([text])[0] == "[EMAIL_1], [EMAIL_2] and [EMAIL_1]; [CARD_1] = [CARD_1]"


def test_a_block_ends_the_text_before_what_was_found() -> None:
    out, counts = guarded(["my card is 41111111", "11111111 and more"], {"card": "block"})
    assert out == "my card is "
    assert counts == {("card", "block"): 1}


def test_json_stays_json() -> None:
    text = '{"card":4111111111111111,"to":"a\\nann@x.org","n":[13812345678]}'
    assert guarded(list(text), is_json=True)[0] == '{"card":"[CARD_1]","to":"a\\n[EMAIL_1]","n":["[PHONE_1]"]}'


def test_names_are_shared_by_the_kinds_of_one_value_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudcrest.governance.guard.MAX_PLACEHOLDERS", 2)
    assert guarded(["a@x.org b@x.org c@x.org a@x.org"])[0] == "[EMAIL_1] [EMAIL_2] [EMAIL] [EMAIL_1]"


HOSTILE = [
    "a", "1", "@", "a@", "a.", "-", "12 34 ", "4111 1111 1111 1111 ", "ABCD ", "(", "\\", "\\u0041", "eyJ",
    "-----BEGIN PRIVATE KEY-----\n", "password=", "http://a:", "sk-", ":", "1.", "1:", "passport ", "phone ",
    "you kill ", "-----BEGIN ", "how to make a ", "\u200b", "１", "+1", "GB82 ", "GB82", "1-", "xoxb-", "a=1&",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_work_grows_with_the_text_and_no_faster(unit: str) -> None:
    """In calls of Python functions, and in the characters that patterns are given: each segment is bounded."""
    short, long = unit * (3_000 // len(unit)), unit * (12_000 // len(unit))
    assert _calls(long) < 5 * _calls(short) + 200
    segments = find_segments(long, 0, is_final=True).segments
    assert all(end - begin <= max(MAX_WORD, MAX_KEY_BLOCK) for begin, end in segments)
    assert sum(end - begin for begin, end in segments) <= len(long)


def _calls(text: str) -> int:
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    actions: dict[str, GuardrailAction] = dict.fromkeys(GUARDRAIL_KINDS, "flag")
    guard = Guard(actions, detectors_for(actions), Placeholders(), Findings())
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        guard.whole(text)
    finally:
        sys.setprofile(before)
    return count


def _patterns() -> Iterator[re.Pattern[str]]:
    for module in pkgutil.walk_packages(cloudcrest.governance.__path__, "cloudcrest.governance."):
        seen: list[Any] = list(vars(importlib.import_module(module.name)).values())
        while seen:
            value = seen.pop()
            if isinstance(value, re.Pattern):
                yield value
            elif isinstance(value, list | tuple):
                seen += value
            elif isinstance(value, dict):
                seen += value.values()


def test_no_pattern_repeats_without_a_bound() -> None:
    """But for single classes, which are linear alone: so no repetition stands within another one."""
    unbounded = re.compile(r"(?<!_)[*+](?!\+)|\{\d+,\}")
    patterns = [pattern for pattern in _patterns() if not pattern.pattern.startswith("(?:^| )")]  # given 64 characters
    assert len(patterns) > 70
    for pattern in patterns:
        classes_out = re.sub(r"\[(?:\\.|[^\]\\])*\]|\\.|\}\+", "_", pattern.pattern)
        found = [match[0] for match in unbounded.finditer(classes_out)]
        assert not found, pattern.pattern
