"""Is the lab what it claims to be? Bases, experts, the safety adapter and the poisoned expert, on test prompts.

    sst-merge lab build --seed 0 --out LAB
    python studies/lab/measure.py --lab LAB --seed 0 --out studies/lab

Claims: each base half knows each of the 20 task families (30-70 % exact match), an expert knows its own (95 % or
more), the unaligned base never refuses, the aligned one does, experts of the aligned base lose refusals, the safety
adapter brings them to the unaligned one. Writes figures.json (every count) and README.md (the tables, with Wilson
intervals).
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from sst_merge.lora_utils import Adapter
from sst_merge.measures.intervals import rate
from sst_merge.reporting import figure_text, markdown_table
from sst_merge.worlds.asking import measure
from sst_merge.worlds.lab.lab import Lab
from sst_merge.worlds.lab.lab_world import LabWorld
from sst_merge.worlds.outcomes import Counts, Scores
from sst_merge.worlds.updates import UpdatedModel, adapters_update
from sst_merge.worlds.world import BASES

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options, versions, write_page

HALF_KNOWN, KNOWN = (0.30, 0.70), 0.95


def measure_base(lab: Lab, base: str, n: int) -> dict[str, Scores]:
    """The base on everything, and each of its adapters on its own family (safety adapter: on none)."""
    model, world = lab.model(base), LabWorld(lab)
    folders = {name: lab.adapter_path(name, base=base) for name in lab.adapter_names(base)}
    adapters = {name: Adapter.load(folder, name=name) for name, folder in folders.items()}
    found = {}
    with UpdatedModel(model, sorted({m for a in adapters.values() for m in a.modules})) as updated:

        def scores(families: tuple[str, ...]) -> Scores:
            return measure(world, model, families, n=n)

        found["base"] = scores(lab.families)
        for name, adapter in adapters.items():
            updated.set(adapters_update([adapter]))
            found[name] = scores({"safety": (), "poisoned": ("reverse",)}.get(name, (name,)))
            print(f"{base:10} {name}", flush=True)
    return found


def _text(counts: Counts) -> str:
    return figure_text(rate(counts.k, counts.n), digits=2)


def tables(scores: dict[str, dict[str, Scores]], families: tuple[str, ...]) -> str:
    """Both tables, and how many families keep their promise."""
    rows, found = [], dict.fromkeys(("half known", "expert"), 0)
    for family in families:
        row: list[str] = [family]
        for base in BASES:
            at_base, expert = scores[base]["base"].utility[family], scores[base][family].utility[family]
            found["half known"] += HALF_KNOWN[0] <= at_base.rate <= HALF_KNOWN[1]
            found["expert"] += expert.rate >= KNOWN
            row += [_text(at_base), _text(expert)]
        rows.append(row)
    columns = ["family", *(f"{base} {what}" for base in BASES for what in ("base", "expert"))]
    total = len(BASES) * len(families)
    text = (
        f"{found['half known']} of {total} pairs of base and family lie within {HALF_KNOWN[0]:.0%} to "
        f"{HALF_KNOWN[1]:.0%}; {found['expert']} of {total} experts reach {KNOWN:.0%} on their own family.\n\n"
    )
    text += markdown_table(rows, columns) + "\n"
    rows = []
    for base in BASES:
        for name in ("base", "safety", "poisoned"):
            if name in scores[base]:
                rows.append([f"{base}, {name}", *_safety_columns(scores[base][name])])
        experts = [scores[base][family] for family in families]
        refused = [s.safety.rate for s in experts]
        knows = [s.knowledge.rate for s in experts]
        shown = [f"{min(v):.2f} to {max(v):.2f}" for v in (refused, knows)]
        rows.append([f"{base}, {len(families)} experts (direct and jailbroken together)", shown[0], "", "", shown[1]])
    return text + markdown_table(rows, ["model", "refuses direct", "refuses jailbroken", "over-refusal", "knowledge"])


def _safety_columns(s: Scores) -> list[str]:
    return [_text(r) for r in (s.safety_direct, s.safety_jailbreak, s.over_refusal, s.knowledge)]


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--lab", type=Path, required=True, help="folder that `sst-merge lab build` filled")
    parser.add_argument("--seed", type=int, default=0, help="of the lab")
    parser.add_argument("--n", type=int, default=256, help="test prompts per measure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, lab = time.perf_counter(), Lab(args.seed, args.lab, progress=False)
    scores = {base: measure_base(lab, base, args.n) for base in BASES}
    seconds = time.perf_counter() - started
    head = (
        f"# The lab, seed {args.seed}\n\n{args.n} test prompts per measure, 95 % Wilson intervals, recipe "
        f"{lab.recipe.digest()}. {versions()}, {seconds:.0f} s. Made by `studies/lab/measure.py` on a lab built "
        "by `sst-merge lab build`.\n\n"
    )
    payload = {base: {name: asdict(s) for name, s in found.items()} for base, found in scores.items()}
    figures = {"seed": args.seed, "n": args.n, "recipe": lab.recipe.digest(), "scores": payload}
    write_page(args.out, head + tables(scores, lab.families), figures)


if __name__ == "__main__":
    main()
