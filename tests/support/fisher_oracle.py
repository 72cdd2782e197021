"""Per-sample gradients and Fishers the naive way: one sample at a time, explicit weight gradients, float64."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from builders import VOCABULARY
from torch import Tensor

from sst_merge.core_space import CoreSpace
from sst_merge.data_loader.batch import IGNORED, Batch
from sst_merge.lora_utils import LinearKind

Sample = tuple[list[int], int]
"""Token ids, and how many of them are the prompt."""


def random_samples(count: int, *, seed: int = 0, longest: int = 9) -> list[Sample]:
    """Sequences of different lengths with prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        length = int(torch.randint(4, longest + 1, (1,), generator=generator))
        prompt = int(torch.randint(1, length - 1, (1,), generator=generator))
        samples.append((torch.randint(0, VOCABULARY, (length,), generator=generator).tolist(), prompt))
    return samples


def pad(samples: Sequence[Sample], *, side: str = "right") -> Batch:
    """One padded batch."""
    width = max(len(ids) for ids, _ in samples)
    rows: dict[str, list[list[int]]] = {"ids": [], "mask": [], "labels": []}
    for ids, prompt in samples:
        gap = width - len(ids)
        for key, values, fill in (
            ("ids", ids, 7),
            ("mask", [1] * len(ids), 0),
            ("labels", [IGNORED] * prompt + ids[prompt:], IGNORED),
        ):
            padding = [fill] * gap
            rows[key].append(values + padding if side == "right" else padding + values)
    return Batch(torch.tensor(rows["ids"]), torch.tensor(rows["mask"]), torch.tensor(rows["labels"]))


def batched(samples: Sequence[Sample], size: int, *, side: str = "right") -> list[Batch]:
    """Padded batches of at most ``size``."""
    return [pad(samples[i : i + size], side=side) for i in range(0, len(samples), size)]


def with_update(model: Any, spaces: Mapping[str, CoreSpace], cores: Mapping[str, Tensor]) -> Any:
    """A copy of the model with ΔW = U M Vᵀ added to its weights (and biases) by hand."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, core in cores.items():
            space, module = spaces[name], changed.get_submodule(name)
            delta = (space.left @ core @ space.right.T).to(module.weight.dtype)
            weight = delta[:, : space.d_in]
            module.weight += weight if space.kind == LinearKind() else weight.T
            if space.bias:
                module.bias += delta[:, -1]
    return changed


def project(module: Any, space: CoreSpace) -> Tensor:
    """Uᵀ ∇ V from a module's weight gradient, (p, q)."""
    gradient = module.weight.grad if space.kind == LinearKind() else module.weight.grad.T
    if space.bias:
        gradient = torch.cat([gradient, module.bias.grad[:, None]], dim=1)
    return space.left.T @ gradient.to(space.left.dtype) @ space.right


def gradients_of(
    model: Any, spaces: Mapping[str, CoreSpace], ids: list[int], targets: dict[int, int]
) -> dict[str, Tensor]:
    """∇_M of Σ log p(token at position = target | what precedes it), one sequence, no padding."""
    model.zero_grad(set_to_none=True)
    logs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    torch.stack([logs[position - 1, target] for position, target in targets.items()]).sum().backward()
    return {name: project(model.get_submodule(name), space) for name, space in spaces.items()}


def sample_gradients(
    model: Any,
    spaces: Mapping[str, CoreSpace],
    samples: Sequence[Sample],
    cores: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Every sample's gradient, module → (N, p, q)."""
    moved = with_update(model, spaces, cores or {}).requires_grad_(True)
    rows = [
        gradients_of(moved, spaces, ids, {position: ids[position] for position in range(prompt, len(ids))})
        for ids, prompt in samples
    ]
    return {name: torch.stack([row[name] for row in rows]) for name in spaces}


def dense_fisher(rows: Tensor) -> Tensor:
    """(1/N) Σ vec(g) vec(g)ᵀ."""
    flat = rows.flatten(1)
    return sum((torch.outer(g, g) for g in flat), torch.zeros(flat.shape[1], flat.shape[1], dtype=flat.dtype)) / len(
        flat
    )


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found - expected).norm() / expected.norm())
