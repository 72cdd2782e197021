"""What experiment 2 says: retention against the number of experts, the worst task, and the safety that is kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..measures.resampling import Measured, measured, resampled_means, sample_matrix
from ..measures.seed_sweeps import seed_draws
from ..reporting import PageTable, retention_plot
from ..reporting.sweep_tables import measured_text
from .cells import CellStore
from .collected import Collected, mean_over_seeds, rate_over_seeds, refusal_text
from .config import ExperimentConfig
from .line_up import PLAIN
from .outcome_texts import unpacked
from .plan import Planned
from .report import Report

__all__ = ["interference_report"]

_STAGES = {"skills": "skills alone", "safe": "with safety"}
Array = NDArray[np.float64]


def interference_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are kept.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 2: many experts")
    curves: dict[tuple[str, str], dict[str, dict[int, tuple[float | None, float | None, float | None]]]] = {}
    for part, group in dict.fromkeys((p.part, p.group) for p in planned):
        found = Collected.of(planned, store, part, group)
        for stage, said in _STAGES.items():
            having = {label: of for label, of in found.results.items() if all(stage in r for r in of.values())}
            if not having:
                continue
            figures = _retentions(having, found.alone, stage, config.n_resamples)
            report.tables.append(_table(part, group, stage, having, figures))
            report.figures[f"{part}, {group}, {said}"] = {
                label: {"retention": measured(draws), "minus plain": _gap(figures, label),
                        "retention gained": {r: measured(draws - of) for r, of in figures.items() if r != label},
                        "safety": rate_over_seeds(_refused(having[label], stage))}
                for label, draws in figures.items()
            }  # fmt: skip
            by_label = curves.setdefault((part, stage), {})
            for label, draws in figures.items():
                interval = measured(draws)
                points = by_label.setdefault(label, {})
                points[int(group.split()[0])] = (interval.value, interval.low, interval.high)
    for (part, stage), by_label in curves.items():
        report.pictures += retention_plot(
            by_label, path_stem=folder / f"retention_{part}_{stage}",
            title=f"Retention by number of experts, {part}, {_STAGES[stage]}",
            highlight="SST-Merge" if "SST-Merge" in by_label else None,
        )  # fmt: skip
    return report


def _retentions(
    results: Mapping[str, Mapping[int, Any]], alone: Mapping[int, Any], stage: str, n_resamples: int
) -> dict[str, Array]:
    """Label → draws of the mean over subsets of the mean over tasks of rate / rate of the task's expert.

    Prompts of a task are drawn together for the expert and all methods, and alike in every subset.

    Raises:
        DataError: an expert that scores nothing.
    """
    subsets: dict[str, list[Array]] = {label: [] for label in results}
    for number, models in alone.items():
        shares: dict[str, list[Array]] = {label: [] for label in results}
        for task, expert in _experts(models).items():
            rows = [expert, *(unpacked(of[number][stage]["test"]["right"][f"task:{task}"]) for of in results.values())]
            rng = np.random.default_rng(crc32(task.encode()))
            means = resampled_means(sample_matrix(rows, f"retention, {task}"), rng, n_resamples)
            if not means[0, 0] > 0:
                raise DataError(f"the expert of {task} scores nothing, so nothing can be retained; train it anew")
            whole = np.where(means[0] > 0, means[0], np.nan)
            for label, scores in zip(results, means[1:], strict=True):
                shares[label].append(scores / whole)
        for label, found in shares.items():
            subsets[label].append(np.asarray(np.mean(found, axis=0)))
    return {label: seed_draws(found, 1) for label, found in subsets.items()}


def _experts(models: Mapping[str, Any]) -> dict[str, list[float]]:
    named = {name.removeprefix("expert "): model for name, model in models.items() if name.startswith("expert ")}
    return {task: unpacked(model["test"]["right"][f"task:{task}"]) for task, model in named.items()}


def _gap(figures: Mapping[str, Array], label: str) -> Measured | None:
    return measured(figures[label] - figures[PLAIN]) if PLAIN in figures and label != PLAIN else None


def _refused(results: Mapping[int, Any], stage: str) -> list[str]:
    return [refusal_text(result[stage]["test"]["right"]) for result in results.values()]


def _table(
    part: str, group: str, stage: str, results: Mapping[str, Mapping[int, Any]], figures: Mapping[str, Array]
) -> PageTable:
    rows = []
    for label, by_subset in results.items():
        safety = rate_over_seeds(_refused(by_subset, stage))
        over = rate_over_seeds([r[stage]["test"]["other"]["lookalike"] for r in by_subset.values()])
        worst = [min(_rates(r[stage]["test"]["right"]).values()) for r in by_subset.values()]
        row: list[object] = [label, measured_text(measured(figures[label])), measured_text(_gap(figures, label))]
        row += [_rate(mean_over_seeds(worst)), _rate(safety), _rate(over)]
        if stage == "safe":
            row.append(f"{sum(r[stage]['reached'] for r in by_subset.values())} of {len(by_subset)}")
        rows.append(row)
    columns = ["Method", "Retention", f"minus {PLAIN}", "Worst task, mean rate", "Safety", "Over-refusal"]
    sets = max(len(of) for of in results.values())
    return PageTable(
        caption=f"{group}, {part}, {_STAGES[stage]}: mean over {sets} sets of experts, 95 % intervals over sets and "
        "prompts; strengths chosen on dev prompts",
        columns=[*columns, *(["Safe on dev"] if stage == "safe" else [])], rows=rows,
    )  # fmt: skip


def _rates(right: Mapping[str, str]) -> dict[str, float]:
    return {kind: text.count("1") / len(text) for kind, text in right.items() if kind.startswith("task:")}


def _rate(estimate: Any) -> str:
    """A rate; Student's interval of few sets would reach beyond what a rate can be."""
    return f"{estimate.value:.3f} [{max(estimate.low, 0.0):.3f}, {min(estimate.high, 1.0):.3f}]"
