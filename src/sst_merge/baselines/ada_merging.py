"""Layer-wise coefficients learned on calibration data, after AdaMerging (Yang et al., arXiv:2310.02575).

    M_l = λ Σᵢ c_li wᵢ Mᵢ_l,   c = argmax  s · log p(refusal | harmful prompt) + log p(answer | benign prompt)

One coefficient per module and adapter, all 1 at the start, moved by Adam through the model with frozen weights.

Deviations: AdaMerging minimises the entropy of a classifier's predictions on unlabelled test data. A language model's
entropy says nothing about whether it refuses, so the objective is the likelihood of calibration answers, and the data
are labelled calibration prompts, never test prompts. Defaults: 20 steps of Adam at 0.1 (the paper: hundreds at 1e-3).
"""

import torch
from pydantic import Field
from torch import Tensor

from ..errors import MergeError
from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.learned_coefficients import learn_coefficients
from ..methods.sweeps import HARM_WEIGHTS, MethodSweep

__all__ = ["ada_merging"]


class AdaMergingOptions(MethodOptions):
    """Options of AdaMerging.

    Attributes:
        harm_weight: s, weight of the refusals' likelihood against that of the benign answers.
        strength: λ, multiplies the result.
        steps: steps of Adam; 0 is the weighted sum.
        learning_rate: step size of Adam.
    """

    harm_weight: float = Field(default=1.0, ge=0.0)
    strength: float = 1.0
    steps: int = Field(default=20, ge=0)
    learning_rate: float = Field(default=0.1, gt=0.0)


def _prepare(problem: MergeProblem, options: AdaMergingOptions) -> Prepared:
    if len(problem.adapters) < 2:
        raise MergeError("method 'ada_merging' weighs adapters against each other; found one, give at least two")
    modules = list(problem.spaces)
    cores = [point_cores([adapter], problem.spaces) for adapter in problem.adapters]

    def merged(coefficients: Tensor) -> dict[str, Tensor]:
        found = {}
        for row, module in enumerate(modules):
            parts = [coefficients[row, i] * own[module] for i, own in enumerate(cores) if module in own]
            found[module] = options.strength * torch.stack(parts).sum(0)
        return found

    space = problem.spaces[modules[0]]
    learned, objectives = learn_coefficients(
        problem,
        torch.ones(len(modules), len(cores), dtype=space.left.dtype, device=space.left.device),
        merged,
        method="ada_merging",
        harm_weight=options.harm_weight,
        steps=options.steps,
        learning_rate=options.learning_rate,
    )
    state = {module: tuple(float(c) for c in learned[row]) for row, module in enumerate(modules)}
    names = [adapter.name for adapter in problem.adapters]
    report = {
        "coefficients": {m: dict(zip(names, found, strict=True)) for m, found in state.items()},
        "objective": [round(value, 4) for value in objectives],
    }
    return Prepared(state, report)


@merge_method(
    name="ada_merging",
    summary="layer-wise coefficients learned on calibration answers",
    paper="arXiv:2310.02575",
    options=AdaMergingOptions,
    needs=Needs(data=True),
    reads=Reads(steps="steps"),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="harm_weight",
    sweeps=(MethodSweep("AdaMerging", HARM_WEIGHTS),),
)
def ada_merging(layer: Layer, options: AdaMergingOptions, state: dict[str, tuple[float, ...]]) -> Tensor:
    """λ Σ c w M; the state has the coefficients of every module, one per adapter."""
    parts = [c * w * m for c, w, m in zip(state[layer.module], layer.weights, layer.patches, strict=True)]
    return options.strength * torch.stack(parts).sum(0)
