"""Every table of the experiments, with what it comes from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..reporting import markdown_table
from .config import ExperimentConfig
from .report import Report, report_markdown
from .targets import targets_table

__all__ = ["WHOLE_RUN", "Ran", "results_page"]

WHOLE_RUN = "`sst-merge experiment page` from the cells of a run of `run_all_experiments.sh`"
"""What makes the page of all experiments."""


@dataclass(frozen=True)
class Ran:
    """One finished experiment.

    Attributes:
        name: such as ``exp1``.
        report: its tables.
        runs: of every cell: commit, versions, machine, digest of the code, when.
        seconds: of processor time, over all cells.
        cells: how many.
    """

    name: str
    report: Report
    runs: Sequence[Mapping[str, Any]]
    seconds: float
    cells: int


def results_page(
    config: ExperimentConfig, ran: Sequence[Ran], *, title: str = "Results", made_by: str = WHOLE_RUN
) -> str:
    """The page.

    Args:
        config: of the experiments.
        ran: the experiments, in order.
        title: its heading.
        made_by: what makes it, and from what.

    Returns:
        Markdown; the same cells give the same text.
    """
    runs = [run for of in ran for run in of.runs]
    lines = [
        f"# {title}",
        "",
        f"Made by {made_by}; do not edit.",
        f"{config.world.summary} What the figures mean",
        "is said in `docs/sst_merge_implementation/design.md`, sections 7 and 9.",
        "",
        f"- commit: {_several(runs, 'commit')}",
        f"- versions: {_versions(runs)}",
        f"- machine: {_machines(runs)}; {config.workers} processes, one thread each",
        f"- seeds of adapters: {_list(config.seeds)}; world {config.world.label}{_second(config)}{_fewer(config)}",
        *_prompts(config, {of.name for of in ran}),
        f"- finished: {min(run['finished'] for run in runs)} to {max(run['finished'] for run in runs)}",
        *(f"- {of.name}: {of.cells} cells, {of.seconds / 60:.1f} minutes of processor time" for of in ran),
        "",
    ]
    if len({run["code"] for run in runs}) > 1:
        warning = "**The cells come from different versions of the measuring code**; run everything anew before citing "
        lines += [f"{warning}figures.", ""]
    goals = targets_table({of.name: of.report.figures for of in ran})
    lines += ["## Targets", "", f"{goals.caption}. What was tried where one is missed: `docs/targets.md`.", ""]
    lines += [markdown_table(goals.rows, goals.columns)]
    return "\n".join(lines) + "\n" + "\n".join(report_markdown(of.report, level=2) for of in ran)


def _prompts(config: ExperimentConfig, names: Collection[str]) -> list[str]:
    """How many prompts the experiments that ran were given, a line for each number."""
    many, harm, draws = config.interference, config.calibration.harm, f"{config.n_resamples} bootstrap draws"
    whole = f"{config.prompts.test} test, {config.prompts.dev} dev; calibration: {harm} harmful, "
    whole += f"{config.calibration.benign} benign; {draws}"
    own = f"{many.prompts.test} test, {many.prompts.dev} dev; calibration: {harm} harmful, "
    own += f"{many.samples_per_skill} benign of every expert and as many common ones; {draws}"
    found = [f"- prompts per kind: {whole}"] if {"exp1", "exp3"} & set(names) else []
    return [*found, *([f"- prompts per kind of experiment 2: {own}"] if "exp2" in names else [])]


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _several(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    return _list(sorted({str(run[name]) for run in runs}))


def _versions(runs: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({tuple(sorted(run["versions"].items())) for run in runs})
    return "; ".join(_list([f"{name} {number}" for name, number in of]) for of in found)


def _machines(runs: Sequence[Mapping[str, Any]]) -> str:
    found = sorted({tuple(str(run["machine"][name]) for name in ("processor", "cores", "system")) for run in runs})
    return "; ".join(f"{processor}, {cores} cores, {system}" for processor, cores, system in found)


def _second(config: ExperimentConfig) -> str:
    second = config.safety_tax.second_base
    return "" if second is None else f"; second base: world {second.world.label}, adapter seeds {_list(second.seeds)}"


def _fewer(config: ExperimentConfig) -> str:
    """Groups of experiment 1 that are measured with some of the seeds alone."""
    tax = config.safety_tax
    groups = [*tax.groups, *(tax.drift.groups if tax.drift is not None else ())]
    return "".join(f"; {group.name}: seeds {_list(group.seeds)} alone" for group in groups if group.seeds)
