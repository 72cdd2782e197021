"""Benign null space: the safety patch where benign inputs do not go (after NSPO, arXiv:2512.11391).

    ΔW = Σ_utility w ΔW + t ΔW_S N,   N = I − Q Qᵀ

with Q the eigenvectors of E[x xᵀ] over benign tokens whose eigenvalue is at least ``threshold`` times the largest, so
that ΔW_S N leaves benign activations as they are. The activations are those of the skilled model (base plus utility
adapters). Reference default: 5e-4.

``inputs: full`` is this definition: Q in the d_in inputs of the module, one eigendecomposition of d_in × d_in each; the
core space is widened by the projected rows, and the result is exact with rank at most Σr. ``inputs: core`` looks
only at the core's own input directions, E[Vᵀx xᵀV]: cheap, and stricter, because ΔW_S keeps its row space.
Variant: NSPO projects policy gradients during training; here a finished update is projected. In an embedding, whose
inputs are no vectors, the safety patch is added whole.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.input_moments import grouped_moments
from ..methods.parts.own_data import required_model, ticker
from ..methods.parts.widening import widened
from ..methods.sweeps import TRIMMED, MethodSweep

__all__ = ["benign_null_space"]


class BenignNullSpaceOptions(MethodOptions):
    """Options of the benign null space.

    Attributes:
        strength: t, multiplies the projected safety patch.
        threshold: eigenvalues below this share of the largest count as null.
        inputs: null space of all the module's inputs, or of the core's input directions only.
        memory_gib: for the second moments of one group of modules.
    """

    strength: float = Field(default=1.0, ge=0.0)
    threshold: float = Field(default=5e-4, ge=0.0, le=1.0)
    inputs: Literal["full", "core"] = "full"
    memory_gib: float = Field(default=2.0, gt=0.0)


def _prepare(problem: MergeProblem, options: BenignNullSpaceOptions) -> Prepared:
    model = required_model(problem, "benign_null_space")
    skilled = point_cores(problem.adapters, problem.spaces, role="utility")
    safety = point_cores(problem.adapters, problem.spaces, role="safety")
    spaces, projected = dict(problem.spaces), {m: core.double().cpu() for m, core in safety.items()}
    kept: dict[str, float] = {}
    moments = grouped_moments(
        model,
        problem.spaces,
        problem.benign,
        safety,
        options.memory_gib,
        copies=3,
        point=skilled,
        progress=ticker(problem, "benign activations", problem.benign),
    )
    for module, gram in moments:
        right, core = problem.spaces[module].right.to(gram), safety[module].to(gram)
        if options.inputs == "core":
            used = used_directions(right.T @ gram @ right, options.threshold)
            projected[module] = (core - (core @ used) @ used.T).cpu()
        else:
            used = used_directions(gram, options.threshold)
            rows = core @ right.T
            rows = rows - (rows @ used) @ used.T
            spaces[module] = widened(problem.spaces[module], rows)
            projected[module] = (rows @ spaces[module].right.to(rows)).cpu()
        before = float(core.norm())
        kept[module] = float(projected[module].norm()) / before if before > 0 else 1.0
    warnings = () if any(kept.values()) else ("nothing of the safety patch lies in the benign null space",)
    return Prepared(projected, {"kept_norm": kept}, warnings, spaces)


def used_directions(gram: Tensor, threshold: float) -> Tensor:
    """Q (d, k): eigenvectors whose eigenvalue is at least a share of the largest, and not numerically 0."""
    values, vectors = torch.linalg.eigh(gram)
    floor = max(threshold, len(gram) * torch.finfo(gram.dtype).eps) * values[-1]
    return vectors[:, (values >= floor) & (values > 0)]


@merge_method(
    name="benign_null_space",
    summary="the safety patch where benign inputs do not go",
    paper="arXiv:2512.11391",
    options=BenignNullSpaceOptions,
    needs=Needs(data=True, roles=frozenset({"utility", "safety"})),
    reads=Reads(of="benign", forward=1),
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(MethodSweep("Benign null space", TRIMMED, prepare_once=True),),
)
def benign_null_space(layer: Layer, options: BenignNullSpaceOptions, state: dict[str, Tensor]) -> Tensor:
    """M_U + t M_S N in the widened space; the state has M_S N by module."""
    merged = layer.weighted_sum("utility")
    if layer.module not in state:
        return merged
    return merged + options.strength * state[layer.module].to(merged)
