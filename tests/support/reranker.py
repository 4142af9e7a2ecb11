"""A reranker for llama.cpp: a BERT of one layer with a head of one score, its weights by chance but always the same."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

_HIDDEN, _INNER, _CONTEXT = 32, 64, 512
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = "the a cat dog sun moon rain bread sits shines falls on in of what where is"
_WORD_START = "\u2581"


def write_reranker(path: Path) -> Path:
    """Writes the GGUF file."""
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_name("tiny-reranker")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_INNER)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    tokens = [*_SPECIAL, *(_WORD_START + word for word in _WORDS.split())]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list([token.encode() for token in tokens])
    kinds = [gguf.TokenType.CONTROL if token in _SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    for name, tensor in _tensors(len(tokens)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(tokens: int) -> dict[str, Any]:
    random = np.random.default_rng(7)

    def by_chance(*shape: int) -> Any:
        return random.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "token_embd.weight": by_chance(tokens, _HIDDEN),
        "token_types.weight": by_chance(2, _HIDDEN),
        "position_embd.weight": by_chance(_CONTEXT, _HIDDEN),
        "cls.weight": by_chance(_HIDDEN, _HIDDEN),
        "cls.bias": by_chance(_HIDDEN),
        "cls.output.weight": by_chance(1, _HIDDEN),
        "cls.output.bias": by_chance(1),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        tensors |= {f"{norm}.weight": np.ones(_HIDDEN, np.float32), f"{norm}.bias": np.zeros(_HIDDEN, np.float32)}
    shapes = {"attn_q": (_HIDDEN, _HIDDEN), "attn_k": (_HIDDEN, _HIDDEN), "attn_v": (_HIDDEN, _HIDDEN)}
    shapes |= {"attn_output": (_HIDDEN, _HIDDEN), "ffn_up": (_INNER, _HIDDEN), "ffn_down": (_HIDDEN, _INNER)}
    for name, shape in shapes.items():
        tensors |= {f"blk.0.{name}.weight": by_chance(*shape), f"blk.0.{name}.bias": by_chance(shape[0])}
    return tensors
