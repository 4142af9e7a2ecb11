"""What the simulated engine says: a tokenizer that loses nothing, and text that follows from the tokens before it.

The next token is a hash of everything before it, so a generation continued from any cut gives exactly the tokens that
the uninterrupted one would have given: what resuming a stream on another replica relies on.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

USER, ASSISTANT, SYSTEM, END = 1, 2, 3, 4
_SPECIAL_TEXTS = {USER: b"<|user|>", ASSISTANT: b"<|assistant|>", SYSTEM: b"<|system|>", END: b"<|end|>"}
_SPECIAL_IDS = {text: token for token, text in _SPECIAL_TEXTS.items()}
_SPECIAL = rb"<\|(?:user|assistant|system|end)\|>"
_PIECES = re.compile(_SPECIAL + rb"| ?(?:(?!" + _SPECIAL + rb")[^ \n]){1,5}|[ \n]")
_LETTERS = b"aeioubcdfghlmnprstvw"
_LENGTH_SHIFT = 48
"""A piece is at most 6 bytes: its id is its length above its bytes, which stays within the integers of JSON (2**53)."""


def tokenize(text: str) -> list[int]:
    """Pieces of at most 6 bytes: an optional space and up to 5 other bytes; about 4 characters of English each."""
    return [_token_id(piece) for piece in _PIECES.findall(text.encode())]


def token_bytes(token: int) -> bytes:
    """The bytes of one token. Raises `ValueError` for a number that is none."""
    special = _SPECIAL_TEXTS.get(token)
    if special is not None:
        return special
    length = token >> _LENGTH_SHIFT
    if not 1 <= length <= 6:
        raise ValueError(f"{token} is not a token")
    return (token & ((1 << _LENGTH_SHIFT) - 1)).to_bytes(6, "big")[6 - length :]


def detokenize(tokens: Sequence[int]) -> str:
    """The text of the tokens; bytes that are no UTF-8 are replaced."""
    return b"".join(token_bytes(token) for token in tokens).decode(errors="replace")


def chat_prompt(messages: Sequence[tuple[str, str]]) -> str:
    """The prompt of (role, text) messages. A last message of the assistant is left open, to be continued."""
    roles = {"assistant": "<|assistant|>", "system": "<|system|>", "developer": "<|system|>"}
    parts = [f"{roles.get(role, '<|user|>')}{text}<|end|>" for role, text in messages]
    if messages and messages[-1][0] == "assistant":
        return "".join(parts).removesuffix("<|end|>")
    return "".join(parts) + "<|assistant|>"


def generate(prompt: Sequence[int], *, answer_tokens: int, seed: int = 0) -> Iterator[int]:
    """The tokens that follow `prompt`, until the answer is over.

    A chat answer (the prompt has an assistant marker) is `answer_tokens` long, counted from that marker; other text
    ends by chance, once in `answer_tokens` tokens. `seed` tells the choices of one request apart.
    """
    state = hashlib.blake2b(seed.to_bytes(8, "big", signed=True), digest_size=16).digest()
    said: int | None = None
    for token in prompt:
        state = _advance(state, token)
        said = 0 if token == ASSISTANT else None if said is None else said + 1
    while True:
        number = int.from_bytes(state[:8], "big")
        if (said >= answer_tokens) if said is not None else (number >> 40) % answer_tokens == 0:
            return
        token = _word(number)
        yield token
        state = _advance(state, token)
        said = None if said is None else said + 1


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that follows from the text."""
    digest = hashlib.shake_256(text.encode()).digest(dimensions * 2)
    values = [int.from_bytes(digest[i : i + 2], "big") / 32768 - 1 for i in range(0, dimensions * 2, 2)]
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / norm for value in values]


def relevance(query: str, document: str) -> float:
    """The share of the query's words that a document has, whatever their case."""
    words = set(query.lower().split())
    return len(words & set(document.lower().split())) / len(words) if words else 0.0


def _token_id(piece: bytes) -> int:
    special = _SPECIAL_IDS.get(piece)
    return special if special is not None else (len(piece) << _LENGTH_SHIFT) | int.from_bytes(piece, "big")


def _advance(state: bytes, token: int) -> bytes:
    return hashlib.blake2b(state + token.to_bytes(8, "big"), digest_size=16).digest()


def _word(number: int) -> int:
    """A space and 2 to 5 letters, vowels and consonants in turn."""
    length = 2 + number % 4
    number //= 4
    piece = bytearray(b" ")
    for place in range(length):
        number, letter = divmod(number, 5 if place % 2 else 15)
        piece.append(_LETTERS[letter if place % 2 else 5 + letter])
    return _token_id(bytes(piece))
