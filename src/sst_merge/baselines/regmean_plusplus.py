"""RegMean++ (Nguyen et al., arXiv:2508.03121): RegMean on the inputs that the merged model itself will have.

    ΔW_l = λ (Σᵢ |wᵢ| sign(wᵢ) ΔWᵢ_l Ĝᵢ_l) (Σᵢ |wᵢ| Ĝᵢ_l)⁻¹,   Ĝᵢ_l = a Gᵢ_l + (1 − a) diag(Gᵢ_l)

with Gᵢ_l = E[x xᵀ] over adapter i's own data of what goes into a linear module of block l, where the blocks below are
the *merged* ones and block l is adapter i's; RegMean takes adapter i's blocks throughout. So blocks are merged from
the first to the last. Defaults as in ``regmean`` (a = 0.9).

Cost: two passes over every adapter's data in all, one through the adapters' blocks and one through the merged ones, as
in the authors' code; the hidden states behind one block are kept for all tokens (reported). Where the second moments
of one block do not fit ``memory_gib``, its modules are taken in groups, and that block is computed once per group.

Deviations: as those of ``regmean`` (mean instead of sum over tokens, weights, embeddings averaged, exact in a widened
core space). λ, which the paper does not have, multiplies the result alone: inputs are those of λ = 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..core_space import CoreSpace
from ..methods import Layer, MergeProblem, Needs, Prepared, Reads, merge_method
from ..methods.parts.blocks import BlockStates, block_order
from ..methods.parts.input_moments import each_input, input_moments, module_groups
from ..methods.parts.own_data import OwnData, own_data, required_model, ticker
from ..methods.parts.regression import RegressionOptions, merged_or_average, regression_rows
from ..methods.parts.widening import widened
from ..methods.sweeps import AVERAGES, LESS_OF_AVERAGES, SAFETY_WEIGHT, MethodSweep, TwoStageSweep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["regmean_plusplus"]


def _prepare(problem: MergeProblem, options: RegressionOptions) -> Prepared:
    model = required_model(problem, "regmean_plusplus")
    adapters, warnings = own_data(problem, "regmean_plusplus")
    used = [own for own in adapters if own.weight > 0]
    report: dict[str, object] = {"data": {own.name: own.source for own in adapters}}
    if len(used) < 2:
        return Prepared({}, report, warnings)
    order = block_order(model, problem.spaces, used[0].batches[0])
    merge = _BlockwiseMerge(problem, model, used, options, tuple(order.blocks))
    merge.modules(0, order.before)
    for index, modules in enumerate(order.blocks.values()):
        merge.modules(index, modules)
        if index + 1 < len(order.blocks) or order.after:
            merge.advance(index)
    merge.modules(len(order.blocks), order.after)
    report |= {"blocks": len(order.blocks), "hidden_states_bytes": merge.bytes}
    return Prepared(merge.merged, report, warnings, merge.spaces)


class _BlockwiseMerge:
    """What is merged so far, and every adapter's hidden states behind it.

    Attributes:
        spaces: core spaces, widened where a module is merged.
        merged: core of every merged module, float64, on the CPU.
        bytes: most that hidden states took.
    """

    def __init__(
        self,
        problem: MergeProblem,
        model: "PreTrainedModel",
        adapters: Sequence[OwnData],
        options: RegressionOptions,
        blocks: Sequence[str],
    ) -> None:
        self._problem, self._model, self._adapters, self._options = problem, model, adapters, options
        self._states = {own.name: BlockStates(model, blocks) for own in adapters}
        self.spaces: dict[str, CoreSpace] = dict(problem.spaces)
        self.merged: dict[str, Tensor] = {}
        self.bytes = 0
        # Embeddings have no closed form; the merged model has their average from the start.
        total = sum(own.weight for own in adapters)
        self._point: dict[str, Tensor] = {}
        for own in adapters:
            for module, core in own.cores.items():
                if not problem.spaces[module].kind.reads_vectors:
                    part = own.weight / total * core
                    self._point[module] = self._point[module] + part if module in self._point else part

    def modules(self, index: int, names: Sequence[str]) -> None:
        """Merge modules of one block, or of what comes before or after all blocks."""
        chosen = {m: self._problem.spaces[m] for m in names if self._problem.spaces[m].kind.reads_vectors}
        rows: dict[str, Tensor] = {}
        # Inputs of all of them are seen with the adapters' own modules in this block.
        for group in module_groups(chosen, self._options.memory_gib, copies=3):

            def moments_of(own: OwnData, group: Sequence[str] = group) -> dict[str, Tensor]:
                point = self._point | {m: own.cores[m] for m in chosen if m in own.cores}
                tick = ticker(self._problem, f"inputs of adapter {own.name} behind {index} merged blocks", own.batches)
                with self._states[own.name].at(index):
                    return input_moments(
                        self._model, self.spaces, own.batches, group, point=point, progress=tick, halves=False
                    )

            rows |= regression_rows(self._problem.spaces, self._adapters, group, moments_of, self._options)
        for module, found in rows.items():
            self.spaces[module] = widened(self._problem.spaces[module], found)
            core = found @ self.spaces[module].right.to(found)
            self._point[module] = core.to(self.spaces[module].left)
            self.merged[module] = core.cpu()

    def advance(self, index: int) -> None:
        """Compute the merged block for all data."""
        for own in self._adapters:
            with self._states[own.name].at(index, advance=True):
                each_input(self._model, self.spaces, own.batches, (), lambda *_: None, point=self._point, halves=False)
        self.bytes = max(self.bytes, sum(states.bytes for states in self._states.values()))


@merge_method(
    name="regmean_plusplus",
    summary="RegMean, block by block on the inputs that the merged blocks below give out",
    paper="arXiv:2508.03121",
    options=RegressionOptions,
    needs=Needs(data=True),
    reads=Reads(of="adapters", forward=2),
    prepare=_prepare,
    sweeps=(
        MethodSweep("RegMean++", AVERAGES, knob=SAFETY_WEIGHT),
        MethodSweep("RegMean++", LESS_OF_AVERAGES, knob="strength", prepare_once=True, base="aligned"),
        TwoStageSweep.of_average("RegMean++"),
    ),
)
def regmean_plusplus(layer: Layer, options: RegressionOptions, state: dict[str, Tensor]) -> Tensor:
    """λ times the merged core that the preparation found, or the weighted average where it has none."""
    return merged_or_average(layer, options.strength, state, "regmean_plusplus")
