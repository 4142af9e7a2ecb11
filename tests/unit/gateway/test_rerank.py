"""Ranking documents: what engines are asked, and what becomes of their answers."""

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.validate import check_engine, forwarded_fields, parse
from cloudcrest.kernel.errors import InvalidInput
from tests.support.gateway_cloud import route_document

QUESTION = {"model": "m", "query": "cat", "documents": ["a cat", {"text": "a dog"}, "a cat and a dog"]}


def parsed(**changes: Any) -> Parsed:
    return parse("/v1/rerank", json.dumps({**QUESTION, **changes}).encode())


def asked(question: Parsed, task: str) -> dict[str, Any]:
    route = route_document(task=task)
    check_engine(question, route)
    return {name: json.loads(raw) for name, raw in forwarded_fields(question, route).items()}


def answered(question: Parsed, engine_said: dict[str, Any]) -> dict[str, Any]:
    assert question.outlet is not None
    answer: dict[str, Any] = json.loads(question.outlet("req_1").answer(json.dumps(engine_said).encode()))
    return answer


def test_a_reranker_is_asked_for_the_score_of_each() -> None:
    question = parsed(top_n=1, return_documents=True, user="u")
    documents = ["a cat", "a dog", "a cat and a dog"]
    assert asked(question, "rerank") == {"model": "m", "query": "cat", "documents": documents, "top_n": 3}
    assert question.endpoint == "/v1/rerank"


def test_a_model_for_embeddings_is_asked_for_vectors() -> None:
    question = parsed()
    texts = ["cat", "a cat", "a dog", "a cat and a dog"]
    assert asked(question, "embedding") == {"model": "m", "input": texts, "encoding_format": "base64"}
    assert question.endpoint == "/v1/embeddings"
    assert asked(question, "rerank")["query"] == "cat"  # a fallback may be of another task
    assert question.endpoint == "/v1/rerank"


def test_a_model_for_chats_is_not_asked() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_engine(parsed(), route_document())
    assert caught.value.param == "model"


def test_the_query_counts_with_each_document() -> None:
    short = parsed(documents=["x"] * 2).size_bytes
    assert parsed(documents=["x"] * 3).size_bytes - short > len("cat")
    long_query = parsed(query="q" * 1003).size_bytes - parsed(query="q" * 3).size_bytes
    assert long_query == 1000 * (1 + len(QUESTION["documents"]))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 1001}, "documents"),
        ({"documents": ["x", ""]}, "documents[1]"),
        ({"documents": [{"title": "x"}]}, "documents[0].title"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 5}, "max_chunks_per_doc"),
        ({"rank_fields": ["x"]}, "rank_fields"),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parsed(**changes)
    assert caught.value.param == path


def test_a_limit_that_cuts_nothing_is_kept() -> None:
    parsed(max_tokens_per_doc=100)


def test_the_best_come_first() -> None:
    said = [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": -3}]
    said += [{"index": 2, "relevance_score": 0.75}]
    question = parsed(top_n=2, return_documents=True)
    assert answered(question, {"results": said, "usage": {"total_tokens": 9}}) == {
        "id": "req_1",
        "object": "list",
        "model": "m",
        "results": [
            {"index": 2, "relevance_score": 0.75, "document": {"text": "a cat and a dog"}},
            {"index": 0, "relevance_score": 0.5, "document": {"text": "a cat"}},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "meta": {"method": "reranker", "tokens": {"input_tokens": 9}},
    }


def test_vectors_are_compared_and_it_says_so() -> None:
    vectors: list[Any] = [[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.0]]
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    answer = answered(parsed(), {"data": data[::-1], "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    assert [result["index"] for result in answer["results"]] == [1, 0, 2]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx([0.5**0.5, 0, -1])
    assert answer["meta"]["method"] == "embedding_cosine"
    assert "cosine" in answer["meta"]["warnings"][0]


@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=4, max_size=4))
def test_vectors_in_base64_are_the_same_vectors(vectors: list[list[float]]) -> None:
    packed = [base64.b64encode(struct.pack("<3f", *vector)).decode() for vector in vectors]
    as_numbers, as_text = (
        answered(parsed(), {"data": [{"index": at, "embedding": each} for at, each in enumerate(given)]})["results"]
        for given in (vectors, packed)
    )
    assert as_numbers == as_text
    assert all(-1.001 <= result["relevance_score"] <= 1.001 for result in as_numbers)


@pytest.mark.parametrize(
    "said",
    [
        {"results": [{"index": 0, "relevance_score": 1}]},
        {"results": [{"index": at, "relevance_score": 1} for at in (0, 1, 7)]},
        {"data": [{"index": 0, "embedding": [1.0]}]},
        {"data": [{"index": at, "embedding": [1.0] * (at + 1)} for at in range(4)]},
        {"data": [{"index": at, "embedding": "***"} for at in range(4)]},
        {"choices": []},
        {},
    ],
)
def test_an_answer_that_is_no_ranking_is_none_here_either(said: dict[str, Any]) -> None:
    assert answered(parsed(), said) == {"message": "the model's engine gave an answer that is no ranking"}
