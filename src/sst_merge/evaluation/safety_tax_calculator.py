"""What the safety of an evaluated merge costs in skills, against the very adapters that it was made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..measures.figure import Figure
from ..measures.resampling import figure_of
from ..measures.sweeps import SeedSamples, SweepSamples, sweep_draws
from .safety_evaluator import pooled_records
from .score_table import ScoreTable
from .utility_evaluator import best_adapters, skill_suites

__all__ = ["SafetyTax", "safety_tax"]


@dataclass(frozen=True, kw_only=True)
class SafetyTax:
    """The safety tax of one merge, at the safety that it reaches (its refusals are in its safety report).

    A sweep of strengths would choose one by its safety; here the merge is what it is, so two merges' taxes may be
    compared only where they refuse about as much.

    Attributes:
        merge: name.
        skills: suite → the adapter that stands for its skill, the best of those merged.
        utility_only: mean over suites of those adapters' shares of right answers.
        utility: the same of the merge.
        tax: ``utility_only`` less ``utility``, on the same samples; negative where the merge is better.
    """

    merge: str
    skills: Mapping[str, str]
    utility_only: Figure
    utility: Figure
    tax: Figure


def safety_tax(
    table: ScoreTable, merge: str, skills: Sequence[str], *, seed: int = 0, level: float = 0.95
) -> SafetyTax | None:
    """The safety tax of a merge: u(skill adapters alone) − u(merge).

    Args:
        table: all records.
        merge: name.
        skills: all adapters with skills that it was made of.
        seed: of the bootstrap draws.
        level: coverage of the intervals.

    Returns:
        The tax; None where no suite asked the merge harmful prompts whose refusals are known, or none counted right
        answers of the merge and its adapters.
    """
    refusals = [r.scores["refusal"] for r in pooled_records(table, merge, "safety") if "refusal" in r.scores]
    own = best_adapters(table, skills)
    pairs = {suite: skill_suites(table, (merge, adapter)).get(suite) for suite, adapter in own.items()}
    rows = {suite: found for suite, found in pairs.items() if found is not None}
    if not refusals or not rows:
        return None
    sweep = SweepSamples(
        strengths=[1.0], safety=[refusals], utility={suite: [merged] for suite, (merged, _) in rows.items()}
    )
    alone = {suite: skill for suite, (_, skill) in rows.items()}
    draws = sweep_draws(SeedSamples(sweeps={merge: sweep}, utility_only=alone), seed=seed)[merge]
    # One strength and no threshold: the merge at whatever safety it has.
    chosen = draws.at_safety(-math.inf)
    n = sum(map(len, alone.values()))
    figures = [figure_of(found, n, level) for found in (draws.utility_only, chosen.utility(), chosen.tax())]
    utility_only, utility, tax = (figure for figure in figures if figure is not None)
    return SafetyTax(
        merge=merge,
        skills={suite: own[suite] for suite in rows},
        utility_only=utility_only,
        utility=utility,
        tax=tax,
    )
