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
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ..methods import Layer, MergeProblem, Needs, Prepared, Reads, merge_method
from ..methods.parts.input_moments import input_moments, module_groups
from ..methods.parts.own_data import OwnData, own_data, required_model, ticker
from ..methods.parts.regression import RegressionOptions, merged_or_average, regression_rows
from ..methods.parts.widening import widened
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["regmean"]


def _prepare(problem: MergeProblem, options: RegressionOptions) -> Prepared:
    model = required_model(problem, "regmean")
    adapters, warnings = own_data(problem, "regmean")
    used = [own for own in adapters if own.weight > 0]
    spaces, merged = dict(problem.spaces), {}
    groups = list(module_groups(problem.spaces, options.memory_gib, copies=3)) if len(used) > 1 else []
    for group in groups:
        moments_of = partial(_moments, problem, model, modules=group)
        for module, rows in regression_rows(problem.spaces, used, group, moments_of, options).items():
            spaces[module] = widened(problem.spaces[module], rows)
            merged[module] = (rows @ spaces[module].right.to(rows)).cpu()
    sources = {own.name: own.source for own in adapters}
    return Prepared(merged, {"data": sources, "passes": len(groups) * len(used)}, warnings, spaces)


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


@merge_method(
    name="regmean",
    summary="the linear layer closest to each adapter's on its own inputs",
    paper="arXiv:2212.09849",
    options=RegressionOptions,
    needs=Needs(data=True),
    reads=Reads(of="adapters", forward=1),
    prepare=_prepare,
    sweeps=(
        MethodSweep("RegMean", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("RegMean", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("RegMean"),
    ),
)
def regmean(layer: Layer, options: RegressionOptions, state: dict[str, Tensor]) -> Tensor:
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
    return merged_or_average(layer, options.strength, state, "regmean")
