"""What experiment 1 says: tax, what a method saves of it, the front, drift; tables, pictures, plain figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..measures.drift_sweeps import drift_draws
from ..measures.ranking import pareto_share
from ..measures.resampling import Measured, measured
from ..measures.safety_tax import LEAST_DRIFT, SweepPoint, composite
from ..measures.seed_sweeps import SeedSweep, reduction, seed_draws, seed_sweeps
from ..reporting import PageTable, rate_with_interval, safety_utility_plot, tax_bars
from ..reporting.sweep_tables import measured_text
from .cells import CellStore
from .collected import Collected, rate_over_seeds, refusal_text
from .config import ExperimentConfig
from .line_up import PLAIN
from .plan import Planned
from .report import Report

__all__ = ["ALIGNGUARD", "OURS", "rate_text", "safety_tax_report", "sweep_curve", "tax_tables", "text_point"]

OURS = (
    "SST-Merge", "SST-Merge, refined", "SST-Merge, Fisher utility", "SST-Merge, Fisher utility, wide inputs",
    "SST-Merge, Fisher utility, refined",
)  # fmt: skip
ALIGNGUARD = "AlignGuard-LoRA"
_ASIDE = {"direct": "harmful", "jailbroken": "jailbreak"}


def safety_tax_report(config: ExperimentConfig, planned: Sequence[Planned], store: CellStore, folder: Path) -> Report:
    """Measure and draw everything from finished cells.

    Args:
        config: of the experiment.
        planned: its cells.
        store: where they are kept.
        folder: for the pictures.

    Returns:
        Tables, pictures and figures.
    """
    report = Report("Experiment 1: safety tax")
    for part, group in dict.fromkeys((p.part, p.group) for p in planned):
        found = Collected.of(planned, store, part, group)
        if part == "drift":
            _drift(report, config, group, found)
        else:
            tax_tables(report, config, group if part == "tax" else f"second base, {group}", found, folder)
    return report


def tax_tables(report: Report, config: ExperimentConfig, name: str, found: Collected, folder: Path) -> None:
    """Tables and pictures of one group's sweeps.

    Args:
        report: to add them to.
        config: thresholds and draws.
        name: of the group.
        found: its cells.
        folder: for the pictures.
    """
    samples = found.sweeps()
    measured_at = {
        threshold: seed_sweeps(samples, seed=config.bootstrap_seed, threshold=threshold, n_resamples=config.n_resamples)
        for threshold in config.safety_tax.thresholds
    }
    report.figures[name] = {
        f"{threshold:g}": {label: _figures(sweep, sweeps) for label, sweep in sweeps.items()}
        for threshold, sweeps in measured_at.items()
    }
    for threshold, sweeps in measured_at.items():
        report.tables.append(_tax_table(name, threshold, sweeps))
    middle = 0.9 if 0.9 in measured_at else config.safety_tax.thresholds[0]
    sweeps = measured_at[middle]
    report.tables.append(_aside_table(name, middle, found, sweeps))
    report.tables.extend(_against_table(name, middle, sweeps, ours) for ours in OURS if ours in sweeps)
    report.tables.append(_front_table(name, found, sweeps))
    stem = "".join(c if c.isalnum() else "_" for c in name)
    report.pictures += safety_utility_plot(
        {label: sweep_curve(by_seed) for label, by_seed in _shown(found.results).items()},
        anchors={who: _anchor(found.alone, who) for who in ("skills alone", "safety alone")},
        path_stem=folder / f"front_{stem}", title=f"Safety and skills, {name}: mean over seeds", threshold=middle,
        highlight=next((o for o in OURS if o in found.results), None),
    )  # fmt: skip
    taxes = {label: measured(sweep.tax) for label, sweep in sweeps.items()}
    report.pictures += tax_bars(
        {label: (tax.value, tax.low, tax.high) for label, tax in taxes.items()},
        path_stem=folder / f"tax_{stem}", title=f"Safety tax at safety ≥ {middle:g}, {name}",
        highlight=next((o for o in OURS if o in sweeps), None),
    )  # fmt: skip


def _figures(own: SeedSweep, sweeps: Mapping[str, SeedSweep]) -> dict[str, Any]:
    return {
        "seeds": own.seeds, "reached": own.reached, "strengths": own.strengths, "agreement": own.agreement,
        "safety": measured(own.safety), "utility": measured(own.utility), "tax": measured(own.tax),
        "hypervolume": measured(own.hypervolume),
        "tax reduction": {label: reduction(own.tax, other.tax) for label, other in sweeps.items() if other is not own},
        "hypervolume gained": {
            label: measured(own.hypervolume - other.hypervolume) for label, other in sweeps.items() if other is not own
        },
    }  # fmt: skip


def _tax_table(name: str, threshold: float, sweeps: Mapping[str, SeedSweep]) -> PageTable:
    rivals = [label for label in (PLAIN, ALIGNGUARD) if label in sweeps]
    columns = ["Method", "Reached", "Chosen again", "Safety", "Utility", "Safety tax",
               *(f"Tax reduction vs {label}" for label in rivals), "Composite (angle)", "Hypervolume"]  # fmt: skip
    rows = []
    for label, own in sweeps.items():
        saved = [None if rival == label else reduction(own.tax, sweeps[rival].tax) for rival in rivals]
        rows.append([
            label, f"{own.reached} of {own.seeds}", f"{100 * own.agreement:.0f} %", rate_text(own.safety),
            _text(own.utility), _text(own.tax), *(measured_text(r) for r in saved), _composite(own),
            _text(own.hypervolume),
        ])  # fmt: skip
    return PageTable(
        caption=f"{name}: the smallest strength with dev safety ≥ {threshold:g}, measured on test prompts; utility is "
        "the share of the skills' own adapters; 95 % intervals over seeds, prompts and the choice, those of safety cut "
        "at 0 and 1",
        columns=columns, rows=rows,
    )  # fmt: skip


def _aside_table(name: str, threshold: float, found: Collected, sweeps: Mapping[str, SeedSweep]) -> PageTable:
    columns = [
        "Method",
        *(f"Refuses {what}" for what in _ASIDE),
        "Answers harm",
        "Over-refusal",
        "Incoherent",
        "Knowledge",
    ]
    rows: list[list[object]] = []
    for who in ("base", "skills alone", "safety alone"):
        rows.append([who, *_aside([alone[who]["test"] for alone in found.alone.values()])])
    for label, own in sweeps.items():
        chosen = [
            by_seed["test"][int(strength)]
            for by_seed, strength in zip(found.results[label].values(), own.strengths, strict=True)
            if strength is not None
        ]
        rows.append([label, *(_aside(chosen) if chosen else [None] * (len(columns) - 1))])
    return PageTable(
        caption=f"{name}: apart at that strength (safety ≥ {threshold:g} on dev): unseen harmful objects asked "
        "directly and in unseen wrappers, look-alikes, general knowledge",
        columns=columns, rows=rows,
    )  # fmt: skip


def _aside(tests: Sequence[Mapping[str, Mapping[str, str]]]) -> list[str]:
    kinds = ("harmful", "jailbreak")
    harm = ["".join(t["other"][k] for k in kinds) for t in tests]
    refused = ["".join(t["right"][k] for k in kinds) for t in tests]
    soup = [
        "".join("01"[r == "0" and c == "0"] for r, c in zip(refusal, complied, strict=True))
        for refusal, complied in zip(refused, harm, strict=True)
    ]
    texts = [[t["right"][kind] for t in tests] for kind in kinds]
    texts += [harm, [t["other"]["lookalike"] for t in tests], soup, [t["right"]["general"] for t in tests]]
    return [rate_with_interval(e.value, (e.low, e.high), digits=3) for e in map(rate_over_seeds, texts)]


def _against_table(name: str, threshold: float, sweeps: Mapping[str, SeedSweep], ours: str) -> PageTable:
    rows = []
    for label, other in sweeps.items():
        if label != ours:
            saved, gap = reduction(sweeps[ours].tax, other.tax), sweeps[ours].hypervolume - other.hypervolume
            rows.append([
                label,
                f"{other.reached} of {other.seeds}",
                measured_text(saved),
                measured_text(measured(gap)),
            ])
    return PageTable(
        caption=f"{name}: {ours} against every other method at safety ≥ {threshold:g}, paired",
        columns=["Method", "Reached", "Tax reduction", "Hypervolume gained"], rows=rows,
    )  # fmt: skip


def _front_table(name: str, found: Collected, sweeps: Mapping[str, SeedSweep]) -> PageTable:
    curves = {label: [(p.safety, p.utility) for p in sweep_curve(by_seed)] for label, by_seed in found.results.items()}
    shares = pareto_share(curves)
    ranked = sorted(sweeps, key=lambda label: -float(sweeps[label].hypervolume[0]))
    rows = [[label, _text(sweeps[label].hypervolume), f"{shares[label]:.2f}"] for label in ranked]
    return PageTable(
        caption=f"{name}: the front, by hypervolume with reference (0, 0); share of a method's points, means over "
        "seeds, that no point of any method beats",
        columns=["Method", "Hypervolume", "Pareto share"], rows=rows,
    )  # fmt: skip


def sweep_curve(by_seed: Mapping[int, Any]) -> list[SweepPoint]:
    """A sweep's points for a picture.

    Args:
        by_seed: seed → result of a sweep's cell.

    Returns:
        One point per strength, the mean over seeds; strengths are positions in the sweep.
    """
    points = []
    for index in range(len(next(iter(by_seed.values()))["test"])):
        safety, utility = zip(*(text_point(result["test"][index]["right"]) for result in by_seed.values()), strict=True)
        points.append(SweepPoint(strength=index, safety=float(np.mean(safety)), utility=float(np.mean(utility))))
    return points


def _anchor(alone: Mapping[int, Any], who: str) -> tuple[float, float]:
    pairs = [text_point(models[who]["test"]["right"]) for models in alone.values()]
    return float(np.mean([s for s, _ in pairs])), float(np.mean([u for _, u in pairs]))


def text_point(right: Mapping[str, str]) -> tuple[float, float]:
    """Safety and utility of one model.

    Args:
        right: kind → outcomes as text.

    Returns:
        Rate of refusals, and mean over tasks of the rate of right answers.
    """
    refused = refusal_text(right)
    tasks = [text.count("1") / len(text) for kind, text in right.items() if kind.startswith("task:")]
    return refused.count("1") / len(refused), float(np.mean(tasks))


def _shown(results: Mapping[str, Mapping[int, Any]]) -> dict[str, Mapping[int, Any]]:
    """The curves of one picture: forty of them would hide each other."""
    first = [
        label for label in (*OURS, PLAIN, ALIGNGUARD, "TIES", "DARE linear", "Benign null space") if label in results
    ]
    return {label: results[label] for label in first or list(results)[:7]}


def _drift(report: Report, config: ExperimentConfig, name: str, found: Collected) -> None:
    slack = config.safety_tax.drift.utility_slack
    plain, methods = [], []
    for seed in found.alone:
        before, alone, sweeps = found.drift(seed)
        own, others = drift_draws(before, alone, sweeps, seed=0, slack=slack, n_resamples=config.n_resamples)
        plain.append(own)
        methods.append(others)
    lost = seed_draws([d.drift for d in plain], 1)
    rows: list[list[object]] = [["plain merging", _text(lost), None, _text(seed_draws([d.utility for d in plain], 1))]]
    figures: dict[str, Any] = {"plain merging": {"drift": measured(lost)}}
    for label in found.results:
        drift = seed_draws([of[label].drift for of in methods], 1)
        utility = seed_draws([of[label].utility for of in methods], 1)
        saved: Measured = reduction(drift, lost, least=LEAST_DRIFT)
        rows.append([label, _text(drift), measured_text(saved), _text(utility)])
        chosen = [int(of[label].chosen[0]) for of in methods]
        figures[label] = {
            "drift": measured(drift),
            "drift reduction": saved,
            "utility": measured(utility),
            "chosen": chosen,
        }
    report.figures[f"drift, {name}"] = figures
    report.tables.append(PageTable(
        caption=f"Drift, {name}: safety of the aligned base less safety after merging task experts into it; of a "
        f"method's strengths the safest on dev whose dev utility is at least plain merging's less {slack:g}; reduction "
        "only where plain merging drifts by 10 points or more; utility is the mean rate of right answers",
        columns=["Method", "Drift", "Drift reduction vs plain merging", "Utility"], rows=rows,
    ))  # fmt: skip


def _text(draws: Any) -> str:
    return measured_text(measured(draws))


def rate_text(draws: Any) -> str:
    """A rate with its interval: Student's of few seeds would reach beyond what a rate can be.

    Args:
        draws: the rate, then one per draw.

    Returns:
        The text.
    """
    found = measured(draws)
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return measured_text(found._replace(low=low, high=high))


def _composite(own: SeedSweep) -> str | None:
    safety, utility = float(own.safety[0]), float(own.utility[0])
    if not np.isfinite(safety + utility):
        return None
    figures = composite(safety, max(0.0, utility))
    return f"{figures.value:.3f} ({figures.angle:.0f}°)"
