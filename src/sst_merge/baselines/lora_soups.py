"""Learned layer-wise soup (LoRA Soups, "CAT": Prabhakar et al., arXiv:2410.13025).

    M_l = λ Σᵢ c_li sign(wᵢ) Mᵢ_l,   c_l = softmax(a_l),   a = argmax Σᵢ |wᵢ| log p(answers of adapter i's own data)

One number per module and adapter is trained through the model, all adapters and the base being frozen; the softmax over
the adapters of a module, which the authors' code has, makes an average of it. All c are equal at the start. One adapter
comes back exactly.

``ada_merging`` is the other one of its kind: its coefficients are free, start at 1, and answer to refusals and common
benign answers. These are shares, and answer to every adapter's own data.

Deviations: the authors start from random numbers and take AdamW at 3e-4 for some epochs of a mixture of the tasks'
training data; here calibration data are fewer, so that 20 steps of Adam at 0.1 are the default, each on one batch of
every adapter's data. A safety adapter's data are the harmful prompts with refusals. λ multiplies what was learned.
"""

import torch
from pydantic import Field
from torch import Tensor

from ..methods import Layer, MergeProblem, Needs, Prepared, Reads, StrengthOptions, merge_method
from ..methods.parts.learned_coefficients import learn_coefficients
from ..methods.parts.own_data import own_data, required_model, signed_patches
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

__all__ = ["lora_soups"]


class LoraSoupsOptions(StrengthOptions):
    """Options of the learned soup.

    Attributes:
        steps: steps of Adam; 0 is the plain average.
        learning_rate: step size of Adam.
    """

    steps: int = Field(default=20, ge=0)
    learning_rate: float = Field(default=0.1, gt=0.0)


def _prepare(problem: MergeProblem, options: LoraSoupsOptions) -> Prepared:
    required_model(problem, "lora_soups")
    adapters, warnings = own_data(problem, "lora_soups")
    used = [own for own in adapters if own.weight > 0]
    modules = list(problem.spaces)

    def merged(scores: Tensor) -> dict[str, Tensor]:
        found = {}
        for shares, module in zip(scores.softmax(1), modules, strict=True):
            parts = [share * own.cores[module] for share, own in zip(shares, used, strict=True) if module in own.cores]
            if parts:
                found[module] = torch.stack(parts).sum(0)
        return found

    space = problem.spaces[modules[0]]
    total = sum(own.weight for own in used)
    scores, objectives = learn_coefficients(
        problem,
        torch.zeros(len(modules), len(used), dtype=space.left.dtype, device=space.left.device),
        merged,
        method="lora_soups",
        steps=options.steps if len(used) > 1 else 0,
        learning_rate=options.learning_rate,
        terms=[(own.weight / total, own.batches) for own in used],
    )
    learned = scores.double().softmax(1).tolist()
    names = [own.name for own in used]
    shares = {module: dict(zip(names, row, strict=True)) for module, row in zip(modules, learned, strict=True)}
    report = {
        "coefficients": {m: {name: round(share, 4) for name, share in row.items()} for m, row in shares.items()},
        "objective": [round(value, 4) for value in objectives],
        "data": {own.name: own.source for own in adapters},
    }
    return Prepared(shares, report, warnings)


@merge_method(
    name="lora_soups",
    summary="averages whose shares, module by module, are learned on every adapter's own data",
    paper="arXiv:2410.13025",
    options=LoraSoupsOptions,
    needs=Needs(data=True),
    reads=Reads(of="adapters", steps="steps"),
    prepare=_prepare,
    sweeps=(
        MethodSweep("LoRA Soups", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("LoRA Soups", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("LoRA Soups"),
    ),
)
def lora_soups(layer: Layer, options: LoraSoupsOptions, state: dict[str, dict[str, float]]) -> Tensor:
    """λ Σ c sign(w) M; the state has the shares of every module, by the adapter's name."""
    shares = state[layer.module]
    parts = [shares.get(name, 0.0) * patch for name, patch in zip(layer.names, signed_patches(layer), strict=True)]
    return options.strength * torch.stack(parts).sum(0)
