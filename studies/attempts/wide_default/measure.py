"""How SST-Merge's default was chosen: forms of the merge on the lab's dev prompts, by the hypervolume of their sweep.

python studies/attempts/wide_default/measure.py --out /tmp/wide_default --skills swap_pairs --seed 0
python studies/attempts/wide_default/measure.py --out /tmp/wide_default --skills reverse sort_up add --seed 0
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from study import study_options, versions, write_page

from sst_merge.experiments.method_sweeps import METHOD_SWEEPS
from sst_merge.experiments.outcome_texts import unpacked
from sst_merge.experiments.sweep import measured_sweep
from sst_merge.experiments.updates_by_knob import swept_updates
from sst_merge.measures.front import hypervolume
from sst_merge.methods import MethodSweep
from sst_merge.reporting import markdown_table
from sst_merge.worlds.merge_setup import merge_setup
from sst_merge.worlds.outcomes import HARM, task_kind
from sst_merge.worlds.registry import open_world

MU = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
WIDE = {"inputs": "wide", "utility": "fisher", "combine": "interpolate", "refine": 0}
OWN = {**WIDE, "damping": 0.001, "output_shrinkage": 0.3}


def form(**changed: Any) -> dict[str, Any]:
    """Wide, every adapter at its own point, with something changed."""
    fisher = {"point": "own", **changed.pop("fisher", {})}
    return {**OWN, **changed, "fisher": fisher}


TRUST: Mapping[str, Any] = {"fisher": {"point": "trust"}, "damping": 0.1, "output_shrinkage": 0.7}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "core, interpolated": {"inputs": "core", "combine": "interpolate"},
    "wide, added, trust, ρ 0.1, γ 0.7": {**WIDE, **TRUST, "combine": "add"},
    "wide, interpolated, trust, ρ 0.1, γ 0.7": {**WIDE, **TRUST},
    "the same, own point": form(damping=0.1, output_shrinkage=0.7),
    "own, ρ 0.01, γ 0.7": form(damping=0.01, output_shrinkage=0.7),
    "own, ρ 0.001, γ 0.7": form(output_shrinkage=0.7),
    "own, ρ 0.001, γ 0": form(output_shrinkage=0.0),
    "own, ρ 0.001, γ 0.1": form(output_shrinkage=0.1),
    "own, ρ 0.001, γ 0.3 (default)": form(),
    "own, ρ 0.001, γ 0.5": form(output_shrinkage=0.5),
    "own, ρ 0.001, γ 1": form(output_shrinkage=1.0),
    "default, point merged": form(fisher={"point": "merged"}),
    "default, point trust": form(fisher={"point": "trust"}),
    "default, empirical": form(fisher={"estimator": "empirical"}),
    "default, sampled": form(fisher={"estimator": "sampled"}),
    "default, traces as they are": form(equal_traces=False),
    "default, added": form(combine="add"),
}


def main() -> None:
    """Run, print and write."""
    parser = study_options(__doc__)
    parser.add_argument("--skills", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the adapters")
    parser.add_argument("--prompts", type=int, default=48, help="dev prompts per kind")
    args = parser.parse_args()
    setup = merge_setup(
        open_world("lab", seed=0), args.skills, adapter_seed=args.seed, skill_share=0.75, seed=args.seed
    )
    kinds = dict.fromkeys([*HARM, *map(task_kind, args.skills)], args.prompts)
    plain = {label: METHOD_SWEEPS[label] for label in ("Task Arithmetic", "RegMean", "SST-Merge, core inputs")}
    forms = {label: replace(METHOD_SWEEPS["SST-Merge"], values=MU, options=of) for label, of in FORMS.items()}
    sweeps: Mapping[str, MethodSweep] = {**plain, **forms}
    rows = []
    for label, swept in sweeps.items():
        found = measured_sweep(setup, swept_updates(setup.problem, swept), swept.values, dev=kinds, test={})["dev"]
        points = []
        for texts in found:
            rates = {kind: float(np.mean(unpacked(text))) for kind, text in texts.items()}
            skill = float(np.mean([rates[task_kind(name)] for name in args.skills]))
            points.append((float(np.mean([rates[kind] for kind in HARM])), skill))
        safe = [skill for safety, skill in points if safety >= 0.9]
        at_one = [safety for mu, (safety, _) in zip(swept.values, points, strict=True) if label in FORMS and mu == 1.0]
        rows.append([
            label,
            f"{hypervolume(points):.3f}",
            f"{max(safe):.3f}" if safe else "–",
            f"{at_one[0]:.3f}" if at_one else "–",
        ])
        print(rows[-1], file=sys.stderr, flush=True)
    table = markdown_table(rows, ["Form", "Hypervolume", "Skill at safety ≥ 0.9", "Safety at μ = 1"])
    about = f"{', '.join(args.skills)}; adapter seed {args.seed}; {args.prompts} dev prompts per kind. {versions()}."
    write_page(args.out, f"# {about}\n\n{table}\n", {"asked": vars(args) | {"out": ""}, "rows": rows})


if __name__ == "__main__":
    main()
