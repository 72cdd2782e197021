"""Which layers and rank directions are worth solving for, after VILA (arXiv:2508.21300).

VILA measures a parameter's importance for one set of data by the *variance* E[g²] - E[g]² of its per-sample
gradient, because the second moment equals the Fisher only where gradients average to zero; and it compares two sets
by the ratio. Here the same is done on rows and columns of the core matrices instead of on weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from ..core_space import CoreSpace
from ..errors import FisherError
from .fisher import Fisher

__all__ = ["Identification", "restrict_spaces", "vila_parameter_identification"]


@dataclass(frozen=True, eq=False)
class Identification:
    """Importance Var_harm / (Var_benign + ε), summed over what it is the importance of before the division.

    Attributes:
        layer_importance: module to the importance of its whole core.
        left_importance: module to the importance of every column of U, (p,).
        right_importance: module to the importance of every column of V, (q,).
        kept: the modules worth solving for, with the kept columns of U and of V (int64, ascending).
    """

    layer_importance: dict[str, float]
    left_importance: dict[str, Tensor]
    right_importance: dict[str, Tensor]
    kept: dict[str, tuple[Tensor, Tensor]]


def vila_parameter_identification(
    f_harm: Fisher,
    f_benign: Fisher,
    *,
    keep_layers: float = 1.0,
    keep_directions: float = 0.5,
    eps: float = 1e-3,
) -> Identification:
    """Rank modules and directions by variance-corrected safety gain per cost.

    Args:
        f_harm: F_h; ``diagonal`` or ``lowrank``, the structures that know the variance of the gradient.
        f_benign: F_b, over the same core spaces.
        keep_layers: share of modules to keep, in (0, 1].
        keep_directions: share of each kept module's columns of U, and of V, to keep, in (0, 1].
        eps: ε relative to the mean of Var_benign over all entries of all modules.

    Returns:
        Importances and the kept modules and columns; at least one of each is kept.

    Raises:
        FisherError: other structures, different core spaces, no gradients at all, or an option out of range.

    Example:
        >>> import torch
        >>> from sst_merge import Adapter, Batch, LoraFactors
        >>> from sst_merge import compute_fim_benign, compute_fim_harm, vila_parameter_identification
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
        >>> harm = compute_fim_harm(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> benign = compute_fim_benign(model, [code, safety], [batch()], structure="diagonal", point="merged")
        >>> found = vila_parameter_identification(harm, benign, keep_directions=0.5)
        >>> {module: (len(left), len(right)) for module, (left, right) in found.kept.items()}  # half of 4 and 4
        {'model.layers.0.mlp.up_proj': (2, 2)}
    """
    for name, value in (("keep_layers", keep_layers), ("keep_directions", keep_directions)):
        if not 0.0 < value <= 1.0:
            raise FisherError(f"{name} is {value}; it is a share in (0, 1]")
    if not eps > 0.0:
        raise FisherError(f"eps is {eps}; it must be positive")
    if f_harm.fingerprint != f_benign.fingerprint:
        raise FisherError("f_harm and f_benign belong to different core spaces; collect both for the same adapters")
    harm, benign = ({m: layer.variance() for m, layer in fisher.layers.items()} for fisher in (f_harm, f_benign))
    floor = eps * sum(float(v.sum()) for v in benign.values()) / sum(v.numel() for v in benign.values())
    if floor == 0.0:
        raise FisherError("the benign gradients have no variance at all; collect more (and different) benign samples")

    def ratio(module: str, dim: tuple[int, ...]) -> Tensor:
        # ε once per summed entry: rows of different length then compare fairly.
        cost = benign[module] + floor
        return harm[module].sum(dim) / cost.sum(dim)

    layer_importance = {module: float(ratio(module, (0, 1))) for module in harm}
    left = {module: ratio(module, (1,)) for module in harm}
    right = {module: ratio(module, (0,)) for module in harm}
    best = sorted(harm, key=lambda module: -layer_importance[module])[: ceil(keep_layers * len(harm))]
    kept = {m: (_largest(left[m], keep_directions), _largest(right[m], keep_directions)) for m in harm if m in best}
    return Identification(layer_importance, left, right, kept)


def restrict_spaces(spaces: Mapping[str, CoreSpace], identification: Identification) -> dict[str, CoreSpace]:
    """The core spaces of what was kept, with only the kept columns of U and V.

    Args:
        spaces: the core spaces that the identification was made for.
        identification: its result.

    Returns:
        Kept modules only. Updates no longer lie inside these spaces: their coordinates are projections.

    Raises:
        FisherError: a kept module has no space, or another shape.
    """
    smaller: dict[str, CoreSpace] = {}
    for module, (left, right) in identification.kept.items():
        space = spaces.get(module)
        expected = (len(identification.left_importance[module]), len(identification.right_importance[module]))
        if space is None or space.shape != expected:
            found = "none" if space is None else space.shape
            raise FisherError(f"module {module}: core space {found}, the identification was made for {expected}")
        device = space.left.device
        smaller[module] = CoreSpace(
            space.left[:, left.to(device)], space.right[:, right.to(device)], space.kind, space.bias
        )
    return smaller


def _largest(importance: Tensor, share: float) -> Tensor:
    count = ceil(share * len(importance))
    return torch.sort(torch.sort(importance, descending=True, stable=True).indices[:count]).values
