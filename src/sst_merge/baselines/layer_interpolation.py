"""Layer-wise interpolation between skills and safety, tuned on calibration data: a control for every fine subspace.

    M_l = M_U + t_l (M_S − M_U)  (``interpolate``)   or   M_U + t_l M_S  (``add``),   0 ≤ t_l ≤ 1

with one t per transformer layer (modules outside of the layers have their own), chosen by Adam to maximise
s · log p(refusal | harmful prompt) + log p(answer | benign prompt). It asks how much of a method's gain comes from
choosing *layers* alone; a method that also chooses directions inside a layer must beat it. Sweeping s gives its front.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..fim_calculator import point_cores
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.blocks import block_name
from ..methods.parts.learned_coefficients import learn_coefficients
from ..methods.sweeps import HARM_WEIGHTS, MethodSweep

__all__ = ["layer_interpolation"]


class LayerInterpolationOptions(MethodOptions):
    """Options of the layer-wise interpolation.

    Attributes:
        harm_weight: s, weight of the refusals' likelihood against that of the benign answers.
        combine: move from the utility patch towards the safety patch, or add the safety patch.
        start: t of every layer before the first step.
        steps: steps of Adam; 0 keeps the start.
        learning_rate: step size of Adam.
    """

    harm_weight: float = Field(default=1.0, ge=0.0)
    combine: Literal["interpolate", "add"] = "interpolate"
    start: float = Field(default=0.5, ge=0.0, le=1.0)
    steps: int = Field(default=20, ge=0)
    learning_rate: float = Field(default=0.1, gt=0.0)


def _prepare(problem: MergeProblem, options: LayerInterpolationOptions) -> Prepared:
    zeros = {m: space.coordinates(None) for m, space in problem.spaces.items()}
    utility = zeros | point_cores(problem.adapters, problem.spaces, role="utility")
    safety = zeros | point_cores(problem.adapters, problem.spaces, role="safety")
    change = {m: safety[m] - utility[m] if options.combine == "interpolate" else safety[m] for m in zeros}
    names = {m: block_name(m) for m in zeros}
    layers = list(dict.fromkeys(names.values()))
    row = {m: layers.index(name) for m, name in names.items()}
    first = next(iter(zeros.values()))
    learned, objectives = learn_coefficients(
        problem,
        torch.full((len(layers),), options.start, dtype=first.dtype, device=first.device),
        lambda t: {m: utility[m] + t[row[m]] * change[m] for m in zeros},
        method="layer_interpolation",
        harm_weight=options.harm_weight,
        steps=options.steps,
        learning_rate=options.learning_rate,
        bounds=(0.0, 1.0),
    )
    report = {
        "t": {name: float(learned[i]) for i, name in enumerate(layers)},
        "objective": [round(value, 4) for value in objectives],
    }
    return Prepared({m: float(learned[row[m]]) for m in zeros}, report)


@merge_method(
    name="layer_interpolation",
    summary="control: one interpolation coefficient per layer, tuned on calibration data",
    paper="control",
    options=LayerInterpolationOptions,
    needs=Needs(data=True, roles=frozenset({"utility", "safety"})),
    reads=Reads(steps="steps"),
    promises=Promises(exact=False),
    prepare=_prepare,
    knob="harm_weight",
    sweeps=(MethodSweep("Layer-wise interpolation", HARM_WEIGHTS),),
)
def layer_interpolation(layer: Layer, options: LayerInterpolationOptions, state: dict[str, float]) -> Tensor:
    """M_U + t (M_S − M_U), or M_U + t M_S; the state has t of every module."""
    utility, safety = layer.weighted_sum("utility"), layer.weighted_sum("safety")
    change = safety - utility if options.combine == "interpolate" else safety
    return utility + state[layer.module] * change
