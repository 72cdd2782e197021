"""TSV-Merge (Gargiulo et al., arXiv:2412.00081): keep each task's leading singular triplets, decorrelate the tasks.

    wᵢ τᵢ = Uᵢ Sᵢ Vᵢᵀ cut to its kᵢ leading triplets,   U = [U₁ … U_T],  V = [V₁ … V_T],  S = diag(S₁, …, S_T)
    ΔW = α · U⊥ S V⊥ᵀ,   U⊥ = polar(U), V⊥ = polar(V)      (Procrustes: the nearest orthonormal stacks)

Default of the paper: α 1 and kᵢ = min(d_out, d_in) / T, the largest stack that still has orthonormal columns. LoRA
updates usually fit as they are (Σ rᵢ ≤ min(d_out, d_in)), so nothing is cut unless they do not; ``per_task`` cuts
further (1/T gives the paper's share of every task's own triplets). The triplets of a task's null space, which the
authors' code would stack for LoRA as well, are arbitrary and left out. Every step commutes with the core's rotations:
exact in the core. One adapter alone comes back as it is: its singular vectors are orthonormal already.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MethodOptions, Promises, merge_method
from ..methods.parts.spectral import polar, significant_svd
from ..methods.parts.updates import weighted_updates
from ..methods.sweeps import LESS, SAFETY_WEIGHT, SUMS, MethodSweep, TwoStageSweep

__all__ = ["TsvOptions", "tsv_m"]


class TsvOptions(MethodOptions):
    """Options of TSV-Merge.

    Attributes:
        strength: α, multiplies the merged update.
        per_task: share of every task's triplets that is kept, at least one; as many as fit by default.
    """

    strength: float = 1.0
    per_task: float | None = Field(default=None, gt=0.0, le=1.0)


@merge_method(
    name="tsv_m",
    summary="leading singular triplets of every task, made orthogonal across tasks",
    paper="arXiv:2412.00081",
    options=TsvOptions,
    promises=Promises(homogeneous=True),
    sweeps=(
        MethodSweep("TSV-M", SUMS, knob=SAFETY_WEIGHT),
        MethodSweep("TSV-M", LESS, knob="strength", base="aligned"),
        TwoStageSweep.of_sum("TSV-M"),
    ),
)
def tsv_m(layer: Layer, options: TsvOptions, state: None) -> Tensor:
    """α U⊥ S V⊥ᵀ.

    Args:
        layer: core matrices of one module.
        options: α and the share per task.
        state: unused.

    Returns:
        The merged core, (p, q).
    """
    triplets = [significant_svd(tau) for tau in weighted_updates(layer)]
    wanted = sum(values.numel() for _, values, _ in triplets)
    if not wanted:
        return torch.zeros_like(layer.patches[0])
    share = min(1.0, min(layer.patches[0].shape) / wanted) if options.per_task is None else options.per_task
    kept = [max(1, int(share * values.numel() + 1e-9)) for _, values, _ in triplets]
    left = torch.cat([u[:, :k] for (u, _, _), k in zip(triplets, kept, strict=True)], dim=1)
    right = torch.cat([vt[:k] for (_, _, vt), k in zip(triplets, kept, strict=True)])
    spectrum = torch.cat([s[:k] for (_, s, _), k in zip(triplets, kept, strict=True)])
    return options.strength * (polar(left) * spectrum) @ polar(right.T).T
