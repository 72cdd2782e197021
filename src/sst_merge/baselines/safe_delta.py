"""Safe Delta on LoRA updates: a re-implementation of the core idea of arXiv:2505.12038.

With H = E[x xᵀ] over the tokens of safety samples (harmful prompts with refusals) in the aligned model, changing a
layer by ΔW costs ½ tr(ΔW H ΔWᵀ) there. For ΔW = Σ_utility w ΔWᵢ, per module:

    cost of input j   c_j = Σ_i δ_ij² / (2 [H⁻¹]_jj)
    gain per cost     [H⁻¹]_jj, the same for all entries δ_ij of an input
    selection         inputs in falling [H⁻¹]_jj, while Σ c_j ≤ s · Σ_all c_j
    compensation      ΔW_R = −ΔW_S H_SR (H_RR)⁻¹ on the inputs R that are not selected

so that the selected part of the update is kept as trained, and the rest moves where it offsets the damage to safety
(the optimal brain surgeon's update, jointly for all of R). H is damped like GPTQ's, by 1 % of its mean diagonal.

Exact on LoRA: selection and compensation act on the inputs, ΔW → ΔW T, which widens the core space by T's image and
keeps the rank. Deviations: whole inputs are selected, since all entries of one have the same gain per cost; all of R
answers at once, where the published code goes through blocks of columns from left to right; and the budget s is a
share of the update's own cost in the module, where the published code's is s times the mean of 1 / [H⁻¹]_jj, an
absolute amount made for full fine-tuning. The paper's 0.11 is the default, but does not mean the same: tune it.
In an embedding, whose inputs are no vectors, the update is kept whole. Cost: one pass per group of modules and one
inverse of d_in × d_in per module.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.input_moments import grouped_moments
from ..methods.parts.own_data import required_model, ticker
from ..methods.parts.widening import widened
from ..methods.sweeps import MethodSweep

__all__ = ["safe_delta"]

_BUDGETS = (1.0, 0.8, 0.6, 0.4, 0.25, 0.11, 0.06, 0.03, 0.01)


class SafeDeltaOptions(MethodOptions):
    """Options of Safe Delta.

    Attributes:
        budget: s, share of the update's total safety cost that may be spent; 1 keeps the whole update, 0 nothing.
        compensate: move the inputs that are not selected to offset the damage; otherwise they are dropped.
        safety_strength: multiplies the safety adapters that are added; they are part of the aligned model.
        damping: added to H's diagonal, relative to its mean.
        aligned_base: no safety adapter is given because the base itself is aligned.
        memory_gib: for the second moments of one group of modules.
    """

    budget: float = Field(default=0.11, ge=0.0, le=1.0)
    compensate: bool = True
    safety_strength: float = Field(default=1.0, ge=0.0)
    damping: float = Field(default=0.01, gt=0.0)
    aligned_base: bool = False
    memory_gib: float = Field(default=2.0, gt=0.0)


def _prepare(problem: MergeProblem, options: SafeDeltaOptions) -> Prepared:
    model = required_model(problem, "safe_delta")
    if not options.aligned_base and not any(a.role == "safety" for a in problem.adapters):
        raise MergeError(
            "method 'safe_delta' found no adapter of role safety; give one, or set aligned_base: true where the base "
            "itself is aligned"
        )
    aligned = {
        m: options.safety_strength * core
        for m, core in point_cores(problem.adapters, problem.spaces, role="safety").items()
    }
    utility = point_cores(problem.adapters, problem.spaces, role="utility")
    spaces, kept = dict(problem.spaces), {m: core.double().cpu() for m, core in utility.items()}
    shares: dict[str, float] = {}
    moments = grouped_moments(
        model,
        problem.spaces,
        problem.harm,
        utility,
        options.memory_gib,
        copies=4,
        point=aligned,
        progress=ticker(problem, "activations of safety samples", problem.harm),
    )
    for module, hessian in moments:
        mean = float(hessian.diagonal().mean())
        hessian.diagonal().add_(options.damping * mean if mean > 0 else 1.0)
        rows = utility[module].to(hessian) @ problem.spaces[module].right.to(hessian).T
        moved, shares[module] = selected_update(rows, hessian, options.budget, compensate=options.compensate)
        spaces[module] = widened(problem.spaces[module], moved)
        kept[module] = (moved @ spaces[module].right.to(moved)).cpu()
    return Prepared(kept, {"selected_inputs": shares}, (), spaces)


def selected_update(rows: Tensor, hessian: Tensor, budget: float, *, compensate: bool) -> tuple[Tensor, float]:
    """Keep the inputs of the best gain per cost, and let the others offset the damage.

    Args:
        rows: the update in an orthonormal basis of its outputs, (p, d_in).
        hessian: H, (d_in, d_in), positive definite.
        budget: s.
        compensate: whether the others move; they are 0 otherwise.

    Returns:
        The new update, (p, d_in), and the share of inputs that were selected.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian)).diagonal()
    order = torch.sort(inverse, descending=True, stable=True).indices
    spent = (rows.square().sum(0) / (2 * inverse))[order].cumsum(0)
    # A rounding slack, or budget = 1 might leave an input out.
    count = int((spent <= budget * (1 + 1e-12) * spent[-1]).sum()) if budget < 1 else len(order)
    chosen, rest = order[:count], order[count:]
    moved = torch.zeros_like(rows)
    moved[:, chosen] = rows[:, chosen]
    if compensate and 0 < count < len(order):
        factor = torch.linalg.cholesky(hessian[rest][:, rest])
        push = rows[:, chosen] @ hessian[chosen][:, rest]
        moved[:, rest] = -torch.cholesky_solve(push.T, factor).T
    return moved, count / len(order)


@merge_method(
    name="safe_delta",
    summary="task updates on the inputs that cost safety least, compensated on the others",
    paper="arXiv:2505.12038",
    options=SafeDeltaOptions,
    needs=Needs(data=True, roles=frozenset({"utility"})),
    reads=Reads(of="harm", forward=1),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="budget",
    sweeps=(
        MethodSweep("Safe Delta", _BUDGETS),
        MethodSweep("Safe Delta", _BUDGETS, {"aligned_base": True}, base="aligned"),
    ),
)
def safe_delta(layer: Layer, options: SafeDeltaOptions, state: dict[str, Tensor]) -> Tensor:
    """The selected and compensated utility core, plus the safety cores."""
    merged = options.safety_strength * layer.weighted_sum("safety")
    return merged + state[layer.module].to(merged) if layer.module in state else merged
