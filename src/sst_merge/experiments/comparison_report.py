"""What experiment 3 says: every method in one table with ranks, what a merge costs, and SST-Merge's ablation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..measures.ranking import rank_intervals
from ..measures.resampling import measured
from ..measures.seed_sweeps import SeedSweep, seed_sweeps
from ..reporting import PageTable, rate_with_interval
from ..reporting.sweep_tables import measured_text
from .cells import CellStore
from .collected import Collected, mean_over_seeds, rate_over_seeds, refusal_text
from .config import ExperimentConfig
from .outcome_texts import unpacked
from .plan import Planned
from .report import Report
from .safety_tax_report import rate_text, tax_tables

__all__ = ["comparison_report"]

_THRESHOLD = 0.9


def comparison_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are kept.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 3: every method, and SST-Merge's own parts")
    group = config.safety_tax.groups[0].name
    methods = Collected.of(planned, store, "methods", group)
    cost = Collected.of(planned, store, "cost", group)
    _ranks(report, config, methods, cost)
    _costs(report, cost)
    tax_tables(report, config, f"every method, {group}", methods, folder)
    _ablation(report, config, Collected.of(planned, store, "ablation", "SST-Merge"))
    return report


def _ranks(report: Report, config: ExperimentConfig, found: Collected, cost: Collected) -> None:
    """Everything wanted of a merge side by side; a method that never gets safe stands there at its safest strength."""
    sweeps = seed_sweeps(
        found.sweeps(), seed=config.bootstrap_seed, threshold=_THRESHOLD, n_resamples=config.n_resamples
    )
    points = {label: _points(found.results[label], own) for label, own in sweeps.items()}
    texts = {
        "safety": {label: [refusal_text(p["right"]) for p in of] for label, of in points.items()},
        "over-refusal": {label: [p["other"]["lookalike"] for p in of] for label, of in points.items()},
        "utility": {label: [_tasks(p["right"]) for p in of] for label, of in points.items()},
        "knowledge": {label: [p["right"]["general"] for p in of] for label, of in points.items()},
    }
    wanted = {
        name: {label: [(1 - x if name == "over-refusal" else x) for x in unpacked("".join(of))] for label, of in
               by_label.items()} for name, by_label in texts.items()
    }  # fmt: skip
    overall = rank_intervals(wanted, seed=config.bootstrap_seed, n_resamples=config.n_resamples)
    apart = {name: rank_intervals({name: scores}, seed=0, n_resamples=1) for name, scores in wanted.items()}
    costs = {name: {label: mean_over_seeds([r[name] for r in cost.results[label].values()]) for label in overall}
             for name in ("seconds", "peak_mib")}  # fmt: skip
    places = {name: _places({label: e.value for label, e in by.items() if e is not None}) for name, by in costs.items()}
    rows = []
    for label in sorted(overall, key=lambda name: overall[name].value):
        row: list[object] = [label, _estimate(overall[label], 1)]
        row += [f"{_estimate(rate_over_seeds(of[label]), 3)} ({apart[name][label].value:.0f})" for name, of in
                texts.items()]  # fmt: skip
        row += [f"{_estimate(costs[name][label], digits)} ({places[name][label]})" for name, digits in
                (("seconds", 2), ("peak_mib", 0))]  # fmt: skip
        rows.append([*row, f"{sweeps[label].reached} of {sweeps[label].seeds}"])
    report.figures["ranks"] = {label: {"mean rank": rank, "measures": {name: rate_over_seeds(of[label]) for name, of in
                               texts.items()}} for label, rank in overall.items()}  # fmt: skip
    report.tables.append(PageTable(
        caption="Every method at the strength that dev prompts choose (safety ≥ 0.9; where none is, at its safest): "
        "means with 95 % intervals over seeds, ranks in brackets; the mean rank is over safety, over-refusal, utility "
        "and knowledge, its interval over prompts; time and memory of one merge, intervals over fresh processes",
        columns=["Method", "Mean rank", "Safety", "Over-refusal", "Utility", "Knowledge", "Seconds", "Peak MiB",
                 "Reached"], rows=rows,
    ))  # fmt: skip


def _places(values: Mapping[str, float]) -> dict[str, int]:
    """Rank of every value, 1 the smallest; equal ones share the better place."""
    return {label: 1 + sum(other < value for other in values.values()) for label, value in values.items()}


def _points(by_seed: Mapping[int, Any], own: SeedSweep) -> list[Any]:
    found = []
    for result, strength in zip(by_seed.values(), own.strengths, strict=True):
        safest = [sum(text.count("1") for text in right.values()) for right in result["dev"]]
        index = int(strength) if strength is not None else safest.index(max(safest))
        found.append(result["test"][index])
    return found


def _tasks(right: Mapping[str, str]) -> str:
    return "".join(text for kind, text in right.items() if kind.startswith("task:"))


def _costs(report: Report, found: Collected) -> None:
    rows, figures = [], {}
    for label, by_repeat in found.results.items():
        seconds = mean_over_seeds([r["seconds"] for r in by_repeat.values()])
        more = mean_over_seeds([r["more_seconds"] for r in by_repeat.values()])
        memory = mean_over_seeds([r["peak_mib"] for r in by_repeat.values()])
        figures[label] = {"seconds": seconds, "more seconds": more, "peak MiB": memory}
        rows.append([label, *(_estimate(e, digits) for e, digits in ((seconds, 2), (more, 2), (memory, 0)))])
    report.figures["cost"] = figures
    report.tables.append(PageTable(
        caption="What a merge costs: seconds with all preparation, seconds of a second strength afterwards, rise of "
        "the peak memory; mean of fresh processes on one thread, 95 % intervals over them",
        columns=["Method", "Seconds", "Seconds of a second strength", "Peak MiB"], rows=rows,
    ))  # fmt: skip


def _ablation(report: Report, config: ExperimentConfig, found: Collected) -> None:
    sweeps = seed_sweeps(
        found.sweeps(), seed=config.bootstrap_seed, threshold=_THRESHOLD, n_resamples=config.n_resamples
    )
    rows, figures = [], {}
    for label, own in sweeps.items():
        quotients = [r["quotients"] for r in found.results[label].values() if r.get("quotients")]
        inside = [q["in_sample_median"] for q in quotients]
        outside = [q["held_out_median"] for q in quotients]
        over = _at(found.results[label], own, "other", "lookalike")
        knows = _at(found.results[label], own, "right", "general")
        shown = [f"{np.median(inside):.3g}", f"{np.median(outside):.3g}"] if quotients else [None, None]
        rows.append([
            label, f"{own.reached} of {own.seeds}", rate_text(own.safety),
            measured_text(measured(own.utility)), measured_text(measured(own.tax)), over, knows,
            measured_text(measured(own.hypervolume)), *shown,
        ])  # fmt: skip
        figures[label] = {
            "reached": own.reached, "seeds": own.seeds,
            "safety": measured(own.safety), "utility": measured(own.utility),
            "tax": measured(own.tax), "hypervolume": measured(own.hypervolume), "quotient in-sample": inside,
            "quotient held-out": outside,
        }  # fmt: skip
    report.figures["ablation"] = figures
    report.tables.append(PageTable(
        caption="SST-Merge with one part changed at a time, and structures × points: strength chosen on dev prompts "
        "(safety ≥ 0.9); λ is the median over seeds of the best directions' median safety efficiency, on the samples "
        "that the Fishers saw and on held-out ones",
        columns=["Variant", "Reached", "Safety", "Utility", "Safety tax", "Over-refusal", "Knowledge", "Hypervolume",
                 "λ in-sample", "λ held-out"], rows=rows,
    ))  # fmt: skip


def _at(by_seed: Mapping[int, Any], own: SeedSweep, side: str, kind: str) -> str | None:
    texts = [
        result["test"][int(strength)][side][kind]
        for result, strength in zip(by_seed.values(), own.strengths, strict=True)
        if strength is not None
    ]
    return _estimate(rate_over_seeds(texts), 3) if texts else None


def _estimate(estimate: Any, digits: int) -> str:
    return "–" if estimate is None else rate_with_interval(estimate.value, (estimate.low, estimate.high), digits=digits)
