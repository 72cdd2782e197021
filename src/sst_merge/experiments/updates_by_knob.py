"""A registered method's merges as a function of its knob; what does not depend on the knob is computed once."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..fim_calculator import build_spaces
from ..merging.engine import merged_modules
from ..merging.plan import plan_merge
from ..merging.settings import MergeSettings
from ..methods import SAFETY_WEIGHT, MergeProblem, MethodSweep, Prepared
from ..sst import SSTMerge, SSTOptions
from ..sst.refine import RefineTrail
from ..sst.region import merged_cores
from ..sst.safety_target import check_target, reach_target
from ..sst.settling import KnownData, settled
from ..worlds.updates import Update, core_update

__all__ = ["HARD_K", "SkillsThenSafety", "sst_problem", "sst_updates_by_knob", "swept_updates", "updates_by_knob"]

HARD_K = "k"
"""The knob of SST-Merge with a hard filter: how many directions a layer keeps."""


def swept_updates(problem: MergeProblem, sweep: MethodSweep) -> Callable[[float], Update]:
    """Merges by one form of a method.

    Args:
        problem: adapters, model and data.
        sweep: the form, from :data:`~sst_merge.experiments.method_sweeps.METHOD_SWEEPS` or made from one of those.

    Returns:
        knob value → update.
    """
    if sweep.method == "sst":
        merge = sst_problem(problem, sweep.options, sweep.knob, sweep.middle)
        return sst_updates_by_knob(merge, sweep.knob, sweep.middle)
    return updates_by_knob(problem, sweep.method, sweep.options, sweep.knob, prepare_once=sweep.prepare_once)


def updates_by_knob(
    problem: MergeProblem, method: str, options: Mapping[str, Any], knob: str, *, prepare_once: bool
) -> Callable[[float], Update]:
    """Merges by any registered method, without a cut of the rank.

    Args:
        problem: adapters, model and data.
        method: registered name.
        options: settings beside the knob.
        knob: one of the method's options, or :data:`SAFETY_WEIGHT`.
        prepare_once: whether the preparation for the first value serves the others, which is right only where it does
            not read the knob.

    Returns:
        knob value → update.
    """
    first: list[Prepared] = []
    if problem.cache is None:
        problem = replace(problem, cache={})
    given = {"model": problem.model, "harm": problem.harm, "benign": problem.benign}
    given |= {"base_weights": problem.base_weights, "aligned_weights": problem.aligned_weights}

    def merged(value: float) -> Update:
        adapters, chosen = list(problem.adapters), dict(options)
        if knob == SAFETY_WEIGHT:
            adapters = [a.with_(weight=value * a.weight) if a.role == "safety" else a for a in adapters]
        else:
            chosen[knob] = value
        plan = plan_merge(
            adapters,
            method,
            options=chosen,
            settings=MergeSettings(seed=problem.seed),
            given=tuple(name for name, there in given.items() if there),
        )
        prepared = first[0] if first else Prepared()
        if plan.method.prepare is not None and not first:
            prepared = plan.method.prepare(replace(problem, adapters=adapters), plan.options)
            if prepare_once:
                first.append(prepared)
        spaces = None
        if plan.method.prepare is not None:
            spaces = problem.spaces if prepared.spaces is None else prepared.spaces
        modules = merged_modules(plan, state=prepared.state, spaces=spaces)
        return {module.name: module.factors for module in modules}

    return merged


def sst_problem(problem: MergeProblem, options: Mapping[str, Any], knob: str, middle: float) -> SSTMerge:
    """SST-Merge before its knob is turned: nothing is computed yet, and nothing is computed twice later.

    Args:
        problem: adapters, model and data.
        options: settings beside the knob.
        knob: ``mu``; :data:`HARD_K` for a hard filter; ``tax_budget`` for refined merges; or ``safety_target``, of
            which one value is tried, so that it is the middle one.
        middle: a value of the knob from which the settings are completed.

    Returns:
        The merge in progress.
    """
    completed = {"filter": {"hard": int(middle)}} if knob == HARD_K else {knob: middle}
    return SSTMerge(problem, SSTOptions.model_validate({**options, **completed}))


def sst_updates_by_knob(merge: SSTMerge, knob: str, middle: float) -> Callable[[float], Update]:
    """SST-Merge over its knob: Fishers and eigenvectors are made once.

    Args:
        merge: from :func:`sst_problem`.
        knob: as there.
        middle: as there; refined merges all start from the patch that this budget chooses.

    Returns:
        knob value → update.
    """
    spaces = merge.problem.spaces
    if knob == HARD_K:
        return lambda k: core_update(spaces, merged_cores(merge.utility, merge.change(hard=int(k))))
    if knob == "mu":
        if merge.options.refine == "teachers":
            return lambda mu: core_update(spaces, merge.taught(merge.merged(mu=mu), 1.0 / mu).cores)
        return lambda mu: core_update(spaces, merge.merged(mu=mu))
    if knob == "safety_target":
        check_target(merge.problem, merge.options)
        return lambda _: core_update(spaces, merged_cores(merge.utility, reach_target(merge).change))
    choice = merge.choose(middle)
    start, trail = merge.change(mu=choice.best.mu, strength=choice.best.strength), RefineTrail()
    return lambda budget: core_update(spaces, merged_cores(merge.utility, merge.refined(start, budget, trail)))


class SkillsThenSafety:
    """SST-Merge of many skills: their Fisher-weighted patch M_U at a strength, then the filtered safety patch on top.

    With ``inputs: wide`` V spans RegMean's rows of all that is merged, the safe model with it, so that each stage is a
    merge of its own; each is made when it is first asked for.

    Args:
        problem: adapters, model, data of every skill; with or without safety adapters.
        options: settings; ``utility`` is ``fisher`` unless they say otherwise.
    """

    def __init__(self, problem: MergeProblem, options: Mapping[str, Any]) -> None:
        given: dict[str, Any] = {"utility": "fisher", "mu": 1.0, **options}
        # Without a safety adapter the base is the safe model.
        given["aligned_base"] = all(a.role != "safety" for a in problem.adapters)
        if given["aligned_base"]:
            given.pop("combine", None)
        self._problem, self._options = problem, settled(SSTOptions.model_validate(given), KnownData.of(problem))

    def skills(self, strength: float) -> Update:
        """M_U alone.

        Args:
            strength: λ, multiplies M_U.

        Returns:
            The update.
        """
        return core_update(self._alone.problem.spaces, {m: strength * core for m, core in self._skills_alone.items()})

    def safe(self, strength: float, mu: float) -> Update:
        """λ·M_U and the filtered safety patch; on an aligned base M_S = 0 and the filter takes from λ·M_U.

        Args:
            strength: λ, multiplies M_U.
            mu: μ of the filter.

        Returns:
            The update.
        """
        change, factor = self._merge.change(mu=mu), strength if self._options.aligned_base else 1.0
        cores = {m: strength * core + factor * change[m] for m, core in self._skills.items()}
        cores = dict(self._merge.taught(cores, 1.0 / mu).cores) if self._taught else cores
        return core_update(self._merge.problem.spaces, cores)

    @property
    def _taught(self) -> bool:
        return self._options.refine == "teachers"

    @cached_property
    def _merge(self) -> SSTMerge:
        return SSTMerge(self._problem, self._options)

    @cached_property
    def _alone(self) -> SSTMerge:
        """The skills' merge as it is without a safe model."""
        if self._options.inputs == "core":
            return self._merge
        skills = [a for a in self._problem.adapters if a.role == "utility"]
        right = next(iter(self._problem.spaces.values())).right
        spaces = build_spaces(skills, dtype=right.dtype, device=right.device)
        options = self._options.model_copy(update={"aligned_base": False})
        return SSTMerge(replace(self._problem, adapters=skills, spaces=spaces), options, skills_only=True)

    @cached_property
    def _skills(self) -> Mapping[str, Tensor]:
        """M_U, or what the skills' teachers made of it; the prompts held out from them are still needed with safety."""
        merge = self._merge
        return merge.taught(merge.utility, 0.0, on_all=False).cores if self._taught else merge.utility

    @cached_property
    def _skills_alone(self) -> Mapping[str, Tensor]:
        return self._alone.taught_skills().cores if self._taught else self._alone.utility
