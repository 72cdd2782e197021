"""Fisher merging (Matena and Raffel, arXiv:2111.09832): every entry's average, weighted by its Fisher information.

    M = λ (Σᵢ |wᵢ| F̂ᵢ)⁻¹ Σᵢ |wᵢ| F̂ᵢ sign(wᵢ) Mᵢ,   F̂ᵢ = Fᵢ + ε I

Fᵢ is the Fisher of adapter i at its own optimum on its own data, from per-sample gradients of response tokens.

Variant: the minimiser is sought inside the core space, so that the result is a LoRA of rank Σr. ``diagonal`` (the
paper's) is the diagonal in the core's principal directions, not in the entries of the full weight, which would need a
dense gradient of every weight and sample; ``kronecker`` minimises Σ |wᵢ| (M − Mᵢ)ᵀFᵢ(M − Mᵢ) with K-FAC factors by
conjugate gradients. It is an *average*: with equal Fishers it is Σwᵢ Mᵢ / Σ|wᵢ|, and one adapter comes back exactly.

A safety adapter is judged on the harm data (prompts with refusals), an adapter without data of its own on the common
benign data, with a warning.
"""

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator import Fisher, LayerFisher, compute_fim
from ..gevp_solver import DampedFisher, OperatorSum, solve_linear
from ..methods import Layer, MergeProblem, Needs, Prepared, Reads, StrengthOptions, merge_method
from ..methods.parts.own_data import OwnData, own_data, required_model, signed_patches, ticker
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["fisher_merging"]

_KRONECKER = {"structure": "kronecker"}

Fishers = dict[str, tuple[LayerFisher, ...]]


class FisherMergingOptions(StrengthOptions):
    """Options of Fisher merging.

    Attributes:
        structure: which correlations are kept.
        damping: ρ; ε is ρ times the mean diagonal entry over all adapters of a layer (``diagonal``), or each Fisher's
            own mean (``kronecker``). Where no gradient is found the result is the weighted average.
        estimator: ``empirical`` (labels of the data) or ``sampled`` (labels drawn from the model, as in the paper).
    """

    structure: Literal["diagonal", "kronecker"] = "diagonal"
    damping: float = Field(default=1e-3, gt=0.0)
    estimator: Literal["empirical", "sampled"] = "empirical"


def _prepare(problem: MergeProblem, options: FisherMergingOptions) -> Prepared:
    model = required_model(problem, "fisher_merging")
    adapters, warnings = own_data(problem, "fisher_merging")
    fishers = [_fisher(problem, model, own, options) for own in adapters]
    report = {
        own.name: {"data": own.source, "samples": fisher.samples, "trace": fisher.trace()}
        for own, fisher in zip(adapters, fishers, strict=True)
    }
    layers: Fishers = {m: tuple(f.layers[m] for f in fishers) for m in problem.spaces}
    return Prepared(layers, {"fishers": report}, warnings)


def _fisher(problem: MergeProblem, model: "PreTrainedModel", own: OwnData, options: FisherMergingOptions) -> Fisher:
    """Fᵢ, which the adapter's weight does not change."""
    key = "fisher_merging", own.name, own.sign, options.structure, options.estimator
    found: Fisher = problem.cached(
        key,
        lambda: compute_fim(
            model,
            problem.spaces,
            own.batches,
            point=own.cores,
            structure=options.structure,
            estimator=options.estimator,
            # One seed for all: the order of the adapters must not matter.
            generator=torch.Generator().manual_seed(problem.seed),
            keep=problem.keep,
            progress=ticker(problem, f"Fisher of adapter {own.name}", own.batches),
        ),
    )
    return found


@merge_method(
    name="fisher_merging",
    summary="average weighted by each adapter's own Fisher information, in the core",
    paper="arXiv:2111.09832",
    options=FisherMergingOptions,
    needs=Needs(data=True),
    reads=Reads(of="adapters", gradients=1),
    prepare=_prepare,
    sweeps=(
        MethodSweep("Fisher merging", AVERAGES, knob=SAFETY_WEIGHT, prepare_once=True),
        MethodSweep("Fisher merging, kronecker", AVERAGES, _KRONECKER, knob=SAFETY_WEIGHT, prepare_once=True),
        MethodSweep("Fisher merging", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("Fisher merging"),
        TwoStageSweep.of_average("Fisher merging, kronecker", _KRONECKER),
    ),
)
def fisher_merging(layer: Layer, options: FisherMergingOptions, state: Fishers) -> Tensor:
    """λ (Σ|w|F̂)⁻¹ Σ|w|F̂ M.

    Args:
        layer: core matrices of one module.
        options: λ, structure and damping.
        state: every adapter's Fisher, by module.

    Returns:
        The merged core, (p, q).

    Raises:
        MergeError: all weights are 0.
    """
    fishers = state[layer.module]
    weights = tuple(abs(w) for w in layer.weights)
    patches = [m.double().cpu() for m in signed_patches(layer)]
    used = [i for i, w in enumerate(weights) if w > 0]
    if not used:
        raise MergeError("fisher_merging divides by the adapters' weights, which are all 0")
    if len(used) == 1:
        # Whatever the Fisher is, it cancels.
        return options.strength * signed_patches(layer)[used[0]]
    if options.structure == "diagonal":
        diagonals = [fishers[i].diagonal() for i in used]
        mean = float(torch.stack(diagonals).mean())
        floor = options.damping * mean if mean > 0 else 1.0
        shares = torch.stack([weights[i] * (d + floor) for i, d in zip(used, diagonals, strict=True)])
        merged = (shares * torch.stack([patches[i] for i in used])).sum(0) / shares.sum(0)
    elif all(fishers[i].trace() == 0 for i in used):
        merged = torch.stack([weights[i] * patches[i] for i in used]).sum(0) / sum(weights)
    else:
        terms = tuple(DampedFisher(fishers[i], options.damping) for i in used)
        scales = tuple(weights[i] for i in used)
        target = torch.stack([w * t.matvec(patches[i]) for i, t, w in zip(used, terms, scales, strict=True)]).sum(0)
        merged = solve_linear(OperatorSum(terms, scales), target)
    return (options.strength * merged).to(layer.patches[0])
