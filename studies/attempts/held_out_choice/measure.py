"""Can held-out divergence choose damping and shrinkage? The closed form over a grid of both, on dev prompts of the lab.

    python studies/attempts/held_out_choice/measure.py --out studies/attempts/held_out_choice

J is the objective of the teachers (design, section 4) on calibration prompts that no Fisher has seen. A rule that takes
the smallest J would be worth having if small J went with what is wanted: refusals, skills, general knowledge. Other
structures than ``kronecker`` go with ``inputs: core`` alone.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from study import study_options, versions, write_page

from sst_merge.experiments.outcome_texts import right_texts
from sst_merge.experiments.read_cells import rate_over_seeds
from sst_merge.fim_calculator import CoreModel
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.sst import SSTMerge, SSTOptions
from sst_merge.sst.teacher_objective import TeacherObjective
from sst_merge.sst.teachers import teachers_of
from sst_merge.worlds.merge_setup import MergeSetup, merge_setup
from sst_merge.worlds.outcomes import GENERAL, HARM, LOOKALIKE, task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.updates import core_update

MERGES = (("swap_pairs",), ("next_letter",), ("reverse", "sort_up", "add"))
GRID = tuple(product((0.001, 0.01, 0.1), (0.0, 0.3, 0.7)))
DEFAULT = (0.001, 0.3)
COLUMNS = ("Skills", "ρ", "γ", "Held-out J", "Refused", "Skill", "Look-alikes answered", "General")


def measured(setup: MergeSetup, damping: float, shrinkage: float, n: int) -> dict[str, Any]:
    """The closed form at μ = 1 with these settings: held-out J, and right answers to dev prompts."""
    given = {"refine": "teachers", "damping": damping, "output_shrinkage": shrinkage}
    merge = SSTMerge(setup.problem, SSTOptions.model_validate(given))
    cores = merge.merged(mu=1.0)
    with CoreModel(setup.model, merge.problem.spaces) as attached:
        held = TeacherObjective(attached, teachers_of(merge, 1.0), "held")
        objective = held.total(held.divergences(cores))
    kinds = dict.fromkeys([*HARM, LOOKALIKE, GENERAL, *map(task_kind, setup.tasks)], n)
    with setup.answering() as answer:
        found = answer(core_update(merge.problem.spaces, cores), kinds, split="dev", right_only=True)
    return {"objective": objective, "texts": right_texts(found)}


def row(skills: Sequence[str], setting: tuple[float, float], of: Sequence[Mapping[str, Any]], best: bool) -> list[str]:
    """One setting of one merge, over its seeds."""

    def rated(*kinds: str) -> str:
        return figure_text(rate_over_seeds(["".join(one["texts"][kind] for kind in kinds) for one in of]), digits=2)

    mean = sum(one["objective"] for one in of) / len(of)
    rates = [rated(*HARM), rated(*map(task_kind, skills)), rated(LOOKALIKE), rated(GENERAL)]
    named = [f"{value:g}" for value in setting]
    marked = f"{mean:.4f}" + (" (least)" if best else "") + (" (default)" if setting == DEFAULT else "")
    return [", ".join(skills), *named, marked, *rates]


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the adapters")
    parser.add_argument("--prompts", type=int, default=48, help="dev prompts per kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, rows, figures = open_world("lab", seed=0), [], []
    for skills in MERGES:
        found: dict[tuple[float, float], list[dict[str, Any]]] = {setting: [] for setting in GRID}
        for seed in args.seeds:
            setup = merge_setup(world, skills, adapter_seed=seed, seed=seed)
            for setting, of in found.items():
                started = time.process_time()
                of.append({"seed": seed, **measured(setup, *setting, args.prompts)})
                print(skills, seed, setting, f"{time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
        best = min(GRID, key=lambda setting: sum(one["objective"] for one in found[setting]))
        rows += [row(skills, setting, of, setting == best) for setting, of in found.items()]
        figures += [{"skills": skills, "damping": s[0], "shrinkage": s[1], "seeds": of} for s, of in found.items()]
    about = (
        f"Lab seed 0, adapter seeds {args.seeds}, {args.prompts} dev prompts per kind (refused: twice that), closed "
        f"form at μ = 1; 95 % intervals over\nseeds and prompts. {versions()}. Made by "
        "`studies/attempts/held_out_choice/measure.py`."
    )
    title = "# Damping and shrinkage by held-out divergence"
    write_page(args.out, f"{title}\n\n{about}\n\n{markdown_table(rows, COLUMNS)}\n", figures)


if __name__ == "__main__":
    main()
