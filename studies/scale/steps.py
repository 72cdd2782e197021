"""How many products a filter's conjugate gradients take, and what lessons that go through the model together spare.

Sets of the lab's experts and its safety adapter (seed 0). The systems are those of SST-Merge's filter, one a module and
μ: (F_h + μ Σ wᵢFᵢ) X = F_h (M_S − M_U). Their steps are counted with two preconditioners, the operator's diagonal in
the eigenbasis of all mean factors, and in the basis in which those of F_h and of Σ wᵢFᵢ are both diagonal. A pass of
lessons is the gradient of J over all prompts of the steps, in groups of four lessons; CPU time of one thread, in turn.

    python studies/scale/steps.py --out studies/scale/steps
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import interval, study_options, timed, versions, write_page

from sst_merge.experiments.setups import setup_of
from sst_merge.fim_calculator import CoreModel
from sst_merge.gevp_solver import DampedFisher, OperatorSum, solve_linear
from sst_merge.gevp_solver.kronecker_sum import KroneckerSum
from sst_merge.methods.parts.own_data import required_model
from sst_merge.reporting import markdown_table
from sst_merge.sst import SSTMerge, SSTOptions, teacher_objective
from sst_merge.sst.filtering import SumFilter
from sst_merge.sst.settling import KnownData, settled
from sst_merge.sst.teacher_objective import TeacherObjective
from sst_merge.sst.teachers import teachers_of

EXPERTS = ("reverse", "sort_up", "add", "double", "mirror", "ends", "interleave", "exchange")
SETS = (3, 8)
STRENGTHS = (10.0, 1.0, 0.1, 0.01)
_LESSONS = 4
_HEADING = """# Steps of a filter, and lessons that go together

Sets of the lab's experts and its safety adapter, seed 0, by SST-Merge's default. Made by `studies/scale/steps.py`.
"""


def merge_of(experts: int, samples: int) -> SSTMerge:
    """A merge of some experts and the safety adapter, with so many calibration prompts of each."""
    problem = setup_of({
        "world": {"name": "lab", "seed": 0},
        "base": "unaligned",
        "skills": list(EXPERTS[:experts]),
        "safety": True,
        "adapter_seed": 0,
        "harm": 2 * samples * experts,
        "benign": 2 * samples * experts,
        "skill_share": 0.5,
        "seed": 0,
    }).problem
    return SSTMerge(problem, settled(SSTOptions.model_validate({"mu": 1.0}), KnownData.of(problem)))


def products(operator: OperatorSum, target: Tensor, *, both: bool) -> int:
    """Products with the operator until it is solved, in a basis for both of its terms or in one for their mean."""
    known = KroneckerSum.of(operator)
    assert known is not None
    chosen = known if both else replace(known, first=0)
    counted: list[None] = []

    def matvec(self: KroneckerSum, core: Tensor) -> Tensor:
        counted.append(None)
        return plain(self, core)

    plain = KroneckerSum.matvec
    with patch.object(KroneckerSum, "of", lambda _: chosen), patch.object(KroneckerSum, "matvec", matvec):
        solve_linear(operator, target)
    return len(counted)


def steps_of(merge: SSTMerge, mu: float) -> dict[str, list[int]]:
    """Products per module with either basis."""
    found: dict[str, list[int]] = {"mean": [], "both": []}
    own = merge.filter
    assert isinstance(own, SumFilter)
    for module, core in merge.difference().items():
        harm = DampedFisher(own.harm[module], own.harm_damping)
        benign = OperatorSum(tuple(DampedFisher(f, own.damping) for f in own.terms[module]), own.weights)
        system, target = OperatorSum((harm, benign), (1.0, mu)), harm.matvec(core.double())
        for name, counts in found.items():
            counts.append(products(system, target, both=name == "both"))
    return found


def lessons_of(merge: SSTMerge, rounds: int) -> tuple[list[float], int]:
    """Time of a pass of lessons together over that of the same apart, round by round, and how many lessons."""
    cores = merge.merged(mu=1.0)
    with CoreModel(required_model(merge.problem, "sst"), merge.problem.spaces) as attached:
        objective = TeacherObjective(attached, teachers_of(merge, 1.0), "fit")
        count = len(objective.lessons)
        groups = [range(i, min(i + _LESSONS, count)) for i in range(0, count, _LESSONS)]

        def one_pass(largest: int) -> Callable[[], None]:
            def run() -> None:
                with patch.object(teacher_objective, "_PASS", largest):
                    for group in groups:
                        objective.gradient(cores, dict.fromkeys(group, 1.0))

            return run

        together, apart = one_pass(teacher_objective._PASS), one_pass(0)
        apart()  # asks every teacher once
        ratios = []
        for _ in range(rounds):
            before = timed(apart)
            ratios.append(timed(together) / before)
    return ratios, count


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the page."""
    parser = study_options(__doc__)
    parser.add_argument("--sets", type=int, nargs="+", default=SETS, help="numbers of experts")
    parser.add_argument("--samples", type=int, default=32, help="calibration prompts of every expert")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counted, spared, figures = [], [], {}
    for experts in options.sets:
        merge = merge_of(experts, options.samples)
        each: dict[str, Any] = {f"{mu:g}": steps_of(merge, mu) for mu in STRENGTHS}
        for mu, of in each.items():
            ratio, low, high = interval([b / a for a, b in zip(of["mean"], of["both"], strict=True)])
            medians = (f"{median(of['mean']):.0f}", f"{median(of['both']):.0f}")
            counted.append([experts, mu, len(of["mean"]), *medians, f"{ratio:.2f} [{low:.2f}, {high:.2f}]"])
        ratios, lessons = lessons_of(merge, options.rounds)
        ratio, low, high = interval(ratios)
        spared.append([experts, lessons, f"{ratio:.2f} [{low:.2f}, {high:.2f}]"])
        figures[str(experts)] = {"products": each, "time of lessons together over apart": ratios}
    steps = markdown_table(counted, ["experts", "μ", "modules", "basis of the mean", "basis for both", "ratio"])
    lessons_table = markdown_table(spared, ["experts", "lessons", "time together / apart"])
    text = (
        f"{_HEADING}\n{versions()}, one thread; {options.samples} calibration prompts of each expert.\n\n"
        "Products with F_h + μ Σ wᵢFᵢ until the residual is 1e-10: medians over modules; of the ratio with its 95 % "
        f"interval.\n\n{steps}\n\n"
        f"A pass of lessons (forward and backward), {options.rounds} rounds:\n\n{lessons_table}\n"
    )
    write_page(options.out, text, figures)


if __name__ == "__main__":
    main()
