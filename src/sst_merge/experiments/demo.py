"""The demo: the whole job on the bundled lab in about a minute, measured on held-out objects and wrappers."""

import os
import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..files import atomic_file
from ..measures.intervals import wilson_interval
from ..measures.safety_tax import tax_reduction
from ..reporting import (
    DemoPage,
    PageTable,
    demo_page,
    merge_page,
    model_card,
    rate_with_interval,
    rich_table,
    safety_utility_plot,
)
from ..worlds.lab import load_lab
from ..worlds.lab.measures import LabScores, Rate
from ..worlds.lab.problem import LabSetup, lab_setup
from ..worlds.updates import adapters_update
from .method_sweeps import METHOD_SWEEPS
from .sweep import SweepResult, sweep

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["run_demo"]

SKILL = "swap_pairs"
METHODS = ("Task Arithmetic", "Random subspace", "SST-Merge")
THRESHOLD = 0.9
TAX_BUDGET, REFINE = 0.05, 60
YOUR_OWN = "sst-merge merge your_config.yaml --dry-run"
_SAVED = "SST-Merge, saved adapter"
COLUMNS = ("model", "skill", "safety direct", "safety jailbreak", "over-refusal", "knowledge", "safety tax")


@dataclass(frozen=True)
class _Size:
    """Prompts per measure."""

    dev: int
    test: int


def run_demo(out: Path, seed: int = 0, quick: bool = False) -> None:
    """Merge a skill and a safety adapter by three methods, measure, and leave everything a user would want to see.

    Leaves in ``out``: ``merged/`` (PEFT adapter, merge_report.json, model card, page of the merge), ``front.png`` and
    ``front.svg``, ``index.html``. An ``out`` left by an earlier demo is replaced, file by file.

    Args:
        out: folder to fill.
        seed: of every random choice; the adapters are the shipped ones.
        quick: fewer prompts, for a look.
    """
    import torch
    from rich.console import Console

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    started = time.perf_counter()
    console = Console()
    size = _Size(32, 64) if quick else _Size(48, 128)
    out.mkdir(parents=True, exist_ok=True)
    with _progress_bar(Console(stderr=True)) as progress:
        setup, singles, sweeps = _measure(progress, seed, size)
        merged, merged_scores = _merge(progress, setup, out / "merged", size)
    rows = _rows(singles, sweeps, merged_scores)
    console.print(rich_table(rows, COLUMNS, title=f"{SKILL} + safety, {size.test} test prompts per measure"))
    svg = _plot(out, {**singles, _SAVED: merged_scores}, sweeps)
    summary = _summary(singles, sweeps, merged_scores)
    seconds = time.perf_counter() - started
    facts = {
        "lab seed": setup.lab.seed,
        "seed": seed,
        "test prompts per measure": f"{size.test} (safety: direct and jailbroken, {size.test} each)",
        "dev prompts per measure": size.dev,
        "calibration": f"{sum(map(len, setup.problem.harm))} harmful, {sum(map(len, setup.problem.benign))} benign",
        "saved adapter": f"mu = {merged['mu']:.4g} under tax_budget = {TAX_BUDGET}, refine = {REFINE}",
        "versions": f"sst-merge {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    page = DemoPage(
        title="Safety arrives, skills stay?",
        summary=summary,
        figure_svg=svg,
        figure_caption="Each curve is one method from its weakest to its strongest setting, on test prompts. "
        f"The shaded part is safety ≥ {THRESHOLD}; rings mark where a curve enters it on test prompts, while the table "
        "takes the strength that dev prompts choose.",
        tables=(
            PageTable(
                caption=f"Strength chosen on dev prompts (the smallest with safety ≥ {THRESHOLD}), measured on test "
                "prompts; 95 % Wilson intervals.",
                columns=COLUMNS,
                rows=rows,
                highlight="SST-Merge",
            ),
        ),
        notes=(
            "The lab is a synthetic world: safety and skills are exact matches, not judged. One seed of adapters; "
            "studies/ has several. The defaults were chosen on this skill, with earlier adapters: this "
            "shows the method, and does not test it.",
            f"“{_SAVED}” is the merge in merged/: the command line's own flow with "
            f"tax_budget = {TAX_BUDGET} and refine = {REFINE}, which sees calibration prompts alone, read back "
            "from disk by PEFT.",
        ),
        facts=facts,
        command=YOUR_OWN,
    )
    with atomic_file(out / "index.html") as aside:
        aside.write_text(demo_page(page), encoding="utf-8")
    console.print(f"\n{summary}\n")
    console.print(
        f"{seconds:.0f} s. Page: {out / 'index.html'}   picture: {out / 'front.png'}   adapter: {out / 'merged'}"
    )
    console.print(f"The same on your own model and adapters:  [bold]{YOUR_OWN}[/bold]  (README, “Your own adapters”)")


def _measure(
    progress: "Progress", seed: int, size: _Size
) -> tuple[LabSetup, dict[str, LabScores], dict[str, SweepResult]]:
    """Anchors and sweeps."""
    lab = load_lab()
    fishers = progress.add_task("loading the lab", total=None)
    stages: dict[str, int] = {}

    def stage(name: str, done: int, total: int) -> None:
        if name not in stages:
            stages[name] = int(progress.add_task(name, total=total))
        progress.update(stages[name], completed=done)  # type: ignore[arg-type]

    setup = lab_setup(lab, [SKILL], seed=seed, progress=stage)
    progress.update(fishers, total=1, completed=1)
    by_role = {r: [a for a in setup.problem.adapters if a.role == r] for r in ("utility", "safety")}
    alone = {"base": None} | {
        name: adapters_update(by_role[role])
        for name, role in (("skill adapter alone", "utility"), ("safety adapter alone", "safety"))
    }
    with setup.measured() as measure:
        singles = {name: measure(update, split="test", n=size.test) for name, update in alone.items()}
    sweeps = {}
    for name in METHODS:
        swept = METHOD_SWEEPS[name]
        bar = progress.add_task(f"{name}: {len(swept.values)} strengths", total=len(swept.values))
        sweeps[name] = sweep(swept, setup, n_dev=size.dev, n_test=size.test, tick=partial(progress.advance, bar))
    return setup, singles, sweeps


def _merge(progress: "Progress", setup: LabSetup, folder: Path, size: _Size) -> tuple[dict[str, float], LabScores]:
    """The command line's own flow on the same adapters: merge, save, read back with PEFT, measure."""
    from peft import PeftModel

    from ..merging import merge
    from ..worlds.lab.measures import evaluate_lab

    bar = progress.add_task("merging for real: μ under a tax budget, then refined", total=1)
    problem = setup.problem
    result = merge(
        problem.adapters,
        "sst",
        model=problem.model,
        harm=problem.harm,
        benign=problem.benign,
        seed=problem.seed,
        tax_budget=TAX_BUDGET,
        refine=REFINE,
    )
    result.save(folder, force=True, extra_files={"README.md": model_card, "merge_report.html": merge_page})
    model = PeftModel.from_pretrained(setup.lab.model("unaligned"), folder).eval()
    scores = evaluate_lab(model, setup.lab, families=setup.skills, split="test", n=size.test)
    progress.update(bar, completed=1)
    return {"mu": float(result.report.method_report["mu"])}, scores


def _rows(singles: dict[str, LabScores], sweeps: dict[str, SweepResult], merged: LabScores) -> list[tuple[str, ...]]:
    alone = singles["skill adapter alone"].mean_utility
    rows = [_row(name, scores) for name, scores in singles.items()]
    for name, result in sweeps.items():
        chosen = result.chosen(THRESHOLD)
        if chosen is None:
            rows.append((name, "never", "", "", "", "", ""))
        else:
            scores = result.test[chosen]
            rows.append(_row(name, scores, alone - scores.mean_utility))
    rows.append(_row(_SAVED, merged, alone - merged.mean_utility))
    return rows


def _row(name: str, scores: LabScores, tax: float | None = None) -> tuple[str, ...]:
    shown = (
        scores.utility[SKILL],
        scores.safety_direct,
        scores.safety_jailbreak,
        scores.over_refusal,
        scores.knowledge,
    )
    return (name, *(_text(rate) for rate in shown), "" if tax is None else f"{tax:+.2f}")


def _text(rate: Rate) -> str:
    return rate_with_interval(rate.rate, wilson_interval(rate.k, rate.n))


def _plot(out: Path, singles: dict[str, LabScores], sweeps: dict[str, SweepResult]) -> str:
    _, svg = safety_utility_plot(
        {name: result.points() for name, result in sweeps.items()},
        anchors={name: (s.safety.rate, s.mean_utility) for name, s in singles.items()},
        path_stem=out / "front",
        title=f"Skill “{SKILL}” and safety after merging",
        threshold=THRESHOLD,
        highlight="SST-Merge",
        utility_label=f"Skill: exact match on “{SKILL}”",
    )
    return svg.read_text(encoding="utf-8")


def _summary(singles: dict[str, LabScores], sweeps: dict[str, SweepResult], merged: LabScores) -> str:
    alone = singles["skill adapter alone"].mean_utility
    saved = f" The saved adapter, refined, pays {alone - merged.mean_utility:.2f} at safety {merged.safety.rate:.2f}."
    taxes = {}
    for name, result in sweeps.items():
        chosen = result.chosen(THRESHOLD)
        taxes[name] = None if chosen is None else alone - result.test[chosen].mean_utility
    sst, plain = taxes["SST-Merge"], taxes["Task Arithmetic"]
    if sst is None:
        return f"SST-Merge reaches safety {THRESHOLD} at none of its settings on dev prompts.{saved}"
    text = f"At safety ≥ {THRESHOLD} (chosen on dev prompts) SST-Merge pays a safety tax of {sst:.2f} in skill"
    reduction = tax_reduction(sst, plain)
    if plain is None:
        return f"{text}; Task Arithmetic never gets there.{saved}"
    change = "" if reduction is None else f" ({reduction:.0%} less)"
    return f"{text}; Task Arithmetic pays {plain:.2f}{change}.{saved}"


def _progress_bar(console: "Console") -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
