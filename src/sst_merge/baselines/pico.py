"""Pico (Tang and Yang, arXiv:2604.16826) with Task Arithmetic: less of the output directions that many adapters share.

    [w₁ B₁ … w_T B_T] = U Σ Wᵀ,   s_j = σ_j² / Σ σ²,   α_j = 1 / (1 + (T − 1) s_j),   S = I + U diag(α − 1) Uᵀ
    ΔW = λ γ S Σᵢ wᵢ Bᵢ Aᵢ,   γ = (1/T) Σᵢ ‖wᵢ Bᵢ Aᵢ‖ / ‖S Σᵢ wᵢ Bᵢ Aᵢ‖

S acts on outputs alone, so it is exact in the core space. γ gives the merge the mean norm of its sources, which makes
the paper's mean over tasks and the sum one; where the updates cancel, the result is 0. One adapter comes back exactly.
Adapters of weight 0 do not count; one that does not touch a module counts there with a norm of 0.

U is that of the Bᵢ as they were trained, with the scale α/r in them as in the paper: another factorisation of the same
ΔW has other ones, and gives another merge. (The paper tried the updates themselves in place of B, and found it worse.)

Deviations: the paper also calibrates before TIES and TSV-M; here before the sum, its best combination. The authors'
command line keeps each adapter's norm instead of the merge's; γ here is the paper's.
"""

import torch
from torch import Tensor

from ..fim_calculator import module_updates
from ..methods import Layer, MergeProblem, Prepared, Promises, StrengthOptions, merge_method
from ..methods.sweeps import LESS_OF_AVERAGES, SAFETY_WEIGHT, TRIMMED, MethodSweep, TwoStageSweep

__all__ = ["pico"]


def _prepare(problem: MergeProblem, options: StrengthOptions) -> Prepared:
    used = [adapter for adapter in problem.adapters if adapter.weight != 0]
    operators: dict[str, Tensor] = {}
    largest: dict[str, float] = {}
    for module, space in problem.spaces.items():
        left = space.left.double()
        factors = module_updates(used, module, dtype=torch.float64, device=left.device)
        columns = [a.weight * left.T @ found.b for a, found in zip(used, factors, strict=True) if found is not None]
        stacked = torch.cat(columns, dim=1) if columns else left.new_zeros(left.shape[1], 1)
        size = float(stacked.abs().max())
        vectors, values, _ = torch.linalg.svd(stacked / size if size else stacked, full_matrices=False)
        shared = values.square() / values.square().sum().clamp_min(torch.finfo(values.dtype).tiny)
        alpha = 1.0 / (1.0 + (len(used) - 1) * shared)
        operators[module] = torch.eye(len(vectors)).to(vectors) + (vectors * (alpha - 1.0)) @ vectors.T
        largest[module] = round(float(shared[0]), 6)
    return Prepared(operators, {"most_shared": largest})


@merge_method(
    name="pico",
    summary="the sum with output directions that many adapters share turned down, at their mean norm",
    paper="arXiv:2604.16826",
    options=StrengthOptions,
    promises=Promises(homogeneous=True, gauge_invariant=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("Pico", TRIMMED, knob=SAFETY_WEIGHT),
        MethodSweep("Pico", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("Pico"),
    ),
)
def pico(layer: Layer, options: StrengthOptions, state: dict[str, Tensor]) -> Tensor:
    """λ γ S Σ w M."""
    calibrated = state[layer.module].to(layer.patches[0]) @ layer.weighted_sum()
    used = [(abs(w), m) for w, m in zip(layer.weights, layer.patches, strict=True) if w != 0]
    # In units of the largest entry: squares of tiny updates would underflow.
    unit = max((w * float(m.abs().max()) for w, m in used), default=0.0)
    if not unit:
        return torch.zeros_like(calibrated)
    wanted = sum(w * float((m / unit).norm()) for w, m in used) / len(used)
    found = float((calibrated / unit).norm())
    if found <= 100 * torch.finfo(calibrated.dtype).eps * wanted:
        # The updates cancel, and what is left is rounding, which must not be raised.
        return torch.zeros_like(calibrated)
    return options.strength * (wanted / found) * calibrated
