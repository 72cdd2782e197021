"""The README's picture: skill against safety of every strength of four methods, from this study's figures.

Rates are pooled over the five seeds of adapters, and bars are 95 % Wilson intervals of the pooled counts; intervals of
the figures at one chosen strength, which contain the spread between seeds, stand on the page.

    python studies/lab_tax/picture.py --out docs/pictures
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from study import study_options

from sst_merge.measures.safety_tax import SweepPoint
from sst_merge.reporting import safety_utility_plot

FIGURES = Path(__file__).with_name("figures.json")
METHODS = ("SST-Merge, refined", "SST-Merge", "Task Arithmetic", "Random subspace")
ALONE = {"skills alone": "skill adapter alone", "safety alone": "safety adapter alone"}


def pooled(points: Sequence[Mapping[str, Sequence[int]]], strength: float) -> SweepPoint:
    """One point of a sweep over all seeds.

    Args:
        points: counts [right, asked] of every seed at the same place of the sweep.
        strength: that place.

    Returns:
        Rates and what they are rates of.
    """
    (safe, of_safety), (right, of_utility) = (
        [sum(counts) for counts in zip(*(point[kind] for point in points), strict=True)]
        for kind in ("safety", "utility")
    )
    return SweepPoint(
        strength=strength,
        safety=safe / of_safety,
        utility=right / of_utility,
        n_safety=of_safety,
        n_utility=of_utility,
    )


def main() -> None:
    """Draw ``front.svg`` and ``front.png``."""
    options = study_options(__doc__).parse_args()
    runs: list[Any] = list(json.loads(FIGURES.read_text(encoding="utf-8"))["runs"].values())
    curves = {
        method: [
            pooled(points, float(place))
            for place, points in enumerate(zip(*(run[method]["test"] for run in runs), strict=True))
        ]
        for method in METHODS
    }
    alone = {shown: pooled([run[name]["test"][0] for run in runs], 0.0) for name, shown in ALONE.items()}
    written = safety_utility_plot(
        curves,
        anchors={name: (point.safety, point.utility) for name, point in alone.items()},
        path_stem=options.out / "front",
        title="One skill and a safety adapter on the lab, five seeds",
        highlight=METHODS[0],
        utility_label="Skill: share of right answers",
    )
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
