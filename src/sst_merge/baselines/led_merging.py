"""LED-Merging (Ma et al., arXiv:2502.16770): locate, elect, disjoint.

    locate:    s(θ) = E_x |θ ⊙ ∇_θ L(x; θ)| for the base θ₀ and for each tuned θᵢ = θ₀ + sign(wᵢ) ΔWᵢ, on task i's data
    elect:     Eᵢ = top ρ of s(θ₀) ∩ top ρ of s(θᵢ), per tensor
    disjoint:  Dᵢ = Eᵢ without what any other task elected
    merge:     ΔW = λ Σ wᵢ Dᵢ ⊙ ΔWᵢ

L is the mean negative log-likelihood per answer token; gradients are taken sample by sample, as averaging them first
would cancel signs. A safety adapter's task is the harm data (prompts with refusals), an adapter without data of its
own is judged on the common benign data, with a warning. Default ρ = 0.1, the smallest rate of the published masks.

Entry-wise: one layer's ΔW is formed at a time and the result is not low-rank (output rank or energy decides what is
kept). The masks of all layers are held, one byte per weight and adapter, and gradients of ``memory_gib`` worth of
modules at a time. The constant input of a LoRA bias has no weight to score and is merged as a plain sum.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core_space import CoreSpace
from ..data_loader.batch import Batch
from ..errors import MergeError
from ..methods import Layer, MergeProblem, Needs, Prepared, Promises, Reads, StrengthOptions, merge_method
from ..methods.parts.input_moments import budget_groups
from ..methods.parts.own_data import OwnData, own_data, required_model
from ..methods.parts.weight_gradients import single_samples, summed_gradients
from ..methods.sweeps import SAFETY_WEIGHT, TRIMMED, MethodSweep

__all__ = ["led_merging"]


class LedMergingOptions(StrengthOptions):
    """Options of LED-Merging.

    Attributes:
        rate: ρ, share of a tensor's entries that a score may claim; 1 elects everything.
        disjoint: whether entries that several tasks elected are left out.
        samples: how many rows of each task's data, the first ones.
        memory_gib: for the gradients and scores of one group of modules.
    """

    rate: float = Field(default=0.1, gt=0.0, le=1.0)
    disjoint: bool = True
    samples: int = Field(default=64, ge=1)
    memory_gib: float = Field(default=2.0, gt=0.0)


def _prepare(problem: MergeProblem, options: LedMergingOptions) -> Prepared:
    if len(problem.adapters) < 2:
        raise MergeError("method 'led_merging' keeps tasks apart from each other; found one adapter, give at least two")
    model = required_model(problem, "led_merging")
    adapters, warnings = own_data(problem, "led_merging")
    # Weights' gradients and scores, five float32 copies.
    sizes = {m: 20.0 * space.left.shape[0] * space.d_in for m, space in problem.spaces.items()}
    groups = list(budget_groups(sizes, options.memory_gib))
    elected: dict[str, list[Tensor]] = {m: [] for m in problem.spaces}
    for done, own in enumerate(adapters, start=1):
        samples = single_samples(own.batches, options.samples)
        for group in groups:
            at_base = importance(model, problem.spaces, samples, group, point=None)
            tuned = importance(model, problem.spaces, samples, group, point=_tuned(own, group, problem.spaces))
            for module in group:
                elected[module].append(_top(at_base[module], options.rate) & _top(tuned[module], options.rate))
        if problem.progress is not None:
            problem.progress("locating weights", done, len(adapters))
    masks = {m: _disjoint(found) if options.disjoint else tuple(found) for m, found in elected.items()}
    kept = {
        own.name: sum(int(masks[m][i].sum()) for m in masks) / sum(masks[m][i].numel() for m in masks)
        for i, own in enumerate(adapters)
    }
    return Prepared(masks, {"kept_entries": kept, "data": {own.name: own.source for own in adapters}}, warnings)


def importance(
    model: nn.Module,
    spaces: Mapping[str, CoreSpace],
    samples: Sequence[Batch],
    modules: Sequence[str],
    *,
    point: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """E_x |θ ⊙ ∇_θ L(x)| of the weights of some modules.

    Args:
        model: the base model; its weights are only read.
        spaces: core spaces in which the point lies.
        samples: batches of one sample.
        modules: whose weights are scored.
        point: cores that are added to the base; the base itself by default.

    Returns:
        Module → (d_out, d_in), on the CPU.

    Raises:
        BaseModelError: a weight that has no gradient, such as a quantised one.
    """
    totals = summed_gradients(model, spaces, samples, modules, torch.abs, point=point)
    scores = {}
    for module, total in totals.items():
        space, stored = spaces[module], model.get_parameter(f"{module}.weight")
        value = space.kind.matrix(stored.detach()).to("cpu", torch.float32)
        core = None if point is None else point.get(module)
        if core is not None:
            right = space.right[: space.d_in]
            value = value + (space.left @ core @ right.T).to(value)
        scores[module] = value.abs() * total.cpu() / max(len(samples), 1)
    return scores


def _tuned(own: OwnData, group: Sequence[str], spaces: Mapping[str, CoreSpace]) -> dict[str, Tensor]:
    """The adapter's own point, with explicit zeros in modules that it does not touch."""
    return {**own.cores, **{m: spaces[m].coordinates(None) for m in group if m not in own.cores}}


def _top(scores: Tensor, rate: float) -> Tensor:
    """Entries among the largest ρ of a tensor, those equal to the last one included; scores of 0 never."""
    count = max(1, int(rate * scores.numel()))
    flat = scores.flatten()
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    return scores >= threshold if rate == 1.0 else (scores >= threshold) & (scores > 0)


def _disjoint(elected: Sequence[Tensor]) -> tuple[Tensor, ...]:
    claims = torch.stack([mask.to(torch.int16) for mask in elected]).sum(0)
    return tuple(mask & (claims == 1) for mask in elected)


@merge_method(
    name="led_merging",
    summary="each task's important entries, without those that other tasks claim",
    paper="arXiv:2502.16770",
    options=LedMergingOptions,
    domain="delta",
    needs=Needs(data=True),
    reads=Reads(of="adapters", gradients=2),
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(MethodSweep("LED-Merging", TRIMMED, knob=SAFETY_WEIGHT, prepare_once=True),),
)
def led_merging(layer: Layer, options: LedMergingOptions, state: Mapping[str, tuple[Tensor, ...]]) -> Tensor:
    """λ Σ w D ⊙ ΔW on one layer's entries; the state has D of every adapter, by module."""
    merged = torch.zeros_like(layer.patches[0])
    for patch, weight, mask in zip(layer.patches, layer.weights, state[layer.module], strict=True):
        scored = mask.shape[1]
        kept = torch.cat([patch[:, :scored] * mask.to(patch.device), patch[:, scored:]], dim=1)
        merged = merged + weight * kept
    return options.strength * merged
