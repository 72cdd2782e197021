"""AlignMerge without its budget (Roy et al., arXiv:2512.16245): experts averaged around an aligned model.

With θ_A the aligned model (the anchor), Δᵢ = θᵢ − θ_A an expert seen from it, G its Fisher information, and P_A the
projector onto the directions that alignment is sensitive to:

    min over δ of  Σᵢ λᵢ ‖δ − Δᵢ‖²_G + λ_A ‖P_A δ‖²_G ,   Σᵢ λᵢ = 1

Here G is the Fisher of the harmful prompts with their refusals at the anchor, and P_A spans its top eigenvectors.
Then P_A and G commute, G drops out, and the minimum is the weighted average, less far within P_A:

    δ = (I − λ_A / (1 + λ_A) P_A) Σᵢ λᵢ Δᵢ

The anchor is the average of the safety adapters, themselves experts there, or with ``aligned_base`` the base.

Deviations. The third term of the paper, a soft budget on how well safe and unsafe answers separate in hidden states
(AQI), is left out: neither the budget nor how its index is differentiated is published with code. Data of G and the
estimate of P_A (a share of the trace, as in AlignGuard-LoRA) are ours, and so is the default λ_A = 1. Everything lies
in the core space.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator import Fisher, auto_structure, compute_fim, point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.own_data import required_model, signed_patches, ticker
from ..methods.parts.top_directions import TopDirections
from ..methods.sweeps import AVERAGES, SAFETY_WEIGHT, MethodSweep

__all__ = ["align_merge"]


class AlignMergeOptions(MethodOptions):
    """Options of AlignMerge.

    Attributes:
        strength: λ_A, price of leaving the anchor within P_A; 0 is the weighted average.
        m: number of eigenvectors per module; overrides ``share``.
        share: take the fewest eigenvectors per module that hold this share of the Fisher's trace.
        structure: which correlations the Fisher keeps; ``auto`` takes ``block`` while it fits, else ``kronecker``.
        aligned_base: no safety adapter is given because the base itself is aligned.
    """

    strength: float = Field(default=1.0, ge=0.0)
    m: int | None = Field(default=None, ge=0)
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    structure: Literal["auto", "kronecker", "block"] = "auto"
    aligned_base: bool = False


def _prepare(problem: MergeProblem, options: AlignMergeOptions) -> Prepared:
    model = required_model(problem, "align_merge")
    safety = [adapter for adapter in problem.adapters if adapter.role == "safety"]
    size = sum(abs(adapter.weight) for adapter in safety)
    if safety and options.aligned_base:
        raise MergeError(
            f"method 'align_merge' found safety adapter {safety[0].name!r} and aligned_base: true; expected one "
            f"anchor: leave the adapter out where the base itself is aligned, or leave out aligned_base"
        )
    if size == 0 and not options.aligned_base:
        raise MergeError(
            "method 'align_merge' found no adapter of role safety with a weight above 0; give one, or set "
            "aligned_base: true where the base itself is aligned and the experts must not disturb that"
        )
    structure = auto_structure(problem.spaces) if options.structure == "auto" else options.structure
    # A single one is itself the anchor, to the last bit, whatever its weight.
    anchor = point_cores([adapter.with_(weight=adapter.weight / size) for adapter in safety], problem.spaces)
    fisher: Fisher = compute_fim(
        model,
        problem.spaces,
        problem.harm,
        point=anchor,
        structure=structure,
        estimator="empirical",
        keep=problem.keep,
        progress=ticker(problem, "Fisher of harmful prompts", problem.harm),
    )
    state = {m: TopDirections.of(layer, m=options.m, share=options.share) for m, layer in fisher.layers.items()}
    counts = {module: found.count for module, found in state.items()}
    return Prepared(state, {"structure": structure, "directions": counts, "trace": fisher.trace()})


@merge_method(
    name="align_merge",
    summary="experts averaged around an aligned model, less far where refusals are sensitive (without its budget)",
    paper="arXiv:2512.16245",
    options=AlignMergeOptions,
    needs=Needs(data=True, roles=frozenset({"utility"})),
    reads=Reads(of="harm", gradients=1),
    promises=Promises(exact=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("AlignMerge", AVERAGES, knob=SAFETY_WEIGHT, prepare_once=True),
        MethodSweep(
            "AlignMerge",
            (0.0, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
            {"aligned_base": True},
            prepare_once=True,
            base="aligned",
        ),
    ),
)
def align_merge(layer: Layer, options: AlignMergeOptions, state: dict[str, TopDirections]) -> Tensor:
    """M_A + (I − λ_A / (1 + λ_A) P_A) Σ λᵢ (Mᵢ − M_A).

    Args:
        layer: core matrices of one module.
        options: λ_A.
        state: P_A, by module.

    Returns:
        The merged core, (p, q).

    Raises:
        MergeError: all weights are 0.
    """
    size = sum(abs(weight) for weight in layer.weights)
    if size == 0:
        raise MergeError("align_merge divides by the adapters' weights, which are all 0")
    safe = sum(abs(w) for w, role in zip(layer.weights, layer.roles, strict=True) if role == "safety")
    anchor = layer.weighted_sum("safety").double().cpu() / (safe or 1.0)
    moved = anchor.new_zeros(anchor.shape)
    for patch, weight, role in zip(signed_patches(layer), layer.weights, layer.roles, strict=True):
        if role == "utility":
            moved += abs(weight) / size * (patch.double().cpu() - anchor)
    held = options.strength / (1.0 + options.strength)
    return (anchor + moved - held * state[layer.module].project(moved)).to(layer.patches[0])
