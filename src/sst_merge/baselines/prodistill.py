"""ProDistill (Xu et al., arXiv:2502.12706, ICML 2025): block after block, the merge imitates every expert's features.

    M_l = λ Σᵢ Cᵢ_l ∘ sign(wᵢ) Mᵢ_l,   C of a block b = argmin Σᵢ |wᵢ| / Σ|w| · E ‖f_b(x̃ᵢ; merge) − f_b(xᵢ; expert i)‖²

Cᵢ_l has one coefficient for every entry of adapter i's core in module l; those of all modules of a block are learned
together. f_b is what the block gives out for one token, the mean is over all tokens of adapter i's own data. The inputs
are dual: x̃ᵢ comes from the merged blocks below, xᵢ from the expert's own. Blocks are done from the first to the last.
Coefficients start as the weighted average (the authors' 0.5 for two language models); defaults are the authors' for
language models, Adam at 0.1 and 100 steps for an expert's one batch of 16 prompts.

Cost: in every block ``steps`` forward and backward passes of that block over one batch of every adapter, which is about
``steps`` such passes over the model in all, and two forward passes over all data. Two sets of hidden states behind one
block, the merge's and the experts', are kept for all tokens (reported).

Deviations: in the paper every entry of ΔW has a coefficient, and the product is of full rank; here every entry of the
core in its principal directions, so that the result stays in the adapters' spans. The authors step after each batch, in
random order; here after one batch of every adapter, in turn, so that the order of adapters does not matter: of more
than ``steps`` batches the last are not learned from. The mean over tokens (the authors: a sum) keeps the amount of text
from weighing. Texts are prompts with answers, as for ``regmean``; the authors' are prompts. What lies outside of the
blocks, such as embeddings and the output layer, is averaged, as by the authors. λ, which the paper does not have,
multiplies the result alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from ..fim_calculator import CoreModel
from ..methods import Layer, MergeProblem, Needs, Prepared, Reads, StrengthOptions, merge_method
from ..methods.parts.blocks import BlockStates, block_order
from ..methods.parts.input_moments import EnoughError
from ..methods.parts.own_data import OwnData, own_data, required_model
from ..methods.parts.regression import merged_or_average
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["prodistill"]


class ProDistillOptions(StrengthOptions):
    """Options of ProDistill.

    Attributes:
        steps: steps of Adam in every block; 0 is the weighted average.
        learning_rate: step size of Adam.
    """

    steps: int = Field(default=100, ge=0)
    learning_rate: float = Field(default=0.1, gt=0.0)


def _prepare(problem: MergeProblem, options: ProDistillOptions) -> Prepared:
    model = required_model(problem, "prodistill")
    adapters, warnings = own_data(problem, "prodistill")
    used = [own for own in adapters if own.weight > 0]
    report: dict[str, object] = {"data": {own.name: own.source for own in adapters}}
    if len(used) < 2 or options.steps == 0:
        return Prepared({}, report, warnings)
    order = block_order(model, problem.spaces, used[0].batches[0])
    if not order.blocks:
        warnings += ("no merged module lies in a transformer block, so prodistill has averaged all of them",)
    imitation = _Imitation(problem, model, used, options, tuple(order.blocks), order.before)
    for index, modules in enumerate(order.blocks.values()):
        imitation.block(index, modules)
    report |= {
        "blocks": len(order.blocks),
        "objective": dict(zip(order.blocks, imitation.objectives, strict=True)),
        "hidden_states_bytes": imitation.bytes,
    }
    return Prepared(imitation.merged, report, warnings)


class _Imitation:
    """What is merged so far, with the hidden states of merge and experts behind it.

    Attributes:
        merged: core of every module in the blocks so far, on the CPU.
        objectives: of every block so far, at its first and its last step.
        bytes: most that hidden states took.
    """

    def __init__(
        self,
        problem: MergeProblem,
        model: "PreTrainedModel",
        adapters: Sequence[OwnData],
        options: ProDistillOptions,
        blocks: Sequence[str],
        before: Sequence[str],
    ) -> None:
        self._problem, self._model, self._adapters, self._options = problem, model, adapters, options
        self._last = len(blocks) - 1
        self._merge = {own.name: BlockStates(model, blocks) for own in adapters}
        self._experts = {own.name: BlockStates(model, blocks) for own in adapters}
        total = sum(own.weight for own in adapters)
        self._shares = [own.weight / total for own in adapters]
        self._point = {module: self._average(self._cores(module)) for module in before}
        self.merged: dict[str, Tensor] = {}
        self.objectives: list[list[float]] = []
        self.bytes = 0

    def block(self, index: int, modules: Sequence[str]) -> None:
        """Merge the modules of one block; all blocks below are done."""
        with CoreModel(self._model, self._problem.spaces) as attached:
            for own in self._adapters:
                self._advance(attached, self._experts[own.name], index, own, own.cores)
            self._point |= self._learned(attached, index, modules)
            if index < self._last:
                for own in self._adapters:
                    self._advance(attached, self._merge[own.name], index, own, self._point)
        self.merged |= {module: self._point[module].cpu() for module in modules}
        kept = [*self._merge.values(), *self._experts.values()]
        self.bytes = max(self.bytes, sum(states.bytes for states in kept))

    @torch.no_grad()
    def _advance(
        self, attached: CoreModel, states: BlockStates, index: int, own: OwnData, point: Mapping[str, Tensor]
    ) -> None:
        """Compute a block for all of an adapter's data."""
        attached.set_point(point)
        with states.at(index, advance=True):
            for batch in own.batches:
                with suppress(EnoughError):
                    attached.answers(batch)

    def _learned(self, attached: CoreModel, index: int, modules: Sequence[str]) -> dict[str, Tensor]:
        """Cores of one block's modules, after all steps."""
        cores = {module: self._cores(module) for module in modules}
        coefficients = {
            module: torch.stack([torch.full_like(c, share) for c, share in zip(found, self._shares, strict=True)])
            for module, found in cores.items()
        }
        for free in coefficients.values():
            free.requires_grad_(True)
        optimizer = torch.optim.Adam(list(coefficients.values()), lr=self._options.learning_rate)
        objectives = []
        for step in range(self._options.steps):
            optimizer.zero_grad()
            objective = 0.0
            # One adapter's activations at a time: there may be twenty.
            for own, share in zip(self._adapters, self._shares, strict=True):
                attached.set_point(self._point | {m: (free * cores[m]).sum(0) for m, free in coefficients.items()})
                term = share * self._distance(attached, index, own, step % len(own.batches))
                term.backward()  # type: ignore[no-untyped-call]
                objective += float(term.detach())
            optimizer.step()
            objectives.append(objective)
            if self._problem.progress is not None:
                self._problem.progress(f"features of block {index + 1}", step + 1, self._options.steps)
        self.objectives.append([objectives[0], objectives[-1]])
        return {m: (free.detach() * cores[m]).sum(0) for m, free in coefficients.items()}

    def _distance(self, attached: CoreModel, index: int, own: OwnData, number: int) -> Tensor:
        """‖merge − expert‖² of a block's features, mean over the tokens of one batch that are not padding."""
        seen: list[Tensor] = []
        batch = own.batches[number]
        with self._merge[own.name].at(index, first=number, look=seen.append), suppress(EnoughError):
            attached.answers(batch)
        (found,), wanted = seen, self._experts[own.name].hidden(number)
        mask = batch.attention_mask.bool().to(found.device)
        wide = torch.promote_types(found.dtype, torch.float32)
        return (found[mask].to(wide) - wanted[mask].to(wide)).square().sum(-1).mean()

    def _cores(self, module: str) -> Tensor:
        """Cores of all adapters in one module, (n, p, q), 0 where one does not touch it."""
        space = self._problem.spaces[module]
        found = [own.cores.get(module) for own in self._adapters]
        return torch.stack([space.coordinates(None) if core is None else core for core in found]).to(space.left)

    def _average(self, cores: Tensor) -> Tensor:
        return torch.stack([share * core for share, core in zip(self._shares, cores, strict=True)]).sum(0)


@merge_method(
    name="prodistill",
    summary="block by block, coefficients of all entries with which the merge imitates every expert's features",
    paper="arXiv:2502.12706",
    options=ProDistillOptions,
    needs=Needs(data=True),
    reads=Reads(of="adapters", forward=2, steps="steps"),
    prepare=_prepare,
    sweeps=(
        MethodSweep("ProDistill", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("ProDistill", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("ProDistill"),
    ),
)
def prodistill(layer: Layer, options: ProDistillOptions, state: dict[str, Tensor]) -> Tensor:
    """λ times the core that the preparation learned, or the weighted average where it has none."""
    return merged_or_average(layer, options.strength, state, "prodistill")
