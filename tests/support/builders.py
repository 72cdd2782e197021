"""Tiny random models of four architectures, PEFT adapters for them, and ΔW added by hand."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sst_merge.lora_utils import Adapter, LoraFactors

VOCABULARY = 37


@dataclass(frozen=True)
class Architecture:
    """What a test has to know about one architecture.

    ``linears`` are suffixes for PEFT's target_modules, ``first_layer`` a regular expression for the names of the
    first block's modules, ``embedding`` and ``head`` full module names.
    """

    linears: tuple[str, ...]
    first_layer: str
    embedding: str
    head: str
    conv1d: bool = False
    biases: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(("q_proj", "v_proj", "down_proj"), r"model\.layers\.0\..*", "model.embed_tokens", "lm_head"),
    "mistral": Architecture(("k_proj", "o_proj", "up_proj"), r"model\.layers\.0\..*", "model.embed_tokens", "lm_head"),
    "gpt2": Architecture(("c_attn", "c_fc"), r"h\.0\..*", "transformer.wte", "lm_head", conv1d=True, biases=True),
    "distilbert": Architecture(
        ("q_lin", "out_lin", "lin1"),
        r"transformer\.layer\.0\..*",
        "distilbert.embeddings.word_embeddings",
        "vocab_projector",
        biases=True,
    ),
}


def tiny_config(architecture: str) -> Any:
    """A transformers configuration with about 20,000 parameters; input and output embeddings are not tied."""
    from transformers import DistilBertConfig, GPT2Config, LlamaConfig, MistralConfig

    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=False
        )
    if architecture == "distilbert":
        return DistilBertConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=32,
            dim=16,
            hidden_dim=24,
            n_layers=2,
            n_heads=2,
            tie_word_embeddings=False,
        )
    kind = {"llama": LlamaConfig, "mistral": MistralConfig}[architecture]
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )


def tiny_model(architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random model in evaluation mode, with biases and weights large enough to matter."""
    from transformers import DistilBertForMaskedLM, GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM

    kinds = {
        "llama": LlamaForCausalLM,
        "mistral": MistralForCausalLM,
        "gpt2": GPT2LMHeadModel,
        "distilbert": DistilBertForMaskedLM,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kinds[architecture](tiny_config(architecture))
    randomise(model, seed=seed, scale=0.3)
    return model.to(dtype).eval()


def randomise(module: nn.Module, *, seed: int, scale: float = 0.3, only: str = "") -> None:
    """Add noise to all parameters whose name contains ``only``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if only in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(scale * noise.to(parameter.dtype))


def peft_model(model: nn.Module, *, seed: int = 0, targets: Sequence[str] | str, **options: Any) -> Any:
    """A copy of ``model`` with a LoRA adapter whose A, B and biases are all random."""
    from peft import LoraConfig, get_peft_model

    options.setdefault("r", 4)
    options.setdefault("lora_alpha", 6)
    wanted = targets if isinstance(targets, str) else list(targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=wanted, **options))
    randomise(adapted, seed=seed, only="lora_")
    return adapted.eval()


def adapter_folder(
    model: nn.Module, folder: Path, *, seed: int = 0, targets: Sequence[str] | str, **options: Any
) -> Path:
    """Save such an adapter the way PEFT does; returns the folder."""
    peft_model(model, seed=seed, targets=targets, **options).save_pretrained(folder)
    return folder


def random_factors(
    d_out: int, d_in: int, rank: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, bias: bool = False
) -> LoraFactors:
    """Factors of a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(d_out, rank, generator=generator, dtype=dtype)
    a = torch.randn(rank, d_in + int(bias), generator=generator, dtype=dtype)
    return LoraFactors(b, a, bias=bias)


def random_adapter(
    shapes: Mapping[str, tuple[int, int]],
    *,
    name: str,
    rank: int = 3,
    seed: int = 0,
    role: Any = "utility",
    weight: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Adapter:
    """An adapter in memory: module name → (d_out, d_in)."""
    factors = {
        module: random_factors(*shape, rank, seed=seed + 1000 * index, dtype=dtype)
        for index, (module, shape) in enumerate(shapes.items())
    }
    return Adapter.from_factors(factors, name=name, role=role, weight=weight)


def add_deltas(model: nn.Module, adapter: Adapter) -> nn.Module:
    """A copy of ``model`` with every ΔW (and bias update) added by hand, in the layers' own orientation."""
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for module in adapter.modules:
            layer = merged.get_submodule(module)
            factors = adapter.factors(module, dtype=torch.float64)
            delta = factors.b @ factors.a[:, : factors.d_in]
            layer.weight += (delta if isinstance(layer, nn.Linear) else delta.T).to(layer.weight.dtype)
            if factors.bias:
                shift = (factors.b @ factors.a[:, -1]).to(layer.weight.dtype)
                layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift)
    return merged


def logits(model: nn.Module, *, seed: int = 0) -> Tensor:
    """Logits of random tokens, (2, 9, vocabulary)."""
    tokens = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=tokens).logits


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())
