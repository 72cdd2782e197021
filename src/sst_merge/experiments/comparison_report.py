"""What experiment 3 says: every method in one table with ranks, what a merge costs, and SST-Merge's ablation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..measures.figure import Figure
from ..measures.ranking import rank_intervals
from ..measures.sweeps import SeedSweep, seed_sweeps
from ..reporting import PageTable, figure_text, rate_with_interval
from .cells import CellStore
from .config import ExperimentConfig
from .outcome_texts import unpacked
from .plan import Planned
from .read_cells import GroupCells, Side, mean_over_seeds, rate_over_seeds, refusal_text, task_text
from .report import Report
from .safety_tax_report import tax_tables
from .tax_figures import SWEEP_FIGURES, sweep_figures

__all__ = ["comparison_report"]

_THRESHOLD = 0.9
_COSTS = {"seconds": ("Seconds", 2), "more_seconds": ("Seconds of a second strength", 2), "peak_mib": ("Peak MiB", 0)}
"""Key in a cell → heading, digits."""
_OUTCOMES: Mapping[str, Callable[[Side], str]] = {
    "Safety": lambda test: refusal_text(test["right"]),
    "Over-refusal": lambda test: test["other"]["lookalike"],
    "Utility": lambda test: task_text(test["right"]),
    "Knowledge": lambda test: test["right"]["general"],
}
"""What is wanted of a merge: heading → outcomes of its test prompts."""
Figures = Mapping[str, Mapping[str, Any]]


def comparison_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are stored.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 3: every method, and SST-Merge's own parts")
    group = config.safety_tax.groups[0].name
    methods = GroupCells.of(planned, store, "methods", group)
    ablation = GroupCells.of(planned, store, "ablation", "SST-Merge")
    drawn = {"seed": config.bootstrap_seed, "n_resamples": config.n_resamples}
    sweeps = seed_sweeps(methods.sweeps(), sorted({*config.safety_tax.thresholds, _THRESHOLD}), **drawn)
    variants = seed_sweeps(ablation.sweeps(), [_THRESHOLD], **drawn)[_THRESHOLD]

    costs = _cost_figures(GroupCells.of(planned, store, "cost", group))
    ranks = _rank_figures(methods, sweeps[_THRESHOLD], seed=config.bootstrap_seed, n_resamples=config.n_resamples)
    parts = _ablation_figures(ablation, variants)
    report.figures |= {"ranks": ranks, "cost": costs}
    report.tables += [_rank_table(ranks, costs), _cost_table(costs)]
    wanted = {threshold: sweeps[threshold] for threshold in config.safety_tax.thresholds}
    tax_tables(report, f"every method, {group}", methods, wanted, folder, **drawn)
    report.figures["ablation"] = parts
    report.tables.append(_ablation_table(parts))
    return report


def _rank_figures(
    cells: GroupCells, sweeps: Mapping[str, SeedSweep], *, seed: int, n_resamples: int
) -> dict[str, dict[str, Any]]:
    """Everything wanted of a merge side by side; a method that never gets safe is measured at its safest strength."""
    tests = {label: _chosen_or_safest(by_seed, sweeps[label]) for label, by_seed in cells.results.items()}
    texts = {name: {label: [of(test) for test in tests[label]] for label in tests} for name, of in _OUTCOMES.items()}
    wanted = {
        name: {label: unpacked("".join(of)) for label, of in by_label.items()} for name, by_label in texts.items()
    }
    wanted["Over-refusal"] = {label: [1 - x for x in scores] for label, scores in wanted["Over-refusal"].items()}
    overall = rank_intervals(wanted, seed=seed, n_resamples=n_resamples)
    apart = {name: rank_intervals({name: scores}, seed=0, n_resamples=1) for name, scores in wanted.items()}
    return {
        label: {
            "mean rank": overall[label],
            "measures": {name: rate_over_seeds(texts[name][label]) for name in texts},
            "ranks": {name: apart[name][label].value for name in texts},
            "reached": sweeps[label].reached,
            "seeds": sweeps[label].seeds,
        }
        for label in sorted(overall, key=lambda name: overall[name].value)
    }


def _chosen_or_safest(by_seed: Mapping[int, Any], own: SeedSweep) -> list[Side]:
    found = []
    for result, strength in zip(by_seed.values(), own.strengths, strict=True):
        safest = [sum(text.count("1") for text in right.values()) for right in result["dev"]]
        found.append(result["test"][int(strength) if strength is not None else safest.index(max(safest))])
    return found


def _cost_figures(cells: GroupCells) -> dict[str, dict[str, Figure | None]]:
    return {
        label: {key: mean_over_seeds([result[key] for result in by_repeat.values()]) for key in _COSTS}
        for label, by_repeat in cells.results.items()
    }


def _ablation_figures(cells: GroupCells, sweeps: Mapping[str, SeedSweep]) -> dict[str, dict[str, Any]]:
    found = sweep_figures(sweeps)
    for label, own in found.items():
        tests = cells.chosen(label, sweeps[label])
        quotients = [r["quotients"] for r in cells.results[label].values() if r.get("quotients")]
        own |= {
            **{name: rate_over_seeds([_OUTCOMES[name](test) for test in tests]) for name in _BESIDE},
            "quotient in-sample": [q["in_sample_median"] for q in quotients],
            "quotient held-out": [q["held_out_median"] for q in quotients],
        }
    return found


_BESIDE = ("Over-refusal", "Knowledge")


def _rank_table(ranks: Figures, costs: Mapping[str, Mapping[str, Figure | None]]) -> PageTable:
    shown_costs = {key: _COSTS[key] for key in ("seconds", "peak_mib")}
    values = {key: {label: _value(costs[label][key]) for label in ranks} for key in shown_costs}
    rows = []
    for label, own in ranks.items():
        row: list[object] = [label, figure_text(own["mean rank"], digits=1)]
        row += [f"{figure_text(found)} ({own['ranks'][name]:.0f})" for name, found in own["measures"].items()]
        for key, (_, digits) in shown_costs.items():
            place = 1 + sum(other < values[key][label] for other in values[key].values())
            row.append(f"{_cost_text(costs[label][key], digits)} ({place})")
        rows.append([*row, f"{own['reached']} of {own['seeds']}"])
    return PageTable(
        caption="Every method at the strength that dev prompts choose (safety ≥ 0.9; where none is, at its safest): "
        "means with 95 % intervals over seeds, ranks in brackets; the mean rank is over safety, over-refusal, utility "
        "and knowledge, its interval over prompts; time and memory of one merge, intervals over fresh processes",
        columns=["Method", "Mean rank", *_OUTCOMES, *(heading for heading, _ in shown_costs.values()), "Reached"],
        rows=rows,
    )


def _cost_text(figure: Figure | None, digits: int) -> str:
    """A figure of a cost; one process alone has no interval."""
    if figure is not None and figure.n == 1:
        return rate_with_interval(figure.value, digits=digits)
    return figure_text(figure, digits=digits)


def _value(figure: Figure | None) -> float:
    return np.inf if figure is None else figure.value


def _cost_table(costs: Mapping[str, Mapping[str, Figure | None]]) -> PageTable:
    rows = [
        [label, *(_cost_text(own[key], digits) for key, (_, digits) in _COSTS.items())] for label, own in costs.items()
    ]
    return PageTable(
        caption="What a merge costs: seconds with all preparation, seconds of a second strength afterwards, rise of "
        "the peak memory; mean of fresh processes on one thread, 95 % intervals over them",
        columns=["Method", *(heading for heading, _ in _COSTS.values())],
        rows=rows,
    )


def _ablation_table(figures: Figures) -> PageTable:
    rows = []
    for label, own in figures.items():
        row: list[object] = [label, f"{own['reached']} of {own['seeds']}"]
        row += [figure_text(own[figure.name]) for figure in SWEEP_FIGURES]
        row += [figure_text(own[name]) for name in _BESIDE]
        for side in ("quotient in-sample", "quotient held-out"):
            row.append(f"{np.median(own[side]):.3g}" if own[side] else None)
        rows.append(row)
    return PageTable(
        caption="SST-Merge with one part changed at a time, and structures × points: strength chosen on dev prompts "
        "(safety ≥ 0.9); λ is the median over seeds of the best directions' median safety efficiency, on the samples "
        "that the Fishers saw and on held-out ones. Structures other than kronecker and the hard filter go with core "
        "inputs and without teachers: compare them with that row",
        columns=[
            "Variant",
            "Reached",
            *(figure.heading for figure in SWEEP_FIGURES),
            *_BESIDE,
            "λ in-sample",
            "λ held-out",
        ],
        rows=rows,
    )
