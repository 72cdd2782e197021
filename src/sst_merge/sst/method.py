"""SST-Merge as a registered method: prepare the whole model once, hand out its layers.

    M = M_U + V h(Λ) Vᵀ F_b (M_S − M_U)        F_h v = λ F_b v        h(λ) = λ/(λ+μ), or 1 for the k best

(design, section 4; the flow itself is in :mod:`.flow`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..data_loader.batch import Batch
from ..errors import OptionError
from ..methods import Layer, MergeProblem, Needs, Prepared, Promises, merge_method
from .coefficients import CoefficientChoice
from .collect import require_data
from .flow import SSTMerge
from .held_out import HeldOutQuotients
from .merge_fishers import Cores
from .options import DEFAULT_BUDGET, HardFilter, SSTOptions
from .region import merged_cores
from .safety_path import PathPoint
from .safety_target import TargetChoice, check_target, reach_target, refine_at_target
from .seen import moved_by_module, spectrum
from .settling import KnownData, why_not_taught
from .sweeps import SWEEPS

__all__ = ["sst"]


_ROLES = frozenset({"utility"})

_ABOUT_SKILLS_ALONE = (
    "no adapter of role safety: the skills alone were merged, and harmful prompts played no part; if the base model is "
    "aligned and its safety is to be kept, set aligned_base: true",
)


def _needs(options: SSTOptions) -> Needs:
    """Nothing but adapters where all Fishers are read and nothing is tuned or measured."""
    saved = options.fisher
    reasons = []
    if options.budget is not None:
        reasons.append(
            f"tax_budget ({options.budget:g}) chooses mu on held-out prompts: give mu, or filter: {{hard: k}}, instead"
        )
    if options.safety_target is not None:
        reasons.append(f"safety_target ({options.safety_target:g}) counts refusals of held-out prompts")
    if saved.harm is None:
        reasons.append("fisher.harm names no file")
    if options.utility == "sum" and saved.benign is None:
        reasons.append("fisher.benign names no file")
    if options.utility == "fisher" and not saved.skills:
        reasons.append("fisher.skills names no files")
    if options.refine and options.refine != "auto":
        reasons.append("refine takes gradients of the model")
    if options.inputs == "wide":
        reasons.append("inputs: wide looks at every adapter's data")
    if not reasons:
        return Needs(roles=_ROLES)
    # Who names no file at all has not asked for a merge without data.
    why = f"with the saved Fishers alone it cannot be done because {'; '.join(reasons)}" if saved.files else ""
    return Needs(data=True, roles=_ROLES, why=why)


def _prepare(problem: MergeProblem, options: SSTOptions) -> Prepared:
    if _needs(options).data:
        require_data(problem)
    if options.budget is not None and options.calibration_holdout == 0:
        raise OptionError(
            f"calibration_holdout: 0 leaves no prompts on which tax_budget = {options.budget:g} could choose mu; give "
            "mu, or hold some out"
        )
    if options.safety_target is not None:
        check_target(problem, options)
    merge = SSTMerge(problem, options)
    untaught = _untaught(problem, options)
    options = merge.options
    if merge.skills_alone:
        taught = merge.taught_skills()
        alone = {"structure": merge.structure, "refine": merge.options.refine, "teachers": taught.to_dict()}
        return Prepared(taught.cores, alone, (*_ABOUT_SKILLS_ALONE, *_common_data(merge)), merge.problem.spaces)
    target = None if options.safety_target is None else reach_target(merge)
    choice = merge.choose(options.budget) if options.budget is not None else None
    mu, strength = _place(options, choice, target)
    change = target.change if target else merge.change(mu=mu, strength=strength)
    whole = merge.difference(None if target else strength)
    captured = _energy(change) / max(_energy(whole), 1e-30)
    seen = {"spectrum": _spectrum(merge, mu, target), "by_module": moved_by_module(change, whole)}
    learnt = None
    if options.refine == "teachers":
        # A target's path has been taught already.
        learnt = None if target else merge.taught(merged_cores(merge.utility, change), 1.0 / mu if mu else 1.0)
    elif options.refine and target:
        target = refine_at_target(merge, target)
        change = target.change
    elif options.refine:
        change = merge.refined(change, options.budget or DEFAULT_BUDGET)
    merged = learnt.cores if learnt else merged_cores(merge.utility, change)
    held_out = merge.held_out()
    report: dict[str, Any] = {
        "structure": merge.structure,
        "refine": options.refine,
        "point": {"where": options.fisher.point, **_share(merge)},
        "mu": mu,
        "strength": strength,
        "captured_energy": captured,
        "samples": {
            "fisher_harm": _samples(merge, "harm", merge.fit_harm),
            "fisher_benign": _samples(merge, "benign", merge.fit_benign),
            "held_out_harm": sum(len(b) for b in merge.held_harm),
            "held_out_benign": sum(len(b) for b in merge.held_benign),
        },
        "held_out_quotients": held_out.to_dict() if held_out else None,
        "path": [asdict(c) for c in choice.tried] if choice else [],
        **seen,
        **({} if options.budget is None else {"tax_budget": options.budget}),
    }
    if learnt:
        report["teachers"] = learnt.to_dict()
    warnings = _warnings(captured, choice, options, held_out) + (_common_data(merge) or untaught)
    if target:
        report["safety_target"] = target.to_dict()
        warnings += target.warnings()
    if merge.saved:
        report["saved_fishers"] = {name: file.provenance for name, file in merge.saved.items()}
        if held_out is None and options.utility == "sum":
            warnings.append(
                "no held-out quotients: the Fishers were read from files, and without calibration data their "
                "directions cannot be measured on other prompts"
            )
    return Prepared(merged, report, tuple(warnings), merge.problem.spaces)


def _place(
    options: SSTOptions, choice: CoefficientChoice | None, target: TargetChoice | None
) -> tuple[float | None, float | None]:
    """μ and strength of the merge; between taught merges neither says where a target's point lies."""
    if target is not None:
        return (target.point.mu, target.point.strength) if isinstance(target.point, PathPoint) else (None, None)
    return (choice.best.mu, choice.best.strength) if choice else (options.mu, options.strength)


def _common_data(merge: SSTMerge) -> list[str]:
    """Skills that share the common benign data: nothing there says which of them answers which prompt."""
    skills = [a.name for a in merge.problem.adapters if a.role == "utility"]
    own, saved = merge.problem.adapter_benign, merge.options.fisher.skills
    bare = [name for name in skills if not own.get(name) and name not in saved]
    if merge.options.utility == "sum" or len(skills) < 2 or not bare:
        return []
    return [
        f"adapters without benign data of their own: {', '.join(map(repr, bare))}; they are judged on the common "
        "benign data, where the skills' merge is close to an average. Give each prompts of its own: --skill "
        "path=FOLDER,data=FILE, or `data:` in YAML"
    ]


def _untaught(problem: MergeProblem, options: SSTOptions) -> list[str]:
    """Why the closed form is all, where data of the adapters' own would have let them teach."""
    if options.refine != "auto" or options.budget is not None:
        return []
    why = why_not_taught(options, KnownData.of(problem))
    return [] if why is None else [f"the closed form was taken, the adapters teach nothing: {why}"]


def _spectrum(merge: SSTMerge, mu: float | None, target: TargetChoice | None) -> dict[str, Any] | None:
    """None where several skills have Fishers of their own: then a linear system is solved, without common directions.

    At the end of a safety target's path the safety adapter itself is taken, and nothing is filtered.
    """
    options = merge.options
    directions = merge.directions
    if directions is None:
        return None
    unfiltered = target is not None and isinstance(target.point, PathPoint) and target.point.share == 1.0
    hard = options.filter.hard if isinstance(options.filter, HardFilter) else None
    return spectrum(directions, mu=None if unfiltered else mu, hard=hard)


def _samples(merge: SSTMerge, kind: str, batches: Sequence[Batch]) -> int:
    return merge.saved[kind].fisher.samples if kind in merge.saved else sum(len(batch) for batch in batches)


def _share(merge: SSTMerge) -> dict[str, float]:
    return {"share": merge.trust_region_share} if merge.options.fisher.point == "trust" else {}


def _warnings(
    captured: float, choice: CoefficientChoice | None, options: SSTOptions, held_out: HeldOutQuotients | None
) -> list[str]:
    found = []
    tuned = options.safety_target is not None
    if captured < 1e-3 and not tuned:
        found.append(
            f"the filter keeps nothing of the safety patch (captured energy {captured:.2g}): lower mu, raise k"
        )
    if 0.999 < captured < 1.001 and not tuned:
        found.append(f"the filter keeps the whole safety patch (captured energy {captured:.4g}): raise mu, lower k")
    if choice and not choice.feasible:
        found.append(
            f"no point of the path meets tax_budget = {options.budget} (smallest divergence "
            f"{choice.best.divergence:.3g}); that point was taken"
        )
    if held_out and held_out.held_out_median < 0.5 * held_out.in_sample_median:
        found.append(
            f"the best directions' safety efficiency falls from {held_out.in_sample_median:.3g} in-sample to "
            f"{held_out.held_out_median:.3g} held-out: more calibration samples, more damping or structure "
            "kronecker would be safer"
        )
    return found


def _energy(cores: Mapping[str, Tensor]) -> float:
    """‖M‖_F over all modules."""
    return float(torch.stack([c.double().square().sum() for c in cores.values()]).sum().sqrt())


@merge_method(
    name="sst",
    summary="safety patch where it is efficient (two-Fisher GEVP), skills elsewhere",
    paper="this project",
    options=SSTOptions,
    needs=Needs(data=True, roles=_ROLES),
    needs_by_options=_needs,
    # Steps of Adam depend on the basis, and that on the order of the adapters.
    promises=Promises(exact=False, symmetric=False),
    prepare=_prepare,
    knob="mu",
    sweeps=SWEEPS,
)
def sst(layer: Layer, options: SSTOptions, state: Cores) -> Tensor:
    """The merged core that the preparation found for this layer."""
    return state[layer.module].to(layer.patches[0])
