"""Training on the calibration data alone: the control of every method that looks at calibration data.

    M = λ · argmax  s · log p(refusal | harmful prompt) + log p(answer | benign prompt),   M from zero

Cores of the same spaces are trained by Adam on the answers of the calibration prompts; nothing of the adapters is used
but the subspaces that they span, and their size as the unit of a step. A merge that this control beats has no reason to
exist, for whoever has these prompts could have trained on them.

Every step takes one harmful batch and one benign batch, in turn; the benign ones are those of all adapters' own data,
one adapter after the other, with the common benign batches between them. Defaults: 150 steps at 0.05 of the adapters'
root mean square, as a refinement takes.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from math import prod, sqrt

import torch
from pydantic import Field
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import MergeError
from ..fim_calculator import CoreModel, point_cores, token_logprobs
from ..methods import Layer, MergeProblem, MethodOptions, Needs, Prepared, Promises, Reads, merge_method
from ..methods.parts.own_data import required_model
from ..methods.sweeps import LESS, SUMS, MethodSweep, TwoStageSweep

__all__ = ["calibration_only"]


class CalibrationOnlyOptions(MethodOptions):
    """Options of the control.

    Attributes:
        strength: λ, multiplies the result.
        harm_weight: s, weight of the refusals' likelihood against that of the benign answers.
        steps: steps of Adam.
        learning_rate: step size of Adam, relative to the root mean square of all adapters' cores.
    """

    strength: float = 1.0
    harm_weight: float = Field(default=1.0, ge=0.0)
    steps: int = Field(default=150, ge=1)
    learning_rate: float = Field(default=0.05, gt=0.0)


def _prepare(problem: MergeProblem, options: CalibrationOnlyOptions) -> Prepared:
    key = ("calibration_only", options.harm_weight, options.steps, options.learning_rate, *problem.spaces)
    cores, objectives = problem.cached(key, lambda: _trained(problem, options))
    return Prepared(cores, {"objective": [round(value, 4) for value in objectives]})


def _trained(problem: MergeProblem, options: CalibrationOnlyOptions) -> tuple[dict[str, Tensor], list[float]]:
    model = required_model(problem, "calibration_only")
    benign = _in_turn([*problem.adapter_benign.values(), problem.benign])
    if not benign:
        raise MergeError("method 'calibration_only' found no benign calibration batches; give benign data")
    size = _root_mean_square(problem)
    cores = {m: space.left.new_zeros(space.shape, requires_grad=True) for m, space in problem.spaces.items()}
    optimizer = torch.optim.Adam(list(cores.values()), lr=options.learning_rate * size)
    objectives = []
    with CoreModel(model, problem.spaces) as attached:
        for step in range(options.steps):
            attached.set_point(cores)
            objective = _likelihood(attached, benign[step % len(benign)])
            if problem.harm and options.harm_weight:
                harmful = _likelihood(attached, problem.harm[step % len(problem.harm)])
                objective = objective + options.harm_weight * harmful
            optimizer.zero_grad()
            (-objective).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            objectives.append(float(objective.detach()))
            if problem.progress is not None:
                problem.progress("training on calibration data", step + 1, options.steps)
    return {m: core.detach() for m, core in cores.items()}, objectives


def _in_turn(groups: Sequence[Sequence[Batch]]) -> list[Batch]:
    """One batch of every group, then the next of each."""
    return [batch for batch in chain.from_iterable(zip_longest(*groups)) if batch is not None]


def _root_mean_square(problem: MergeProblem) -> float:
    """Of the entries of all adapters' cores, whatever their weights."""
    found: list[Mapping[str, Tensor]] = [point_cores([a.with_(weight=1.0)], problem.spaces) for a in problem.adapters]
    total = sum(float(core.double().square().sum()) for cores in found for core in cores.values())
    entries = len(found) * sum(prod(space.shape) for space in problem.spaces.values())
    return sqrt(total / entries)


def _likelihood(attached: CoreModel, batch: Batch) -> Tensor:
    """Mean log-probability per answer token: a scalar, nats."""
    return token_logprobs(attached.answers(batch, share=True))[0].mean()


@merge_method(
    name="calibration_only",
    summary="control: trained on the calibration data, without the adapters' updates",
    paper="control",
    options=CalibrationOnlyOptions,
    needs=Needs(data=True),
    reads=Reads(of="all", steps="steps"),
    promises=Promises(exact=False, symmetric=False, gauge_invariant=False),
    prepare=_prepare,
    sweeps=(
        MethodSweep("Calibration data alone", SUMS, prepare_once=True),
        MethodSweep("Calibration data alone", LESS, prepare_once=True, base="aligned"),
        TwoStageSweep.of_sum("Calibration data alone"),
    ),
)
def calibration_only(layer: Layer, options: CalibrationOnlyOptions, state: Mapping[str, Tensor]) -> Tensor:
    """λ M of the layer, as it was trained."""
    return options.strength * state[layer.module].to(layer.patches[0])
