r"""Whether teachers belong into SST-Merge's default, on dev prompts of the lab.

python studies/attempts/teachers_default/measure.py --out studies/attempts/teachers_default --passes 0 4
python studies/attempts/teachers_default/measure.py --out studies/attempts/teachers_common \
    --passes 0 4 --mu 1 3 --common

With --common no skill has prompts of its own: all are judged and taught on the general prompts.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from study import study_options, versions, write_page

from sst_merge.data_loader.batch import Batch
from sst_merge.experiments.outcome_texts import right_texts
from sst_merge.experiments.read_cells import rate_over_seeds
from sst_merge.methods import MergeProblem
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.sst import SSTMerge, SSTOptions, teacher_refine
from sst_merge.worlds.merge_setup import merge_setup
from sst_merge.worlds.outcomes import GENERAL, HARM, LOOKALIKE, task_kind
from sst_merge.worlds.registry import open_world
from sst_merge.worlds.updates import Update, core_update
from sst_merge.worlds.world import ALIGNED, UNALIGNED

MERGES = (
    (UNALIGNED, ("swap_pairs",)),
    (UNALIGNED, ("reverse", "sort_up", "add")),
    (ALIGNED, ("reverse", "swap_pairs")),
)
COLUMNS = ("Base", "Skills", "Form", "Refused", "Skill", "Look-alikes answered", "General", "J, held out", "CPU s")


def without_own(problem: MergeProblem) -> MergeProblem:
    """The same merge with general prompts alone."""
    own = {tuple(row) for found in problem.adapter_benign.values() for batch in found for row in _rows(batch)}
    kept = [
        batch.rows(torch.tensor([tuple(row) not in own for row in _rows(batch)]))
        for batch in problem.benign
        if any(tuple(row) not in own for row in _rows(batch))
    ]
    return replace(problem, adapter_benign={}, benign=kept)


def _rows(batch: Batch) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def merged(problem: MergeProblem, base: str, passes: int, mu: float) -> tuple[Update, str]:
    """SST-Merge, and what became of J.

    Args:
        problem: adapters, model, data.
        base: that they are merged into.
        passes: of the teachers over the prompts of the steps; 0 for the closed form.
        mu: μ of the filter.

    Returns:
        The update; J on held-out prompts before and after.
    """
    given = {"refine": "teachers" if passes else 0, "aligned_base": base == ALIGNED}
    merge = SSTMerge(problem, SSTOptions.model_validate(given))
    cores = merge.merged(mu=mu)
    if not passes:
        return core_update(merge.problem.spaces, cores), "–"
    teacher_refine.PASSES = passes
    taught = merge.taught(cores, 1.0 / mu)
    return core_update(merge.problem.spaces, taught.cores), f"{taught.before:.3f} → {taught.after:.3f}"


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the adapters")
    parser.add_argument("--passes", type=int, nargs="+", default=[0, 2, 4, 8])
    parser.add_argument("--mu", type=float, nargs="+", default=[1.0])
    parser.add_argument("--common", action="store_true", help="no skill has prompts of its own")
    parser.add_argument("--prompts", type=int, default=48, help="dev prompts per kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = open_world("lab", seed=0)
    found: dict[tuple[str, Sequence[str], float, int], list[dict[str, Any]]] = {}
    for base, skills in MERGES:
        kinds = dict.fromkeys([*HARM, LOOKALIKE, GENERAL, *map(task_kind, skills)], args.prompts)
        for seed in args.seeds:
            setup = merge_setup(world, skills, base=base, safety=base == UNALIGNED, adapter_seed=seed, seed=seed)
            problem = without_own(setup.problem) if args.common else setup.problem
            for mu, passes in product(args.mu, args.passes):
                started = time.process_time()
                update, fell = merged(problem, base, passes, mu)
                seconds = time.process_time() - started
                with setup.answering() as answer:
                    texts = right_texts(answer(update, kinds, split="dev", right_only=True))
                one = {"seed": seed, "texts": texts, "seconds": seconds, "fell": fell}
                found.setdefault((base, skills, mu, passes), []).append(one)
                print(base, skills, seed, mu, passes, f"{seconds:.0f} s", fell, file=sys.stderr, flush=True)
    rows = [row(*key, of) for key, of in found.items()]
    title, own = ("Teachers by default", "")
    if args.common:
        title, own = "Teachers by default, with general prompts alone", " No skill has prompts of its own."
    about = (
        f"Adapter seeds {args.seeds}, {args.prompts} dev prompts per kind (refused: twice that); 95 % intervals over "
        f"seeds and prompts.{own} {versions()}. Made by `studies/attempts/teachers_default/measure.py`."
    )
    names = ("base", "skills", "mu", "passes", "seeds")
    figures = [dict(zip(names, (*key, of), strict=True)) for key, of in found.items()]
    write_page(args.out, f"# {title}\n\n{about}\n\n{markdown_table(rows, COLUMNS)}\n", figures)


def row(base: str, skills: Sequence[str], mu: float, passes: int, of: Sequence[Mapping[str, Any]]) -> list[str]:
    """One form of one merge, over its seeds."""

    def rated(*kinds: str) -> str:
        return figure_text(rate_over_seeds(["".join(one["texts"][kind] for kind in kinds) for one in of]), digits=2)

    form = f"μ = {mu:g}, " + (f"teachers, {passes} passes" if passes else "closed form")
    rates = [rated(*HARM), rated(*map(task_kind, skills)), rated(LOOKALIKE), rated(GENERAL)]
    seconds = sum(one["seconds"] for one in of) / len(of)
    return [base, ", ".join(skills), form, *rates, "; ".join(one["fell"] for one in of), f"{seconds:.0f}"]


if __name__ == "__main__":
    main()
