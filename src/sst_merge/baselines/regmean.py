"""RegMean (Jin et al., arXiv:2212.09849): the linear layer closest to every adapter's on its own inputs.

    ΔW = λ (Σᵢ |wᵢ| sign(wᵢ) ΔWᵢ Ĝᵢ) (Σᵢ |wᵢ| Ĝᵢ)⁻¹,   Ĝᵢ = a Gᵢ + (1 − a) diag(Gᵢ)

with Gᵢ = E[x xᵀ] over the tokens of adapter i's own data, in the model with that adapter (in the paper XᵀX; the mean
keeps the amount of text from weighing). Reference default a = 0.9.

Exact on LoRA: rows of the result lie in the span of Gᵢ-images of the adapters' rows, by which the core space is
widened, so that neither ΔW nor a dense result is formed; the rank stays at most Σr. It is an *average*: with equal
inputs it is Σwᵢ ΔWᵢ / Σ|wᵢ|, and one adapter comes back exactly. Embeddings, which are no linear layer, are averaged.

Cost: Gᵢ is d_in × d_in, so modules are taken in groups that fit ``memory_gib``, with one pass over every adapter's
data per group, and one Cholesky factorisation per module. A safety adapter is judged on the harm data (prompts with
refusals), an adapter without data of its own on the common benign data, with a warning.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from ..core_space import CoreSpace
from ..errors import MergeError
from ..methods import Layer, MergeProblem, Needs, Prepared, StrengthOptions, merge_method
from ..methods.parts.input_moments import input_moments, module_groups
from ..methods.parts.own_data import OwnData, own_data, required_model, signed_patches, ticker
from ..methods.parts.widening import widened
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OFF_DIAGONAL", "RIDGE", "regmean"]

OFF_DIAGONAL = 0.9
"""a of the reference implementation."""

RIDGE = 1e-6
"""What keeps the sum of all Gᵢ regular, relative to its mean diagonal."""


class RegMeanOptions(StrengthOptions):
    """Options of RegMean.

    Attributes:
        off_diagonal: a, multiplies what is off the diagonal of Gᵢ.
        damping: added to Gᵢ's diagonal, relative to its mean over all adapters.
        memory_gib: for the second moments of one group of modules.
    """

    off_diagonal: float = Field(default=OFF_DIAGONAL, ge=0.0, le=1.0)
    damping: float = Field(default=RIDGE, gt=0.0)
    memory_gib: float = Field(default=2.0, gt=0.0)


def _prepare(problem: MergeProblem, options: RegMeanOptions) -> Prepared:
    model = required_model(problem, "regmean")
    adapters, warnings = own_data(problem, "regmean")
    used = [own for own in adapters if own.weight > 0]
    spaces, merged = dict(problem.spaces), {}
    groups = list(module_groups(problem.spaces, options.memory_gib, copies=3)) if len(used) > 1 else []
    for group in groups:
        for module, rows in _merged_rows(problem, model, used, group, options).items():
            spaces[module] = widened(problem.spaces[module], rows)
            merged[module] = (rows @ spaces[module].right.to(rows)).cpu()
    sources = {own.name: own.source for own in adapters}
    return Prepared(merged, {"data": sources, "passes": len(groups) * len(used)}, warnings, spaces)


def _merged_rows(
    problem: MergeProblem,
    model: "PreTrainedModel",
    adapters: Sequence[OwnData],
    modules: Sequence[str],
    options: RegMeanOptions,
) -> dict[str, Tensor]:
    """Uᵀ ΔW of the merged modules, (p, d_in), float64."""
    totals: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    shares: dict[str, Tensor] = {}
    for own in adapters:
        moments = _moments(problem, model, own, modules)
        for module in modules:
            gram, space = moments.pop(module), problem.spaces[module]
            gram = own.weight * (options.off_diagonal * gram + (1 - options.off_diagonal) * gram.diagonal().diag())
            core = own.cores.get(module)
            update = _rows(space, core, gram)
            share = own.weight * update
            totals[module] = totals[module] + gram if module in totals else gram
            rows[module] = rows[module] + update @ gram if module in rows else update @ gram
            shares[module] = shares[module] + share if module in shares else share
    for module, total in totals.items():
        ridge = options.damping * float(total.diagonal().mean()) / sum(own.weight for own in adapters)
        ridge = ridge if ridge > 0 else 1.0
        # Σ|w|(Ĝ + ridge I): the same ridge for all, so that inputs that no adapter uses give the weighted average.
        total.diagonal().add_(ridge * sum(own.weight for own in adapters))
        factor = torch.linalg.cholesky(total)
        rows[module] = torch.cholesky_solve((rows[module] + ridge * shares[module]).T, factor).T
    return rows


def _moments(
    problem: MergeProblem, model: "PreTrainedModel", own: OwnData, modules: Sequence[str]
) -> dict[str, Tensor]:
    """E[x xᵀ] of one adapter, which its weight does not change; the caller may empty the dictionary."""
    key = "regmean", own.name, own.sign, tuple(modules)
    moments = problem.cached(
        key,
        lambda: input_moments(
            model,
            problem.spaces,
            own.batches,
            modules,
            point=own.cores,
            progress=ticker(problem, f"inputs of adapter {own.name}", own.batches),
        ),
    )
    # Where nothing is kept the caller frees one module after the other, and no second reference may hold them.
    return moments if problem.cache is None else dict(moments)


def _rows(space: CoreSpace, core: Tensor | None, like: Tensor) -> Tensor:
    """Uᵀ ΔW of one adapter, (p, d_in), where and in the type that ``like`` is."""
    core = space.coordinates(None) if core is None else core
    return core.to(like) @ space.right.to(like).T


@merge_method(
    name="regmean",
    summary="the linear layer closest to each adapter's on its own inputs",
    paper="arXiv:2212.09849",
    options=RegMeanOptions,
    needs=Needs(data=True),
    prepare=_prepare,
    sweeps=(
        MethodSweep("RegMean", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("RegMean", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("RegMean"),
    ),
)
def regmean(layer: Layer, options: RegMeanOptions, state: dict[str, Tensor]) -> Tensor:
    """λ times the merged core that the preparation found, or the weighted average where it has none.

    Args:
        layer: core matrices of one module, in the widened space.
        options: λ.
        state: merged core by module.

    Returns:
        The merged core, (p, q).

    Raises:
        MergeError: all weights are 0.
    """
    if layer.module in state:
        return options.strength * state[layer.module].to(layer.patches[0])
    total = sum(abs(w) for w in layer.weights)
    if total == 0:
        raise MergeError("regmean divides by the adapters' weights, which are all 0")
    shares = [abs(w) / total for w in layer.weights]
    return options.strength * torch.stack([
        share * patch for share, patch in zip(shares, signed_patches(layer), strict=True)
    ]).sum(0)
