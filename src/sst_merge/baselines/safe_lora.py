"""Safe LoRA (Hsu et al., arXiv:2405.16833): project updates that leave the direction of alignment.

    V = W_aligned − W_unaligned,   C = V Vᵀ / ‖V‖_F,   B ← C B   where   cos(C ΔW, ΔW) < threshold

or in the k modules of the lowest cosine (``layers``). Every utility adapter is projected for itself and the weighted
sum is taken; safety adapters are added unprojected. C is the paper's: no projector, its scale grows with ‖V‖. The
image C B is computed as V (VᵀB), so that no d_out × d_out matrix is formed, and C ΔW stays exact and low-rank.

Variant for LoRA: where no pair of bases is given, the safety adapters' weighted sum stands for V. In a module where
V = 0 nothing is known about alignment, and nothing is projected.

Reference defaults: threshold 0.5, or the 10 lowest layers. Deviation of the published code: it matches modules by
position; here by name, and the cosine is taken per module of each adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, merge_method
from ..methods.parts.alignment import Alignment, alignment_cosine, alignment_operators, alignment_source
from ..methods.sweeps import SUMS, MethodSweep

__all__ = ["SafeLoraOptions", "safe_lora"]


class SafeLoraOptions(MethodOptions):
    """Options of Safe LoRA.

    Attributes:
        threshold: cosines below it are projected; above 1 projects everything, at most -1 nothing.
        layers: instead of the threshold, project the k modules of the lowest cosine of each adapter.
        safety_strength: multiplies the safety adapters that are added.
        alignment: where V comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
    """

    threshold: float = Field(default=0.5, ge=-1.0, le=1.01)
    layers: int | None = Field(default=None, ge=0)
    safety_strength: float = Field(default=1.0, ge=0.0)
    alignment: Alignment = "auto"


@dataclass(frozen=True)
class _State:
    """K per module, and which adapters (by position) are projected in which module."""

    operators: Mapping[str, Tensor | None]
    projected: Mapping[str, frozenset[int]]


def _prepare(problem: MergeProblem, options: SafeLoraOptions) -> Prepared:
    source = alignment_source(problem, options.alignment, "safe_lora")
    spaces, operators = alignment_operators(problem, source)
    cosines: dict[str, dict[str, float]] = {}
    projected: dict[str, set[int]] = {m: set() for m in spaces}
    for index, adapter in enumerate(problem.adapters):
        if adapter.role != "utility":
            continue
        own = {m: c.double() for m, c in point_cores([adapter.with_(weight=1.0)], spaces).items()}
        measured = {m: alignment_cosine(operators[m], core) for m, core in own.items()}
        found = {m: cos for m, cos in measured.items() if cos is not None}
        cosines[adapter.name] = found
        if options.layers is None:
            chosen = [m for m, cos in found.items() if cos < options.threshold]
        else:
            chosen = sorted(found, key=lambda m: (found[m], m))[: options.layers]
        for module in chosen:
            projected[module].add(index)
    report = {"alignment": source, "cosine": cosines, "projected": sum(map(len, projected.values()))}
    warnings = () if report["projected"] else ("no module was below the threshold, so nothing was projected",)
    state = _State(operators, {m: frozenset(found) for m, found in projected.items()})
    return Prepared(state, report, warnings, spaces)


@merge_method(
    name="safe_lora",
    summary="updates that leave the alignment direction are projected onto it",
    paper="arXiv:2405.16833",
    options=SafeLoraOptions,
    needs=Needs(aligned_base=True, roles=frozenset({"utility"})),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="threshold",
    sweeps=(
        MethodSweep("Safe LoRA", SUMS, knob="safety_strength", prepare_once=True),
        MethodSweep("Safe LoRA", (-0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0), base="aligned"),
    ),
)
def safe_lora(layer: Layer, options: SafeLoraOptions, state: _State) -> Tensor:
    """Σ_utility w (K M or M) + s Σ_safety w M.

    Args:
        layer: core matrices of one module.
        options: s.
        state: what to project.

    Returns:
        The merged core, (p, q).
    """
    merged = options.safety_strength * layer.weighted_sum("safety")
    operator = state.operators[layer.module]
    for index, (patch, weight, role) in enumerate(zip(layer.patches, layer.weights, layer.roles, strict=True)):
        if role != "utility":
            continue
        if operator is not None and index in state.projected[layer.module]:
            # In float64, for C is quadratic in V.
            merged = merged + weight * (operator.to(patch.device) @ patch.to(torch.float64)).to(patch)
        else:
            merged = merged + weight * patch
    return merged
