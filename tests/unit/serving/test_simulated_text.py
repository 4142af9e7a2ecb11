"""The simulated engine's tokens: nothing lost, and a continuation that equals the uninterrupted answer."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.serving.engines.simulated_text import (
    ASSISTANT,
    chat_prompt,
    detokenize,
    embedding,
    generate,
    token_bytes,
    tokenize,
)


@given(st.text())
def test_tokens_lose_nothing_and_fit_json(text: str) -> None:
    tokens = tokenize(text)
    assert detokenize(tokens) == text
    assert all(0 < token < 2**53 for token in tokens)


def test_markers_are_tokens_whatever_stands_before_them() -> None:
    assert tokenize(chat_prompt([("user", "hi")]))[-1] == ASSISTANT


@given(st.text(max_size=50), st.integers(1, 40), st.integers(0, 40), st.integers(-5, 5))
def test_a_continuation_equals_the_rest(text: str, answer_tokens: int, cut: int, seed: int) -> None:
    prompt = tokenize(chat_prompt([("user", text.replace("<|", ""))]))
    whole = list(generate(prompt, answer_tokens=answer_tokens, seed=seed))
    assert len(whole) == answer_tokens
    assert list(generate([*prompt, *whole[:cut]], answer_tokens=answer_tokens, seed=seed)) == whole[cut:]
    assert tokenize(detokenize([*prompt, *whole])) == [*prompt, *whole]


def test_plain_text_ends_some_time_and_continues_the_same() -> None:
    prompt = tokenize("Once upon a time")
    whole = list(itertools.islice(generate(prompt, answer_tokens=30), 2000))
    assert 0 < len(whole) < 2000
    assert list(generate([*prompt, *whole[:3]], answer_tokens=30)) == whole[3:]


def test_seeds_tell_choices_apart() -> None:
    prompt = tokenize(chat_prompt([("user", "hi")]))
    assert list(generate(prompt, answer_tokens=9, seed=1)) != list(generate(prompt, answer_tokens=9, seed=2))


def test_an_open_assistant_message_is_continued() -> None:
    assert chat_prompt([("user", "a"), ("assistant", "b")]).endswith("<|assistant|>b")


def test_numbers_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="is not a token"):
        token_bytes(9)


def test_embeddings_are_of_length_one_and_follow_from_the_text() -> None:
    vector = embedding("hello", 384)
    assert len(vector) == 384
    assert sum(value * value for value in vector) == pytest.approx(1)
    assert vector == embedding("hello", 384) != embedding("other", 384)
