"""Tiny Llamas in GGUF files, as llama.cpp's own converter writes them."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["GgufModel", "close", "llama_header", "write_gguf_model"]


def llama_header(file: Path, config: Any) -> Any:
    """A writer that has told the sizes of a Llama; tokenizer and tensors are still to come."""
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    return writer


def close(writer: Any) -> None:
    """Write what was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class GgufModel(NamedTuple):
    """A tiny Llama in a GGUF file with its tokenizer, and the same with every weight turned back into a number."""

    file: Path
    plain: Any


def write_gguf_model(model: Any, file: Path, **more: Any) -> Any:
    """Write a Llama as llama.cpp's converter does, in Q8_0 and Q4_0; returns it with the weights that the file holds.

    Args:
        model: with sides that are multiples of 32.
        file: to write.
        more: other fields of the header.
    """
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    config = model.config
    writer = llama_header(file, config)
    tokens = [*sorted(ByteLevel.alphabet()), "<s>", "</s>", "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens + [f"<{i}>" for i in range(config.vocab_size - len(tokens))])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    for name, value in more.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(name.replace("_", "."), value)
    plain = copy.deepcopy(model)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, parameter in plain.named_parameters():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
        rows = parameter.detach().numpy()
        if heads is not None:
            rows = rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        kind = gguf.GGMLQuantizationType["F32" if rows.ndim == 1 else "Q4_0" if "down_proj" in key else "Q8_0"]
        stored = gguf.quantize(rows, kind)
        writer.add_tensor(f"{names.get_name(key.removesuffix('.weight'))}.weight", stored, raw_dtype=kind)
        back = gguf.dequantize(stored, kind)
        if heads is not None:
            back = back.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        parameter.data = torch.from_numpy(back.copy())
    close(writer)
    return plain
