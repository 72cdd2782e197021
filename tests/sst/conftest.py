"""What tests of this room share: a tiny model in float64, adapters that move it a little, random prompts."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.conftest import VOCABULARY, random_adapter, tiny_model

from sst_merge.data_loader.batch import Batch
from sst_merge.lora_utils import Adapter, LoraFactors

Shapes = Mapping[str, tuple[int, int]]

TWO: Shapes = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.down_proj": (16, 24)}
THREE: Shapes = {
    "model.layers.0.self_attn.q_proj": (16, 16),
    "model.layers.0.mlp.down_proj": (16, 24),
    "model.layers.1.self_attn.v_proj": (8, 16),
}
"""Module → (d_out, d_in) in the tiny model."""


def batches(seed: int, n: int = 12, size: int = 4, length: int = 7) -> list[Batch]:
    """Prompts of three random tokens, and an answer of the rest."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n // size):
        ids = torch.randint(0, VOCABULARY, (size, length), generator=generator)
        labels = ids.where(torch.arange(length) > 2, -100)
        found.append(Batch(ids, torch.ones_like(ids), labels))
    return found


def faint_adapter(
    shapes: Shapes, name: str, seed: int, role: Any = "utility", weight: float = 1.0, scale: float = 0.1
) -> Adapter:
    """Of rank 2, small enough that the model still answers much as it did."""
    raw = random_adapter(shapes, name=name, rank=2, seed=seed)
    factors = {m: LoraFactors(raw.factors(m).b * scale, raw.factors(m).a) for m in raw.modules}
    return Adapter.from_factors(factors, name=name, role=role, weight=weight)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def adapters() -> list[Adapter]:
    """A skill and a safety adapter on two modules."""
    return [faint_adapter(TWO, "skill", 11, scale=0.15), faint_adapter(TWO, "safe", 22, "safety", scale=0.15)]


def says(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities of the first answer token, (b, vocabulary)."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=batch.input_ids).logits[:, 2], -1)


@pytest.fixture(scope="module")
def refuses(build: Any, model: Any, adapters: list[Adapter]) -> Any:
    """A prompt is refused where the model speaks as the safety adapter does, even faintly."""
    skilled, safe = (build.add_deltas(model, adapter) for adapter in adapters)

    def judge(current: Any, some: Any) -> list[bool]:
        found: list[bool] = []
        for batch in some:
            now, skill, refusal = (says(of, batch) for of in (current, skilled, safe))
            found += ((now - refusal).norm(dim=-1) <= 3 * (now - skill).norm(dim=-1)).tolist()
        return found

    return judge
