"""The two Fishers of a merge, taken at a point that the adapters' roles decide (design, section 3)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from .capture import CoreModel
from .defaults import ESTIMATOR, POINT, STRUCTURE, TRUST_BUDGET, Estimator, Point
from .estimate import Progress, compute_fim
from .expansion_point import trust_region_share
from .fisher import Fisher
from .points import LowRankUpdates, build_spaces
from .role_patches import point_settings, role_patches

__all__ = ["compute_fim_benign", "compute_fim_harm", "lora_gradient_variance_approximation"]


def compute_fim_harm(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Iterable[Batch],
    *,
    benign: Sequence[Batch] = (),
    structure: str = STRUCTURE,
    estimator: Estimator = ESTIMATOR,
    point: Point = POINT,
    trust_budget: float = TRUST_BUDGET,
    spaces: Mapping[str, CoreSpace] | None = None,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """F_harm: how strongly a direction moves log p(refusal | harmful prompt).

    Args:
        model: the base model.
        adapters: all adapters of the merge, with their roles; they span the core space.
        batches: harmful prompts with refusals as response.
        benign: benign prompts with good answers, on which the point ``trust`` is measured; other points need none.
        structure: see :func:`~.estimate.compute_fim`.
        estimator: see :func:`~.estimate.compute_fim`.
        point: ``trust``, ``merged``, ``own`` (the safety adapters' sum) or ``base``; see
            :meth:`~.role_patches.RolePatches.point`.
        trust_budget: how far ``trust`` may lie from the skilled model, nats per benign answer token.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        generator: see :func:`~.estimate.compute_fim`.
        modules: see :func:`~.estimate.compute_fim`.
        progress: see :func:`~.estimate.compute_fim`.

    Returns:
        The statistics.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, compute_fim_harm
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> fisher = compute_fim_harm(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> fisher.samples, fisher.structure, fisher.trace() > 0
        (8, 'diagonal', True)
    """
    spaces = build_spaces(adapters) if spaces is None else spaces
    cores, settings = _point(model, adapters, spaces, point, "safety", benign, trust_budget)
    found = compute_fim(
        model,
        spaces,
        batches,
        point=cores,
        structure=structure,
        estimator=estimator,
        generator=generator,
        modules=modules,
        progress=progress,
    )
    return replace(found, settings=settings)


def compute_fim_benign(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Sequence[Batch],
    *,
    benign: Sequence[Batch] = (),
    structure: str = STRUCTURE,
    estimator: Estimator = ESTIMATOR,
    point: Point = POINT,
    trust_budget: float = TRUST_BUDGET,
    spaces: Mapping[str, CoreSpace] | None = None,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Fisher:
    """F_benign: what moving in a direction costs on benign prompts (second order of the KL divergence).

    Args:
        model: the base model.
        adapters: all adapters of the merge, with their roles; they span the core space.
        batches: benign prompts with good answers as response.
        benign: other benign prompts, on which the point ``trust`` is measured; ``batches`` by default.
        structure: see :func:`~.estimate.compute_fim`.
        estimator: see :func:`~.estimate.compute_fim`.
        point: ``trust``, ``merged``, ``own`` (the utility adapters' sum) or ``base``; see
            :meth:`~.role_patches.RolePatches.point`.
        trust_budget: how far ``trust`` may lie from the skilled model, nats per benign answer token.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        generator: see :func:`~.estimate.compute_fim`.
        modules: see :func:`~.estimate.compute_fim`.
        progress: see :func:`~.estimate.compute_fim`.

    Returns:
        The statistics.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, compute_fim_benign
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> fisher = compute_fim_benign(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> fisher.samples, fisher.structure, fisher.trace() > 0
        (8, 'diagonal', True)
    """
    spaces = build_spaces(adapters) if spaces is None else spaces
    cores, settings = _point(model, adapters, spaces, point, "utility", benign or batches, trust_budget)
    found = compute_fim(
        model,
        spaces,
        batches,
        point=cores,
        structure=structure,
        estimator=estimator,
        generator=generator,
        modules=modules,
        progress=progress,
    )
    return replace(found, settings=settings)


def lora_gradient_variance_approximation(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    batches: Sequence[Batch],
    *,
    benign: Sequence[Batch] = (),
    estimator: Estimator = ESTIMATOR,
    point: Point = POINT,
    trust_budget: float = TRUST_BUDGET,
    own_role: str = "utility",
    spaces: Mapping[str, CoreSpace] | None = None,
    generator: torch.Generator | None = None,
    modules: Collection[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The cheapest Fisher: E[g²] - E[g]², the variance of the per-sample gradient, entry by entry.

    Args:
        model: the base model.
        adapters: all adapters of the merge, with their roles.
        batches: prompts with responses.
        benign: benign prompts with good answers, on which the point ``trust`` is measured; ``batches`` by default,
            where ``own_role`` is ``utility``.
        estimator: see :func:`~.estimate.compute_fim`.
        point: ``trust``, ``merged``, ``own`` (adapters of ``own_role``) or ``base``.
        trust_budget: how far ``trust`` may lie from the skilled model, nats per benign answer token.
        own_role: whose data ``batches`` are: ``utility`` or ``safety``.
        spaces: from :func:`~.points.build_spaces`, if they exist already.
        generator: see :func:`~.estimate.compute_fim`.
        modules: see :func:`~.estimate.compute_fim`.
        progress: see :func:`~.estimate.compute_fim`.

    Returns:
        Module name to variance, (p, q), float64.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors, lora_gradient_variance_approximation
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)).eval()
        >>> def adapter(name, role):
        ...     factors = LoraFactors(torch.randn(8, 2), torch.randn(2, 8))
        ...     return Adapter.from_factors({"model.layers.0.mlp.up_proj": factors}, name=name, role=role)
        >>> code, safety = adapter("code", "utility"), adapter("safety", "safety")
        >>> def batch():
        ...     ids = torch.randint(16, (8, 5))
        ...     return Batch(ids, torch.ones_like(ids), ids.where(torch.arange(5) > 2, -100))
        >>> variance = lora_gradient_variance_approximation(model, [code, safety], [batch()])
        >>> {module: tuple(matrix.shape) for module, matrix in variance.items()}
        {'model.layers.0.mlp.up_proj': (4, 4)}
    """
    compute = compute_fim_harm if own_role == "safety" else compute_fim_benign
    fisher = compute(
        model,
        adapters,
        batches,
        benign=benign,
        structure="diagonal",
        estimator=estimator,
        point=point,
        trust_budget=trust_budget,
        spaces=spaces,
        generator=generator,
        modules=modules,
        progress=progress,
    )
    return {name: layer.variance() for name, layer in fisher.layers.items()}


def _point(
    model: nn.Module,
    adapters: Sequence[LowRankUpdates],
    spaces: Mapping[str, CoreSpace],
    where: str,
    role: str,
    benign: Sequence[Batch],
    trust_budget: float,
) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """The cores of a named point, and what is to be written of it."""
    patches, share = role_patches(adapters, spaces), 1.0
    if where == "trust":
        with CoreModel(model, spaces) as attached:
            share = trust_region_share(attached, patches.utility, patches.towards_safe, benign, budget=trust_budget)
    settings = point_settings(adapters, where, role, share=share, trust_budget=trust_budget)
    return patches.point(where, role, share), settings
