"""IRR (Wu et al., arXiv:2412.11041): identify what undoes alignment, remove it, recalibrate the rest.

    δ = Σ_utility w ΔWᵢ,   V = W_aligned − W_unaligned
    identify:     of the entries with sign(δ) ≠ sign(V) all but the share ``kept`` of the smallest Fisher information F
    remove:       these entries become 0
    recalibrate:  column by column from the left, with H = E[x xᵀ] over the task's inputs (SparseGPT, arXiv:2301.00774):
                  δ_ij = 0,   δ_i,R −= δ_ij (K_jR / K_jj),   K = (H_RR)⁻¹ over the columns R from j on

F = E_x (∇ log p(refusal | harmful prompt))² in the aligned model, entry by entry; H is damped by 1 % of its mean
diagonal. Recalibration keeps the task's outputs; columns to the left of a removed entry do not move. Default: all
such entries are removed, as in the authors' example (their ``sparsity`` 0). Where no pair of bases is given, the safety
adapters' sum stands for V and is added to the result: base and safety adapters are the aligned model.

Deviations: F is that of single samples and H that of the tuned model (the authors: of batches, and of the model whose
blocks below are already recalibrated); entries are chosen per tensor from δ as it came (the authors: in blocks of 128
columns, after the columns to their left). Where V is 0, and in embeddings, nothing is removed, and a LoRA bias stays.
The authors' variant that also removes agreeing entries is not here.

Entry-wise: results of all layers are held, one number a weight; F is collected for ``memory_gib`` of modules at a time,
one pass with gradients and one without for each group.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from ..core_space import CoreSpace
from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.alignment import Alignment, alignment_source, weight_difference
from ..methods.parts.input_moments import budget_groups, input_moments
from ..methods.parts.own_data import OwnData, own_data, required_model, ticker
from ..methods.parts.weight_gradients import single_samples, summed_gradients
from ..methods.sweeps import SUMS, MethodSweep

__all__ = ["irr"]

_BLOCK = 128
_KEPT = (0.99, 0.96, 0.92, 0.85, 0.75, 0.6, 0.4, 0.2, 0.0)


class IrrOptions(MethodOptions):
    """Options of IRR.

    Attributes:
        kept: share of the entries against V that stay, those of the smallest Fisher information; 1 removes nothing.
        recalibrate: whether what stays makes up for what is removed.
        safety_strength: multiplies the safety adapters that are added; they are part of the aligned model.
        damping: added to H's diagonal, relative to its mean.
        samples: how many harmful prompts F is taken from, the first ones.
        alignment: where V comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
        memory_gib: for gradients, scores and second moments of one group of modules.
    """

    kept: float = Field(default=0.0, ge=0.0, le=1.0)
    recalibrate: bool = True
    safety_strength: float = Field(default=1.0, ge=0.0)
    damping: float = Field(default=0.01, gt=0.0)
    samples: int = Field(default=64, ge=1)
    alignment: Alignment = "auto"
    memory_gib: float = Field(default=2.0, gt=0.0)


def _prepare(problem: MergeProblem, options: IrrOptions) -> Prepared:
    model = required_model(problem, "irr")
    source = alignment_source(problem, options.alignment, "irr")
    everybody, warnings = own_data(problem, "irr")
    skills = {a.name for a in problem.adapters if a.role == "utility" and a.weight != 0}
    tasks = [own for own in everybody if own.name in skills]
    safety = point_cores(problem.adapters, problem.spaces, role="safety")
    aligned = {m: options.safety_strength * core for m, core in safety.items()}
    utility = point_cores(problem.adapters, problem.spaces, role="utility")
    tuned = aligned | {m: aligned[m] + core if m in aligned else core for m, core in utility.items()}
    samples = single_samples(problem.harm, options.samples)
    state: dict[str, Tensor] = {}
    removed: dict[str, float] = {}
    for group in budget_groups({m: _bytes(problem.spaces[m]) for m in utility}, options.memory_gib):
        readers = [m for m in group if problem.spaces[m].kind.reads_vectors]
        fishers = (
            summed_gradients(model, problem.spaces, samples, readers, torch.square, point=aligned)
            if 0.0 < options.kept < 1.0
            else {}
        )
        moments = _moments(problem, tasks, readers, tuned) if options.recalibrate else {}
        for module in group:
            space = problem.spaces[module]
            update = _dense(space, utility[module])
            if module in readers:
                vector = (
                    weight_difference(problem, module) if source == "weights" else _dense(space, safety.get(module))
                )
                inputs = slice(space.d_in)
                chosen = against(update[:, inputs], vector[:, inputs], options.kept, fishers.get(module))
                hessian = moments[module][inputs, inputs] if module in moments else None
                update[:, inputs] = without(update[:, inputs], chosen, hessian, options.damping)
                removed[module] = round(float(chosen.double().mean()), 6)
            state[module] = update.to(space.left.dtype).cpu()
    report = {"alignment": source, "removed": removed, "data": {own.name: own.source for own in tasks}}
    return Prepared(state, report, warnings)


def _bytes(space: CoreSpace) -> float:
    """Of gradients, scores and the dense update, and of second moments and their factors, of one module."""
    outputs, inputs = space.left.shape[0], len(space.right)
    return 40.0 * outputs * inputs + 32.0 * inputs**2


def _dense(space: CoreSpace, core: Tensor | None) -> Tensor:
    """ΔW (d_out, d_in), with the column of a bias, float64."""
    core = space.coordinates(None) if core is None else core
    return space.left.double() @ core.double() @ space.right.double().T


def _moments(
    problem: MergeProblem, tasks: Sequence[OwnData], modules: Sequence[str], tuned: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """H, the mean over the tasks by their weights."""
    sums: dict[str, Tensor] = {}
    if not modules:
        return sums
    total = sum(own.weight for own in tasks)
    for own in tasks:
        tick = ticker(problem, f"inputs of adapter {own.name}", own.batches)
        model = required_model(problem, "irr")
        found = input_moments(model, problem.spaces, own.batches, modules, point=tuned, progress=tick)
        for module, gram in found.items():
            part = own.weight / total * gram
            sums[module] = sums[module] + part if module in sums else part
    return sums


def against(update: Tensor, vector: Tensor, kept: float, fisher: Tensor | None) -> Tensor:
    """Which entries of an update go.

    Args:
        update: δ, (d_out, d_in).
        vector: V, of the same shape.
        kept: share of the entries against V that stay.
        fisher: F, of the same shape; only read where a part of them stays.

    Returns:
        True where an entry is removed.
    """
    opposed = torch.sign(update) * torch.sign(vector) < 0
    if fisher is None or kept >= 1.0:
        return opposed & (kept < 1.0)
    positions = opposed.flatten().nonzero()[:, 0]
    order = torch.sort(fisher.flatten()[positions.to(fisher.device)], stable=True).indices.to(positions.device)
    chosen = torch.zeros_like(opposed).flatten()
    chosen[positions[order[int(kept * len(order)) :]]] = True
    return chosen.view_as(opposed)


def without(update: Tensor, removed: Tensor, hessian: Tensor | None, damping: float) -> Tensor:
    """An update without some of its entries, the others of a row making up for them.

    Args:
        update: δ, (d_out, d_in), float64.
        removed: True where an entry goes.
        hessian: H, (d_in, d_in); without it nothing else moves.
        damping: added to H's diagonal, relative to its mean.

    Returns:
        (d_out, d_in).
    """
    left = update.clone()
    if hessian is not None:
        mean = float(hessian.diagonal().mean())
        damped = hessian + (damping * mean if mean > 0 else 1.0) * torch.eye(len(hessian)).to(hessian)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        # Its row j, from j on, is K_jR / √K_jj of the columns that are still to come.
        factor = torch.linalg.cholesky(inverse, upper=True)
        for start in range(0, left.shape[1], _BLOCK):
            block = slice(start, min(start + _BLOCK, left.shape[1]))
            pushes = torch.zeros_like(left[:, block])
            for j in range(block.start, block.stop):
                push = left[:, j] * removed[:, j] / factor[j, j]
                left[:, j : block.stop] -= torch.outer(push, factor[j, j : block.stop])
                pushes[:, j - start] = push
            left[:, block.stop :] -= pushes @ factor[block, block.stop :]
    left[removed] = 0.0
    return left


@merge_method(
    name="irr",
    summary="task updates without the entries that point against alignment, the others recalibrated",
    paper="arXiv:2412.11041",
    options=IrrOptions,
    domain="delta",
    needs=Needs(data=True, aligned_base=True, roles=frozenset({"utility"})),
    reads=Reads(of="skills", forward=1),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="kept",
    sweeps=(
        MethodSweep("IRR", SUMS, knob="safety_strength"),
        MethodSweep("IRR", _KEPT, base="aligned"),
    ),
)
def irr(layer: Layer, options: IrrOptions, state: Mapping[str, Tensor]) -> Tensor:
    """The recalibrated utility update, plus the safety adapters."""
    merged = options.safety_strength * layer.weighted_sum("safety")
    return merged + state[layer.module].to(merged) if layer.module in state else merged
