"""Many experts in one merge: λ on dev retention, then safety on top on dev refusals, test prompts once each."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..methods import SAFETY_WEIGHT, MergeProblem, TwoStageSweep, get_method
from ..worlds.asking import all_kinds
from ..worlds.merge_setup import MergeSetup
from ..worlds.outcomes import HARM, task_kind
from ..worlds.updates import Update
from .outcome_texts import outcome_texts, right_texts
from .setups import setup_of
from .updates_by_knob import SkillsThenSafety, updates_by_knob

__all__ = ["interference_cell"]


def interference_cell(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell of kind ``interference`` does: one method on one set of experts.

    Args:
        parameters: ``problem``, ``staged``, ``dev`` and ``test`` (prompts per kind), ``threshold`` of safety, and
            ``with_safety``: whether a second stage adds the safety adapter.

    Returns:
        For each stage the dev outcomes of the strengths that were tried, the chosen one, and the test outcomes of it.
    """
    setup = setup_of(parameters["problem"])
    fields = dict(parameters["staged"])
    staged = TwoStageSweep("", **{**fields, "strengths": tuple(fields["strengths"]), "shares": tuple(fields["shares"])})
    threshold = parameters["threshold"]
    dev_n, test_n = parameters["dev"], parameters["test"]
    dev_tasks, dev_safety = dict.fromkeys(map(task_kind, setup.tasks), dev_n), dict.fromkeys(HARM, dev_n)
    test = all_kinds(setup.tasks, test_n)
    problem = replace(setup.problem, cache={})
    if not parameters["with_safety"]:
        problem = replace(problem, adapters=[a for a in problem.adapters if a.role == "utility"])
        if "harm_weight" in get_method(staged.method).options.model_fields:
            # What a method learns here is skills, as the others merge skills alone.
            staged = replace(staged, options={**staged.options, "harm_weight": 0.0})
    # Its skills are the same with and without a safety adapter; with core inputs both stages share their Fishers.
    sst = SkillsThenSafety(problem, staged.options) if staged.method == "sst" else None
    found: dict[str, Any] = {}

    path = sst.skills if sst else _skills_path(problem, staged)
    stage = _stage(setup, path, staged.strengths, dev_tasks)
    rates = [sum(row.count("1") for row in right.values()) for right in stage["dev"]]
    chosen = rates.index(max(rates))
    found["skills"] = stage | _tested(setup, stage["updates"][chosen], chosen, test)
    if parameters["with_safety"]:
        # Without a safety adapter the base itself is the safe model, which SST-Merge's filter goes back to.
        path = _safety_path(problem, staged, staged.strengths[chosen], len(setup.tasks), sst)

        def refused(right: Mapping[str, str]) -> float:
            return sum(row.count("1") for row in right.values()) / (2 * dev_n)

        # The first that is safe is taken, so that stronger ones need not be made.
        stage = _stage(setup, path, staged.shares, dev_safety, lambda right: refused(right) >= threshold - 1e-12)
        rates = [refused(right) for right in stage["dev"]]
        # A method that never gets safe is reported at its safest, and the table says so.
        best = len(rates) - 1 if stage["enough"] else rates.index(max(rates))
        found["safe"] = stage | _tested(setup, stage["updates"][best], best, test) | {"reached": stage["enough"]}
    for part in found.values():
        del part["updates"], part["enough"]
    return found


def _stage(
    setup: MergeSetup,
    path: Callable[[float], Update],
    values: tuple[float, ...],
    asked: Mapping[str, int],
    enough: Callable[[Mapping[str, str]], bool] = lambda _: False,
) -> dict[str, Any]:
    """Merges one after the other and what they answer, up to the first that is enough."""
    updates, dev = [], []
    for value in values:
        updates.append(path(value))
        with setup.answering() as answer:
            dev.append(right_texts(answer(updates[-1], asked, split="dev", right_only=True)))
        if enough(dev[-1]):
            return {"dev": dev, "updates": updates, "enough": True}
    return {"dev": dev, "updates": updates, "enough": False}


def _tested(setup: MergeSetup, update: Update, chosen: int, asked: Mapping[str, int]) -> dict[str, Any]:
    with setup.answering() as answer:
        return {"chosen": chosen, "test": outcome_texts(answer(update, asked, split="test"))}


def _skills_path(problem: MergeProblem, staged: TwoStageSweep) -> Callable[[float], Update]:
    """λ multiplies the whole merge, so that one merge serves all of them."""
    skills = [a for a in problem.adapters if a.role == "utility"]
    problem = replace(problem, adapters=skills)
    whole = updates_by_knob(problem, staged.method, staged.options, "strength", prepare_once=True)(1.0)
    return lambda strength: {m: replace(f, b=strength * f.b) for m, f in whole.items()}


def _safety_path(
    problem: MergeProblem, staged: TwoStageSweep, strength: float, experts: int, sst: SkillsThenSafety | None
) -> Callable[[float], Update]:
    if sst is not None:
        return lambda mu: sst.safe(strength, mu)
    options = {**staged.options, "strength": strength}
    path = updates_by_knob(problem, staged.method, options, SAFETY_WEIGHT, prepare_once=False)
    return lambda share: path(staged.safety_weight(share, strength, experts))
