"""Merges of one problem, one after another: what several have in common is computed once.

Whatever is shared, each is the merge that ``sst-merge merge`` writes for the same settings.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from ..core_space import StackedSpace
from ..errors import SSTMergeError
from ..experiments.cells import canonical
from ..lora_utils import LoraFactors
from ..merging.engine import merged_modules
from ..merging.plan import MergePlan, plan_merge
from ..merging.settings import DEFAULT_SETTINGS, MergeSettings
from ..methods import MergeProblem, Prepared
from ..sst import SSTMerge, SSTOptions
from ..sst.options import DEFAULT_BUDGET
from ..sst.region import merged_cores
from ..sst.settling import KnownData, settled
from ..worlds.updates import Update, core_update
from .point import Point

__all__ = ["SharedMerges", "refusal_of"]

_ALONG_THE_PATH = ("mu", "tax_budget", "strength")
"""Options of SST-Merge that its Fishers and eigenvectors do not depend on."""

_KEPT = 8
"""Prepared forms held in memory; of SST-Merge each holds two Fishers."""

Value = TypeVar("Value")


class SharedMerges:
    """Every merge of one problem.

    Args:
        problem: adapters, model and data.
        settings: how its merges are computed; rank and seed come from points and problem.
    """

    def __init__(self, problem: MergeProblem, settings: MergeSettings = DEFAULT_SETTINGS) -> None:
        self.problem, self._settings = replace(problem, cache={}), settings
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def update(self, point: Point) -> Update:
        """One merge.

        Args:
            point: method and settings.

        Returns:
            Module → factors, cut to the point's rank.

        Raises:
            MergeError: the method refuses its settings, or needs what is not there.
        """
        if point.method == "sst" and "safety_target" not in point.options:
            return self._sst(point)
        return self._plain(point)

    def _plain(self, point: Point) -> Update:
        """By any method, in the steps of a merge; the preparation is shared where the method says that it may be."""
        problem = self.problem
        adapters = [
            a.with_(weight=point.safety_weight * a.weight) if a.role == "safety" else a for a in problem.adapters
        ]
        plan = _plan(replace(problem, adapters=adapters), point, self._settings)
        prepared, spaces = Prepared(), None
        if plan.method.prepare is not None:
            prepare, options = plan.method.prepare, plan.options
            if point.prepare_from is None:
                prepared = prepare(replace(problem, adapters=adapters), options)
            else:
                others = {name: value for name, value in point.options.items() if name != point.prepare_from}
                prepared = self._shared(
                    canonical(["plain", point.method, others]),
                    lambda: prepare(replace(problem, adapters=adapters), options),
                )
            spaces = problem.spaces if prepared.spaces is None else prepared.spaces
        return {module.name: module.factors for module in merged_modules(plan, state=prepared.state, spaces=spaces)}

    def _sst(self, point: Point) -> Update:
        """By SST-Merge, whose Fishers and eigenvectors serve every μ, budget and strength."""
        options = settled(SSTOptions.model_validate(dict(point.options)), KnownData.of(self.problem))
        fixed = {name: value for name, value in point.options.items() if name not in _ALONG_THE_PATH}
        aside = [options.calibration_holdout, options.harm_holdout]
        merge: SSTMerge = self._shared(canonical(["sst", fixed, aside]), lambda: SSTMerge(self.problem, options))
        # Nothing that is kept depends on what this changes: the split of the prompts is a part of the key.
        merge.options = options
        found = core_update(merge.problem.spaces, _sst_cores(merge, options))
        rank, energy = point.rank, self._settings.energy
        cut = rank is not None or energy is not None
        return {m: _cut(factors, rank, energy) for m, factors in found.items()} if cut else found

    def _shared(self, key: str, make: Callable[[], Value]) -> Value:
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        found: Value = self._kept[key]
        return found


def _sst_cores(merge: SSTMerge, options: SSTOptions) -> Mapping[str, Tensor]:
    """The merged cores as SST-Merge's own preparation finds them, its report left out."""
    if merge.skills_alone:
        return merge.taught_skills().cores
    mu, strength = options.mu, options.strength
    if options.budget is not None:
        best = merge.choose(options.budget).best
        mu, strength = best.mu, best.strength
    change = merge.change(mu=mu, strength=strength)
    if options.refine == "teachers":
        return merge.taught(merged_cores(merge.utility, change), 1.0 / mu if mu else 1.0).cores
    if options.refine:
        change = merge.refined(change, options.budget or DEFAULT_BUDGET)
    return merged_cores(merge.utility, change)


def _cut(factors: LoraFactors, rank: int | None, energy: float | None) -> LoraFactors:
    """The best approximation of a rank, or of a share of the energy."""
    whole = LoraFactors(factors.b.double(), factors.a.double(), factors.kind, factors.bias)
    space = StackedSpace.spanned_by([whole])
    lifted, _ = space.lift(space.coordinates[0], rank=rank, energy=energy)
    return lifted.to(dtype=factors.b.dtype)


def refusal_of(problem: MergeProblem, point: Point, settings: MergeSettings = DEFAULT_SETTINGS) -> str | None:
    """Why a merge cannot be made of what is given, found without any work.

    Args:
        problem: adapters, model and data.
        point: method and settings.
        settings: how merges are computed.

    Returns:
        A sentence, or None where nothing speaks against it.
    """
    try:
        _plan(problem, point, settings)
    except SSTMergeError as error:
        return str(error)
    return None


def _plan(problem: MergeProblem, point: Point, settings: MergeSettings) -> MergePlan:
    given = {"model": problem.model, "harm": problem.harm, "benign": problem.benign}
    given |= {"base_weights": problem.base_weights, "aligned_weights": problem.aligned_weights}
    return plan_merge(
        list(problem.adapters),
        point.method,
        options=dict(point.options),
        settings=replace(settings, seed=problem.seed, rank=point.rank),
        given=tuple(name for name, there in given.items() if there),
    )
