"""What both scripts of this folder compute on: random models, adapters and tokens of given shapes, and plain passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sst_merge.data_loader.batch import Batch
from sst_merge.lora_utils import Adapter, LoraFactors

__all__ = ["Shape", "forward", "plain", "random_adapter", "random_batches", "random_model"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama.

    Attributes:
        name: on the page.
        hidden: hidden size.
        inner: of the feed-forward part.
        layers: how many.
        heads: of attention.
        key_heads: of keys and values.
        vocabulary: tokens.
    """

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """All linear layers but the output layer: name → (d_out, d_in)."""
        keys = self.hidden // self.heads * self.key_heads
        sizes = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }
        return {f"model.layers.{i}.{name}": size for i in range(self.layers) for name, size in sizes.items()}

    @property
    def parameters(self) -> int:
        """Numbers of all linear layers, of the embedding and of the output layer."""
        return sum(out * into for out, into in self.modules.values()) + 2 * self.vocabulary * self.hidden


def random_model(shape: Shape, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A Llama with random weights, made where it computes.

    Args:
        shape: its sizes.
        device: where.
        dtype: of its weights.

    Returns:
        The model, frozen.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.to(dtype).eval().requires_grad_(False)


def random_adapter(
    modules: Mapping[str, tuple[int, int]], rank: int, *, seed: int, role: str = "utility", device: str = "cpu"
) -> Adapter:
    """An adapter with normally distributed factors: the flattest spectra there are.

    Args:
        modules: name → (d_out, d_in).
        rank: of every module.
        seed: of the factors, also part of its name.
        role: ``utility`` or ``safety``.
        device: where it is drawn; it is kept on the CPU, as one that was read.

    Returns:
        The adapter.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return (0.02 * torch.randn(*size, generator=generator, device=device)).cpu()

    factors = {name: LoraFactors(normal(out, rank), normal(rank, into)) for name, (out, into) in modules.items()}
    return Adapter.from_factors(factors, name=f"{role}{seed}", role=role)


def random_batches(vocabulary: int, *, samples: int, tokens: int, batch: int, seed: int = 0) -> list[Batch]:
    """Random tokens of which the last quarter are answers.

    Args:
        vocabulary: to draw from.
        samples: how many.
        tokens: of each.
        batch: samples in a pass.
        seed: of the tokens.

    Returns:
        The batches, on the CPU.
    """
    ids = torch.randint(0, vocabulary, (samples, tokens), generator=torch.Generator().manual_seed(seed))
    labels = ids.where(torch.arange(tokens) >= tokens - tokens // 4, -100)
    rows = [slice(i, i + batch) for i in range(0, samples, batch)]
    return [Batch(ids[row], torch.ones_like(ids[row]), labels[row]) for row in rows]


def plain(model: Any, batches: Sequence[Batch]) -> None:
    """Forward pass with the logits of every position, and backward pass to the output of the embedding."""
    for batch in batches:
        moved = batch.to(model.device)
        inputs = model.get_input_embeddings()(moved.input_ids).requires_grad_(True)
        logits = model(inputs_embeds=inputs, attention_mask=moved.attention_mask, use_cache=False).logits
        torch.autograd.grad(_log_likelihood(logits, moved), inputs)


def training(model: Any, batches: Sequence[Batch]) -> None:
    """Forward pass with the logits of every position, and backward pass to all weights: what ``backward()`` takes."""
    weights = [weight.requires_grad_(True) for weight in model.parameters()]
    try:
        for batch in batches:
            moved = batch.to(model.device)
            logits = model(moved.input_ids, attention_mask=moved.attention_mask, use_cache=False).logits
            torch.autograd.grad(_log_likelihood(logits, moved), weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@torch.no_grad()
def forward(model: Any, batches: Sequence[Batch]) -> None:
    """Forward pass with the logits of every position, and the log-likelihood of the answers."""
    for batch in batches:
        moved = batch.to(model.device)
        logits = model(moved.input_ids, attention_mask=moved.attention_mask, use_cache=False).logits
        _log_likelihood(logits, moved)


def _log_likelihood(logits: Tensor, batch: Batch) -> Tensor:
    return -torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), reduction="sum"
    )
