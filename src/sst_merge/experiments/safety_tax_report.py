"""What experiment 1 says, shown: tables and pictures of the figures that ``tax_figures`` computes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measures.sweeps import SeedSweep, seed_sweeps
from ..reporting import PageTable, figure_text, safety_utility_plot, tax_bars
from .cells import CellStore
from .config import ExperimentConfig
from .method_sweeps import PLAIN
from .over_refusal_report import add_over_refusal
from .plan import JOINT, Planned
from .read_cells import GroupCells
from .report import Report, picture_stem
from .tax_figures import (
    ANCHORS,
    APART,
    SINGLE_MODELS,
    SWEEP_FIGURES,
    apart_figures,
    beside_figures,
    drift_figures,
    mean_curves,
    mean_point,
    shared_front,
    sweep_figures,
)

__all__ = ["ALIGNGUARD", "OURS", "safety_tax_report", "tax_tables"]

OURS = (
    "SST-Merge",
    "SST-Merge, teachers",
    "SST-Merge, core inputs",
    "SST-Merge, core inputs, Fisher utility",
    "SST-Merge, core inputs, refined",
)
"""The variants of SST-Merge that are judged by the targets; others are shown, and neither judged nor rivals."""
ALIGNGUARD = "AlignGuard-LoRA"
_SHOWN = (*OURS, PLAIN, ALIGNGUARD, "TIES", "DARE linear", "RegMean", "Benign null space")
Figures = Mapping[str, Mapping[str, Any]]


def safety_tax_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are stored.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 1: safety tax")
    for part, group in dict.fromkeys((p.part, p.group) for p in planned):
        cells = GroupCells.of(planned, store, part, group)
        drift = config.safety_tax.drift
        if part == "drift" and drift is not None:
            slack = drift.utility_slack
            figures = drift_figures(cells, slack=slack, n_resamples=config.n_resamples)
            report.figures[f"drift, {group}"] = figures
            report.tables.append(_drift_table(group, figures, slack))
        else:
            drawn = {"seed": config.bootstrap_seed, "n_resamples": config.n_resamples}
            sweeps = seed_sweeps(cells.sweeps(), config.safety_tax.thresholds, **drawn)
            name = group if part == "tax" else f"second base, {group}"
            tax_tables(report, name, cells, sweeps, folder, **drawn)
    return report


def tax_tables(
    report: Report,
    name: str,
    cells: GroupCells,
    sweeps: Mapping[float, Mapping[str, SeedSweep]],
    folder: Path,
    **draws: int,
) -> None:
    """Tables and pictures of one group's sweeps.

    Args:
        report: to add them to.
        name: of the group.
        cells: of the group.
        sweeps: threshold → method → its sweep over seeds.
        folder: for the pictures.
        draws: ``seed`` and ``n_resamples`` of the bootstrap.
    """
    figures = {threshold: sweep_figures(found) for threshold, found in sweeps.items()}
    middle = 0.9 if 0.9 in sweeps else next(iter(sweeps))
    chosen, curves = figures[middle], mean_curves(cells)
    for label, share in shared_front(curves).items():
        chosen[label]["pareto share"] = share
        chosen[label]["apart"] = apart_figures(cells.chosen(label, sweeps[middle][label]))
    beside = {who: [models[who]["test"] for models in cells.alone.values() if who in models] for who in SINGLE_MODELS}
    alone = {who: {"apart": apart_figures(tests), **beside_figures(tests)} for who, tests in beside.items() if tests}
    report.figures[name] = {"alone": alone} | {f"{threshold:g}": found for threshold, found in figures.items()}

    report.tables.append(
        _beside_table(name, alone, {who: f"{len(beside[who])} of {len(cells.alone)}" for who in alone})
    )
    report.tables += [_tax_table(name, threshold, found) for threshold, found in figures.items()]
    report.tables.append(_apart_table(name, middle, {**alone, **chosen}))
    ours = [label for label in OURS if label in chosen]
    report.tables += [_against_table(name, middle, chosen, label) for label in ours]
    report.tables.append(_front_table(name, chosen))
    shown, first = _in_picture(curves), next(iter(ours), next(iter(curves)))
    add_over_refusal(report, name, cells, first, shown, folder, rates=list(sweeps), **draws)

    report.pictures += safety_utility_plot(
        {label: curves[label] for label in shown},
        anchors={who: mean_point(beside[who]) for who in (*ANCHORS, *([JOINT] if JOINT in alone else []))},
        path_stem=picture_stem(folder, "front", name),
        title=f"Safety and skills, {name}: mean over seeds",
        threshold=middle,
        highlight=next(iter(ours), None),
    )
    # Where no method is safe enough at any strength there is no tax to draw.
    if all(of["tax"] is None for of in chosen.values()):
        return
    report.pictures += tax_bars(
        {label: of["tax"] for label, of in chosen.items()},
        path_stem=picture_stem(folder, "tax", name),
        title=f"Safety tax at safety ≥ {middle:g}, {name}",
        highlight=next(iter(ours), None),
    )


def _in_picture(labels: Iterable[str]) -> list[str]:
    """Forty curves in one picture would hide each other."""
    known = list(labels)
    return [label for label in _SHOWN if label in known] or known[:7]


def _beside_table(name: str, alone: Figures, seeds: Mapping[str, str]) -> PageTable:
    some = len(set(seeds.values())) > 1
    return PageTable(
        caption=f"{name}: models beside the merges; joint training is one adapter trained on the data of all, which "
        "merging can hardly reach; skills are the share of right answers",
        columns=["Model", "Safety", "Skills", *(["Seeds"] if some else [])],
        rows=[
            [who, figure_text(own["safety"]), figure_text(own["skills"]), *([seeds[who]] if some else [])]
            for who, own in alone.items()
        ],
    )


def _tax_table(name: str, threshold: float, figures: Figures) -> PageTable:
    rivals = [label for label in (PLAIN, ALIGNGUARD) if label in figures]
    rows = []
    for label, own in figures.items():
        agreement = f"{100 * own['agreement']:.0f} %"
        row = [label, f"{own['reached']} of {own['seeds']}", agreement]
        row += [figure_text(own[figure.name]) for figure in SWEEP_FIGURES]
        row += [figure_text(own["tax reduction"].get(rival)) for rival in rivals]
        both = own["composite"]
        rows.append([*row, None if both is None else f"{both['value']:.3f} ({both['angle']:.0f}°)"])
    return PageTable(
        caption=f"{name}: the smallest strength with dev safety ≥ {threshold:g}, measured on test prompts; utility is "
        "the share of the skills' own adapters; 95 % intervals over seeds, prompts and the choice, those of safety cut "
        "at 0 and 1",
        columns=[
            "Method",
            "Reached",
            "Chosen again",
            *(figure.heading for figure in SWEEP_FIGURES),
            *(f"Tax reduction vs {label}" for label in rivals),
            "Composite (angle)",
        ],
        rows=rows,
    )


def _apart_table(name: str, threshold: float, figures: Figures) -> PageTable:
    return PageTable(
        caption=f"{name}: apart at that strength (safety ≥ {threshold:g} on dev): unseen harmful objects asked "
        "directly and in unseen wrappers, look-alikes, general knowledge",
        columns=["Method", *APART],
        rows=[[label, *map(figure_text, own["apart"].values())] for label, own in figures.items()],
    )


def _against_table(name: str, threshold: float, figures: Figures, ours: str) -> PageTable:
    own = figures[ours]
    rows = [
        [
            label,
            f"{other['reached']} of {other['seeds']}",
            figure_text(own["tax reduction"][label]),
            figure_text(own["hypervolume gained"][label]),
        ]
        for label, other in figures.items()
        if label != ours
    ]
    return PageTable(
        caption=f"{name}: {ours} against every other method at safety ≥ {threshold:g}, paired",
        columns=["Method", "Reached", "Tax reduction", "Hypervolume gained"],
        rows=rows,
    )


def _front_table(name: str, figures: Figures) -> PageTable:
    ranked = sorted(figures.items(), key=lambda item: -item[1]["hypervolume"].value)
    return PageTable(
        caption=f"{name}: the front, by hypervolume with reference (0, 0); share of a method's points, means over "
        "seeds, that no point of any method beats",
        columns=["Method", "Hypervolume", "Pareto share"],
        rows=[[label, figure_text(own["hypervolume"]), f"{own['pareto share']:.2f}"] for label, own in ranked],
    )


def _drift_table(name: str, figures: Figures, slack: float) -> PageTable:
    shown = ("drift", "drift reduction", "utility")
    return PageTable(
        caption=f"Drift, {name}: safety of the aligned base less safety after merging task experts into it; of a "
        f"method's strengths the safest on dev whose dev utility is at least plain merging's less {slack:g}; reduction "
        "only where plain merging drifts by 10 points or more; utility is the mean rate of right answers",
        columns=["Method", "Drift", "Drift reduction vs plain merging", "Utility"],
        rows=[[label, *(figure_text(own.get(key)) for key in shown)] for label, own in figures.items()],
    )
