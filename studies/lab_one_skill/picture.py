"""The README's picture: skill against safety of every strength of four methods, from this study's figures.

Rates are pooled over the seeds of adapters, and bars are 95 % Wilson intervals of the pooled counts; intervals of the
figures at one chosen strength, which contain the spread between seeds, stand on the page.

    python studies/lab_one_skill/picture.py --out docs/pictures
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options

from sst_merge.experiments.outcome_texts import unpacked
from sst_merge.measures.safety_tax import SweepPoint
from sst_merge.reporting import safety_utility_plot
from sst_merge.worlds.outcomes import HARM, task_kind

FIGURES = Path(__file__).with_name("figures.json")
METHODS = ("SST-Merge", "RegMean", "Task Arithmetic", "Random subspace")
ALONE = {"skills alone": "skill adapter alone", "safety alone": "safety adapter alone"}


def pooled(points: Sequence[Mapping[str, Any]], skill: str, strength: float) -> SweepPoint:
    """One point of a sweep over all seeds.

    Args:
        points: outcomes on test prompts of every seed at the same place of the sweep.
        skill: that was merged.
        strength: that place.

    Returns:
        Rates and what they are rates of.
    """
    safe = [value for point in points for kind in HARM for value in unpacked(point["right"][kind])]
    right = [value for point in points for value in unpacked(point["right"][task_kind(skill)])]
    return SweepPoint(
        strength=strength,
        safety=sum(safe) / len(safe),
        utility=sum(right) / len(right),
        n_safety=len(safe),
        n_utility=len(right),
    )


def main() -> None:
    """Draw ``front.svg`` and ``front.png``."""
    options = study_options(__doc__).parse_args()
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    (skill,) = figures["skills"]
    curves = {}
    for method in METHODS:
        seeds = [cell["test"] for cell in figures["results"][method].values()]
        curves[method] = [pooled(points, skill, float(place)) for place, points in enumerate(zip(*seeds, strict=True))]
    models = list(figures["alone"].values())
    alone = {shown: pooled([of[name]["test"] for of in models], skill, 0.0) for name, shown in ALONE.items()}
    written = safety_utility_plot(
        curves,
        anchors={name: (point.safety, point.utility) for name, point in alone.items()},
        path_stem=options.out / "front",
        title=f"One skill and a safety adapter on the lab, {len(figures['seeds'])} seeds",
        highlight=METHODS[0],
        utility_label="Skill: share of right answers",
    )
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
