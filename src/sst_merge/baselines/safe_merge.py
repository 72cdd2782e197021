"""SafeMERGE (Djuhera et al., arXiv:2503.17239): mix the safety adapter in where the task update left alignment.

    ΔW = (1 − b) ΔW_task + b ΔW_safety   where   cos(C ΔW_task, ΔW_task) < τ,   else ΔW_task

with Safe LoRA's C = V Vᵀ / ‖V‖_F (arXiv:2405.16833), V = W_aligned − W_unaligned. ΔW_task and ΔW_safety are the
weighted sums of the utility and of the safety adapters. Reference defaults: τ = 0.35, a = 1 − b = 0.8.

Variant for LoRA: the mixture is of ΔW (the published code mixes A with A and B with B, which adds cross terms), and
where no pair of bases is given the safety adapters' weighted sum stands for V. In a module where V = 0 nothing is
known about alignment, and the task update stays.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, merge_method
from ..methods.parts.alignment import Alignment, alignment_cosine, alignment_operators, alignment_source
from ..methods.sweeps import MethodSweep

__all__ = ["SafeMergeOptions", "safe_merge"]


class SafeMergeOptions(MethodOptions):
    """Options of SafeMERGE.

    Attributes:
        threshold: τ; modules with a lower cosine are mixed. Above 1 mixes everything, at most -1 nothing.
        safety_share: b, the safety update's share in a mixed module.
        alignment: where V comes from; ``auto`` takes both bases' weights where given, else the safety adapters.
    """

    threshold: float = Field(default=0.35, ge=-1.0, le=1.01)
    safety_share: float = Field(default=0.2, ge=0.0, le=1.0)
    alignment: Alignment = "auto"


def _prepare(problem: MergeProblem, options: SafeMergeOptions) -> Prepared:
    source = alignment_source(problem, options.alignment, "safe_merge")
    spaces, operators = alignment_operators(problem, source)
    task = point_cores(problem.adapters, spaces, role="utility")
    cosines = {m: alignment_cosine(operators[m], core.double()) for m, core in task.items()}
    known = {m: cos for m, cos in cosines.items() if cos is not None}
    mixed = {m: cos < options.threshold for m, cos in known.items()}
    report = {"alignment": source, "cosine": known, "mixed": sum(mixed.values())}
    warnings = () if report["mixed"] else ("no module was below the threshold, so no safety update was mixed in",)
    return Prepared(mixed, report, warnings, spaces)


@merge_method(
    name="safe_merge",
    summary="the safety update is mixed in where the task update left the alignment direction",
    paper="arXiv:2503.17239",
    options=SafeMergeOptions,
    needs=Needs(aligned_base=True, roles=frozenset({"utility", "safety"})),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="safety_share",
    sweeps=(MethodSweep("SafeMERGE", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), prepare_once=True),),
)
def safe_merge(layer: Layer, options: SafeMergeOptions, state: Mapping[str, bool]) -> Tensor:
    """(1 − b) M_U + b M_S in mixed modules, M_U in the others.

    Args:
        layer: core matrices of one module.
        options: b.
        state: whether a module is mixed.

    Returns:
        The merged core, (p, q).
    """
    task = layer.weighted_sum("utility")
    if not state.get(layer.module, False):
        return task
    return task + options.safety_share * (layer.weighted_sum("safety") - task)
