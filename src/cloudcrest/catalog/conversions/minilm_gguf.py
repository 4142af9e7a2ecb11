"""all-MiniLM-L6-v2 (a BERT with mean pooling) from safetensors to GGUF with gguf and numpy alone, no torch.

Input: a folder with config.json, vocab.txt and model.safetensors. Weights are kept as float16; what llama.cpp wants
in float32 (one-dimensional tensors and the position and token-type embeddings) stays float32. The layout follows
llama.cpp's `convert_hf_to_gguf.py` (class BertModel).
"""

import sys
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from safetensors.numpy import load_file

_WORD_START = "\u2581"


class _Config(msgspec.Struct):
    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float
    type_vocab_size: int


def convert(inputs: Path, output: Path) -> None:
    """Writes the GGUF file. Raises `ValueError` for tensors that BERT does not have."""
    config = msgspec.json.decode((inputs / "config.json").read_bytes(), type=_Config)
    writer = gguf.GGUFWriter(str(output), "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, inputs / "vocab.txt", config.type_vocab_size)
    _add_tensors(writer, inputs / "model.safetensors", config.num_hidden_layers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, vocabulary_file: Path, token_types: int) -> None:
    """WordPiece as llama.cpp wants it: `##` pieces bare, word starts marked."""
    # Not splitlines(): a piece may be one of Unicode's other line separators.
    vocabulary = vocabulary_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pieces = [_piece(token) for token in vocabulary]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(token_types)
    writer.add_token_list([text.encode() for text, _ in pieces])
    writer.add_token_types([kind for _, kind in pieces])
    numbers = {token: number for number, token in enumerate(vocabulary)}
    writer.add_unk_token_id(numbers["[UNK]"])
    writer.add_sep_token_id(numbers["[SEP]"])
    writer.add_pad_token_id(numbers["[PAD]"])
    writer.add_mask_token_id(numbers["[MASK]"])
    writer.add_bos_token_id(numbers["[CLS]"])
    writer.add_eos_token_id(numbers["[SEP]"])


def _piece(token: str) -> tuple[str, Any]:
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        return token, gguf.TokenType.UNUSED if token.startswith("[unused") else gguf.TokenType.CONTROL
    if token.startswith("##"):
        return token[2:], gguf.TokenType.NORMAL
    return _WORD_START + token, gguf.TokenType.NORMAL


def _add_tensors(writer: Any, weights_file: Path, layers: int) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    for name, tensor in load_file(weights_file).items():
        # The pooler is another head than the mean that this model is trained for.
        if "position_ids" in name or "pooler" in name:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ValueError(f"BERT has no tensor '{name}'")
        exact = tensor.ndim == 1 or "position" in name or "token_type" in name
        writer.add_tensor(target, tensor.astype(np.float32 if exact else np.float16))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
