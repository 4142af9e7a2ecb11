"""Moonshine (https://arxiv.org/abs/2410.15608) through ONNX Runtime: an encoder over raw samples, a decoder by tokens.

A model's folder holds `encoder_model.ort`, `decoder_model_merged.ort` and `tokenizer.bin`. Greedy: the likeliest token.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cloudcrest.serving.engines.sound import HEARING_RATE, Samples

ENCODER, DECODER, TOKENIZER = "encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"
_BEGIN, _END = 1, 2
_TOKENS_PER_SECOND = 6.5
"""Nobody speaks faster: what goes on beyond that repeats itself (the paper's section 3.2)."""
_LEAST_SAMPLES = HEARING_RATE // 2
_HEADS_AT, _WIDTH_AT = 1, 3


class Heard(msgspec.Struct, frozen=True):
    """What a piece of speech says. `logprob`: the mean over its tokens, 0 where there are none."""

    text: str
    tokens: tuple[int, ...]
    logprob: float


class MoonshineModel:
    """One model, loaded; may be asked from several threads at once."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        load = onnxruntime.InferenceSession
        self._encoder: Any = load(str(folder / ENCODER), options, providers=["CPUExecutionProvider"])
        self._decoder: Any = load(str(folder / DECODER), options, providers=["CPUExecutionProvider"])
        self._words = read_tokenizer((folder / TOKENIZER).read_bytes())
        self._outputs = [output.name for output in self._decoder.get_outputs()][1:]
        self._nothing: dict[str, Any] = {
            each.name: np.zeros((1, each.shape[_HEADS_AT], 0, each.shape[_WIDTH_AT]), np.float32)
            for each in self._decoder.get_inputs()
            if each.name.startswith("past_key_values.")
        }

    def hear(self, samples: Samples, is_cancelled: Callable[[], bool]) -> Heard:
        """What is said in up to half a minute of speech. Cancelled, what was heard until then."""
        if len(samples) < _LEAST_SAMPLES:
            samples = np.pad(samples, (0, _LEAST_SAMPLES - len(samples)))
        mask = np.ones((1, len(samples)), np.int64)
        given = {"input_values": samples[None, :].astype(np.float32), "attention_mask": mask}
        [states] = self._encoder.run(None, given)
        fixed = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        past = self._nothing
        tokens: list[int] = []
        logprobs: list[float] = []
        token = _BEGIN
        for _ in range(int(len(samples) / HEARING_RATE * _TOKENS_PER_SECOND) + 1):
            if is_cancelled():
                break
            step = {
                "input_ids": np.array([[token]], np.int64),
                "use_cache_branch": np.array([past is not self._nothing]),
            }
            logits, *present = self._decoder.run(None, {**fixed, **step, **past})
            past = self._kept(past, present)
            row = logits[0, -1]
            token = int(row.argmax())
            if token == _END:
                break
            tokens.append(token)
            logprobs.append(_logprob(row, token))
        mean = float(np.mean(logprobs)) if logprobs else 0.0
        return Heard(self._text(tokens), tuple(tokens), round(mean, 4))

    def _kept(self, past: dict[str, Any], present: list[Any]) -> dict[str, Any]:
        """The keys and values for the next token; those of the encoder are made by the first step alone."""
        is_first = past is self._nothing
        kept = dict(past)
        for name, value in zip(self._outputs, present, strict=True):
            if is_first or ".encoder." not in name:
                kept[name.replace("present", "past_key_values", 1)] = value
        return kept

    def _text(self, tokens: list[int]) -> str:
        return b"".join(self._words[token] for token in tokens).decode("utf-8", "replace").replace("▁", " ").strip()


def read_tokenizer(data: bytes) -> list[bytes]:
    """The words by token: each after its length, in one byte or, from 128 on, in two."""
    words: list[bytes] = []
    at = 0
    while at < len(data):
        size, at = data[at], at + 1
        if size >= 128:
            size, at = size - 128 + 128 * data[at], at + 1
        words.append(data[at : at + size])
        at += size
    return words


def _logprob(row: Any, token: int) -> float:
    most = float(row.max())
    return float(row[token]) - most - float(np.log(np.exp(row - most).sum()))
