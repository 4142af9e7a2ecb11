"""The scanner of streams: any split of the bytes gives what the whole gives."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.sse import StreamScanner, usage_in_answer
from cloudcrest.kernel.usage import Usage
from tests.support.gateway_cloud import COMPLETION, chunk_event, usage

USAGE_EVENT = chunk_event(choices=[], usage=usage(5, 7, 3))
DONE = b"data: [DONE]\n\n"

events = st.lists(
    st.one_of(
        st.text(max_size=20).map(chunk_event),
        st.sampled_from([
            chunk_event(),
            b": ping\n\n",
            b"\n\n",
            chunk_event('{"usage":{"prompt_tokens":1}}'),
            chunk_event("x", usage=None),
            chunk_event("x").replace(b"\n\n", b"\r\n\r\n"),
            b'data: {"usage": broken\n\n',
            USAGE_EVENT,
            DONE,
        ]),
    ),
    max_size=12,
)  # fmt: skip


def scan(pieces: list[bytes], *, passes_usage: bool) -> tuple[bytes, Usage | None, bool]:
    scanner = StreamScanner(passes_usage=passes_usage)
    out = b"".join([scanner.feed(piece) for piece in pieces]) + scanner.end()
    return out, scanner.usage, scanner.is_finished


@given(events=events, tail=st.binary(max_size=5), cuts=st.lists(st.integers(0, 3_000)), passes_usage=st.booleans())
def test_any_split_gives_what_the_whole_gives(
    events: list[bytes], tail: bytes, cuts: list[int], passes_usage: bool
) -> None:
    data = b"".join(events) + tail
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    whole = scan([data], passes_usage=passes_usage)
    assert scan(pieces, passes_usage=passes_usage) == whole
    assert scan([data[i : i + 1] for i in range(len(data))], passes_usage=passes_usage) == whole


def test_the_usage_chunk_is_kept_back_unless_it_was_asked_for() -> None:
    data = chunk_event() + chunk_event("hi") + USAGE_EVENT + DONE
    assert scan([data], passes_usage=True) == (data, Usage(5, 7, 3), True)
    assert scan([data], passes_usage=False) == (data.replace(USAGE_EVENT, b""), Usage(5, 7, 3), True)


def test_text_that_talks_about_usage_is_no_usage() -> None:
    event = chunk_event('"usage":{"prompt_tokens":999,"completion_tokens":999}') + chunk_event('"error": "x", [DONE]')
    assert scan([event], passes_usage=False) == (event, None, False)


def test_usage_beside_choices_is_taken_out_unless_it_was_asked_for() -> None:
    event = chunk_event("hi", usage=usage(5, 7))
    assert scan([event], passes_usage=True) == (event, Usage(5, 7), False)
    assert scan([event], passes_usage=False) == (chunk_event("hi"), Usage(5, 7), False)


def test_an_event_that_is_no_utf_8_goes_on_as_it_is() -> None:
    event = chunk_event("hi", usage=usage(5, 7)).replace(b'"object"', b'"\xff"')
    assert scan([event], passes_usage=False) == (event, Usage(5, 7), False)


def test_an_engines_error_event_is_kept_back() -> None:
    scanner = StreamScanner(passes_usage=True)
    kept = scanner.feed(chunk_event("hi") + b'data: {"error":{"code":500,"message":"boom"}}\n\n')
    assert kept == chunk_event("hi")
    assert scanner.error is not None
    assert b"boom" in scanner.error


def test_an_event_without_an_end_is_not_gathered_for_ever() -> None:
    scanner = StreamScanner(passes_usage=True)
    for _ in range(6):
        scanner.feed(b"x" * 1024 * 1024)
    assert scanner.error is not None


@pytest.mark.parametrize("indent", [None, 2])
def test_the_usage_of_a_whole_answer(indent: int | None) -> None:
    answer = COMPLETION | {"usage": usage(5, 7, 3), "timings": {"usage_ms": 1}}
    assert usage_in_answer(json.dumps(answer, indent=indent).encode()) == Usage(5, 7, 3)
    tricky = COMPLETION | {"choices": [{"message": {"content": '"usage":{"prompt_tokens":9}', "name": "usage"}}]}
    assert usage_in_answer(json.dumps(tricky).encode()) == Usage(5, 7)


def test_a_count_beyond_belief_is_none() -> None:
    absurd = {"prompt_tokens": 5, "completion_tokens": 10**13}
    assert usage_in_answer(json.dumps({"usage": absurd}).encode()) is None
    scanner = StreamScanner(passes_usage=True)
    scanner.feed(chunk_event(choices=[], usage=absurd) + DONE)
    assert scanner.usage is None


@pytest.mark.parametrize("body", [b"", b"{}", b'{"usage":null}', b'{"usage":{"prompt_tokens":"x"}}', b'"usage":{{'])
def test_an_answer_without_usage_has_none(body: bytes) -> None:
    assert usage_in_answer(body) is None


def test_counts_that_make_no_sense_are_bounded() -> None:
    assert usage_in_answer(json.dumps({"usage": usage(-5, 7, 90)}).encode()) == Usage(0, 7, 0)


@pytest.mark.parametrize(
    ("fields", "cached", "written"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 2}}, 7, 2),
        ({"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 9}}, 0, 9),
        ({"prompt_tokens_details": {"cache_creation_tokens": 3}}, 0, 3),
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}, 4, 0),
        ({"prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 50}}, 8, 2),
        ({"cached_tokens": 6}, 6, 0),
        ({"cache_read_input_tokens": 5, "cache_creation_input_tokens": 2}, 5, 2),
        ({"prompt_tokens_details": {"cached_tokens": 1}, "cache_creation_input_tokens": 2}, 1, 2),
    ],
)
def test_what_caches_did_is_read_under_the_names_in_use(fields: dict[str, object], cached: int, written: int) -> None:
    usage = usage_in_answer(json.dumps({"usage": {"prompt_tokens": 10, "completion_tokens": 1, **fields}}).encode())
    assert usage == Usage(10, 1, cached, cache_write_tokens=written)
