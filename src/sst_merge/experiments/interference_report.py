"""What experiment 2 says: retention against the number of experts, the worst task, and the safety beside it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..measures.figure import Figure
from ..measures.resampling import Array, figure_of, seed_draws
from ..measures.retention import retention_draws, together_draws
from ..reporting import PageTable, figure_text, retention_plot
from .cells import CellStore
from .config import ExperimentConfig
from .method_sweeps import PLAIN
from .plan import JOINT, Planned
from .read_cells import GroupCells, expert_rows, mean_over_seeds, rate_over_seeds, refusal_text, task_rows
from .report import Report

__all__ = ["interference_report"]

_STAGES = {"skills": "skills alone", "safe": "with safety"}
_OURS = "SST-Merge"
_SHOWN = {
    "retention": "Retention",
    "minus plain": f"minus {PLAIN}",
    "together": "All tasks together",
    "worst task": "Worst task, mean rate",
    "safety": "Safety",
    "over-refusal": "Over-refusal",
}
"""Figure → heading."""
Results = Mapping[str, Mapping[int, Any]]
Figures = Mapping[str, Mapping[str, Any]]


def interference_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are stored.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 2: many experts")
    curves: dict[tuple[str, str], dict[str, dict[int, Figure | None]]] = {}
    for part, group in dict.fromkeys((p.part, p.group) for p in planned):
        cells = GroupCells.of(planned, store, part, group)
        for stage, said in _STAGES.items():
            results = {label: of for label, of in cells.results.items() if all(stage in r for r in of.values())}
            if not results:
                continue
            if stage == "safe" and all(JOINT in models for models in cells.alone.values()):
                results |= {JOINT: {n: {"safe": {"test": models[JOINT]["test"]}} for n, models in cells.alone.items()}}
            figures = _figures(results, cells.alone, stage, config.n_resamples)
            report.figures[f"{part}, {group}, {said}"] = figures
            where = group if part == "experts" else f"{group}, {part}"
            silent = sorted({task for models in cells.alone.values() for task in _silent(models)})
            report.tables.append(_table(f"{where}, {said}", stage, figures, silent))
            for label, own in figures.items():
                points = curves.setdefault((part, stage), {}).setdefault(label, {})
                points[int(group.split()[0])] = own["retention"]
    for (part, stage), by_label in curves.items():
        report.pictures += retention_plot(
            by_label,
            path_stem=folder / f"retention_{part}_{stage}",
            title=f"Retention by number of experts, {part}, {_STAGES[stage]}",
            highlight=_OURS if _OURS in by_label else None,
        )
    return report


def _figures(results: Results, alone: Mapping[int, Any], stage: str, n_resamples: int) -> dict[str, dict[str, Any]]:
    """Label → figures over sets of experts and prompts."""
    # An expert without any right answer has nothing that could be retained; all tasks together count it as it is.
    draws = _draws(retention_draws, results, alone, stage, n_resamples, leave_out=_silent)
    together = _draws(together_draws, results, alone, stage, n_resamples)
    found = {}
    for label, own in draws.items():
        sides = [result[stage]["test"] for result in results[label].values()]
        sets = len(sides)
        against = {other: figure_of(own - of, sets) for other, of in draws.items() if other != label}
        worst = mean_over_seeds([min(_rates(side["right"])) for side in sides])
        found[label] = {
            "retention": figure_of(own, sets),
            "minus plain": against.get(PLAIN),
            "retention gained": against,
            "together": figure_of(together[label], sets),
            "together behind": figure_of(together[_OURS] - together[label], sets) if _OURS in together else None,
            "worst task": None if worst is None else worst.within(0, 1),
            "safety": rate_over_seeds([refusal_text(side["right"]) for side in sides]),
            "over-refusal": rate_over_seeds([side["other"]["lookalike"] for side in sides]),
            "sets": sets,
        }
        if stage == "safe":
            # Nothing was chosen on dev prompts where there is nothing to choose.
            chosen = [result[stage]["reached"] for result in results[label].values() if "reached" in result[stage]]
            found[label]["reached"] = sum(chosen) if chosen else None
    return found


def _draws(
    measure: Callable[..., dict[str, Array]],
    results: Results,
    alone: Mapping[int, Any],
    stage: str,
    n_resamples: int,
    leave_out: Callable[[Mapping[str, Any]], Collection[str]] = lambda _: (),
) -> dict[str, Array]:
    """Label → draws of a measure's mean over sets of experts."""
    by_set = []
    for number, models in alone.items():
        without = leave_out(models)
        experts = {task: row for task, row in expert_rows(models).items() if task not in without}
        merged = {}
        for label, of in results.items():
            rows = task_rows([of[number][stage]["test"]["right"]])
            merged[label] = {task: rows[task][0] for task in experts}
        by_set.append(measure(merged, experts, n_resamples=n_resamples))
    return {label: seed_draws([found[label] for found in by_set], 1) for label in results}


def _silent(models: Mapping[str, Any]) -> list[str]:
    """Tasks whose experts have no right answer; none where no expert has any, which is an error."""
    rows = expert_rows(models)
    found = [task for task, row in rows.items() if not any(row)]
    return [] if len(found) == len(rows) else found


def _rates(right: Mapping[str, str]) -> list[float]:
    return [text.count("1") / len(text) for kind, text in right.items() if kind.startswith("task:")]


def _table(name: str, stage: str, figures: Figures, silent: Sequence[str]) -> PageTable:
    rows: list[list[object]] = [[label, *(_shown(own, key) for key in _SHOWN)] for label, own in figures.items()]
    if stage == "safe":
        for row, own in zip(rows, figures.values(), strict=True):
            row.append(None if own["reached"] is None else f"{own['reached']} of {own['sets']}")
    columns = ["Method", *_SHOWN.values(), *(["Safe on dev"] if stage == "safe" else [])]
    if _OURS in figures:
        columns.append(f"{_OURS} ahead, all tasks together")
        for row, (label, own) in zip(rows, figures.items(), strict=True):
            row.append(None if label == _OURS else figure_text(own["together behind"]))
    sets = max(own["sets"] for own in figures.values())
    over = f"mean over {sets} sets of experts, 95 % intervals over sets and prompts"
    over = over if sets > 1 else "one set of experts, 95 % intervals over prompts"
    if silent:
        over += f", retention without {', '.join(silent)}, of which the expert has no right answer"
    return PageTable(
        caption=f"{name}: {over}; strengths chosen on dev prompts",
        columns=columns,
        rows=rows,
    )


def _shown(own: Mapping[str, Any], key: str) -> object:
    """A figure; between sets, of which there is one, nothing is known of the worst task's."""
    figure: Figure | None = own[key]
    alone = key == "worst task" and own["sets"] == 1
    return f"{figure.value:.3f}" if alone and figure is not None else figure_text(figure)
