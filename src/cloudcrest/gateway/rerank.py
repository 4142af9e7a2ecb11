"""Ranking documents by a query: what an engine is asked, and the answer as Cohere's and Jina's clients read it. Pure.

A reranker reads the query with each document. Where the model is one for embeddings, query and documents are embedded
in one request instead and a document's score is the cosine of its vector and the query's: `meta.method` says which.
"""

import base64
from typing import Any

import msgspec

from cloudcrest.gateway.fields import RerankBody
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput

RERANK_PATH = "/v1/rerank"
EMBEDDING_PATH = "/v1/embeddings"
PAIR_OVERHEAD_TOKENS = 256
"""What a model's template adds to a query and a document, at most."""
_COSINE = "this is a model for embeddings: relevance_score is the cosine of query and document"


class _Ranked(msgspec.Struct):
    index: int
    relevance_score: float


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float] | str


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _EngineAnswer(msgspec.Struct):
    """A reranker's answer has `results`, that of a model for embeddings `data`."""

    results: list[_Ranked] | None = None
    data: list[_Vector] = []
    usage: _Usage = _Usage()


_answer: msgspec.json.Decoder[_EngineAnswer] = msgspec.json.Decoder(_EngineAnswer)


def texts(body: RerankBody) -> list[str]:
    """The documents' texts."""
    return [document if isinstance(document, str) else document.text for document in body.documents]


def check(body: RerankBody) -> None:
    """Raises `InvalidInput` for what the fields' types cannot say."""
    most = body.max_tokens_per_doc
    for index, text in enumerate(texts(body)):
        if not text:
            raise InvalidInput("is empty", param=f"documents[{index}]")
        # A token is a byte at least, so shorter documents are within any such limit.
        if most is not None and len(text.encode()) > most:
            raise InvalidInput(
                f"documents[{index}] may be longer than that, and documents are not cut here",
                param="max_tokens_per_doc",
                hint="leave it out, or cut the documents",
            )


def size_bytes(body: RerankBody, body_bytes: int) -> int:
    """How much an engine reads of a body of `body_bytes`, at most: the query again with each document."""
    return body_bytes + len(body.documents) * (len(body.query.encode()) + PAIR_OVERHEAD_TOKENS)


def engine_path(task: str) -> str:
    """Where a model for this task is asked."""
    return RERANK_PATH if task == "rerank" else EMBEDDING_PATH


def engine_fields(body: RerankBody, task: str) -> dict[str, bytes]:
    """What it is asked there, beside its name."""
    documents = texts(body)
    if task == "rerank":
        fields: dict[str, Any] = {"query": body.query, "documents": documents, "top_n": len(documents)}
    else:
        fields = {"input": [body.query, *documents], "encoding_format": "base64"}
    return {name: msgspec.json.encode(value) for name, value in fields.items()}


class RerankOutlet:
    """Makes of an engine's answer the one that the caller gets: best first, no more than `top_n`."""

    is_over = False

    def __init__(self, body: RerankBody, request_id: str) -> None:
        self._body = body
        self._id = request_id

    def answer(self, body: bytes) -> bytes:
        try:
            answer = _answer.decode(body)
            scores = self._scores(answer)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return msgspec.json.encode({"message": "the model's engine gave an answer that is no ranking"})
        documents = texts(self._body)
        results: list[dict[str, Any]] = []
        for index in sorted(scores, key=lambda index: (-scores[index], index))[: self._body.top_n]:
            result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
            if self._body.return_documents:
                result["document"] = {"text": documents[index]}
            results.append(result)
        tokens = answer.usage.total_tokens or answer.usage.prompt_tokens
        meta: dict[str, Any] = {"method": "reranker", "tokens": {"input_tokens": tokens}}
        if answer.results is None:
            meta |= {"method": "embedding_cosine", "warnings": [_COSINE]}
        return msgspec.json.encode(
            {
                "id": self._id,
                "object": "list",
                "model": self._body.model,
                "results": results,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "meta": meta,
            }
        )

    def _scores(self, answer: _EngineAnswer) -> dict[int, float]:
        """Each document's score, by its index. Raises `ValueError` for an answer that is none."""
        count = len(self._body.documents)
        if answer.results is not None:
            scores = {result.index: result.relevance_score for result in answer.results}
        else:
            scores = dict(enumerate(_cosines([vector.embedding for vector in sorted(answer.data, key=_index)])))
        if scores.keys() != set(range(count)):
            raise ValueError(f"scores for {len(scores)} of {count} documents")
        return scores

    def events(self, events: bytes) -> bytes:
        """A ranking is no stream."""
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: CloudcrestError) -> bytes:
        return error.message.encode()


def _index(vector: _Vector) -> int:
    return vector.index


def _cosines(vectors: list[list[float] | str]) -> list[float]:
    """Of the first vector with each of the others: lists of numbers, or little-endian floats in base64."""
    import numpy  # a worker that is never asked to rank by vectors does without it

    rows = [
        numpy.array(vector)
        if isinstance(vector, list)
        else numpy.frombuffer(base64.b64decode(vector, validate=True), dtype="<f4")
        for vector in vectors
    ]
    matrix = numpy.stack(rows).astype(numpy.float64)
    lengths = numpy.linalg.norm(matrix, axis=1)
    products = matrix[1:] @ matrix[0]
    cosines: list[float] = (products / numpy.maximum(lengths[1:] * lengths[0], 1e-12)).tolist()
    return cosines
