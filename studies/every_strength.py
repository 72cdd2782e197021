"""What every strength of every method did on test prompts, and what its sweep cost, from finished cells."""

from collections.abc import Sequence
from typing import Any

from sst_merge.experiments.cells import CellStore
from sst_merge.experiments.plan import Planned
from sst_merge.experiments.read_cells import refusal_text, task_text
from sst_merge.measures.intervals import rate
from sst_merge.reporting import figure_text, markdown_table

__all__ = ["every_strength"]


def every_strength(planned: Sequence[Planned], store: CellStore) -> str:
    """A section of a study's page.

    Args:
        planned: cells of experiments; what is no sweep of experiment 1 is left out.
        store: where they are kept.

    Returns:
        Markdown: one row a strength, with Wilson's intervals over prompts.
    """
    rows: list[list[object]] = []
    sweeps = [entry for entry in planned if entry.part == "tax" and entry.label != "alone"]
    for entry in {entry.cell.key: entry for entry in sweeps}.values():
        kept: Any = store.load(entry.cell)
        swept: Any = entry.cell.parameters["swept"]
        skills = ", ".join(entry.cell.parameters["problem"]["skills"])
        for value, test in zip(swept["values"], kept["result"]["test"], strict=True):
            right = task_text(test["right"])
            rates = [refusal_text(test["right"]), test["other"]["lookalike"]]
            rows.append([
                f"{entry.label} ({skills}; seed {entry.seed})",
                f"{value:g}",
                *(figure_text(rate(text.count("1"), len(text))) for text in rates),
                f"{right.count('1')} of {len(right)}",
                f"{kept['seconds'] / 60:.1f}",
            ])
    columns = ["Method", "Strength", "Refused", "Look-alikes refused", "Right answers", "Minutes of the sweep"]
    head = "## Every strength\n\nOn test prompts; minutes of processor time, evaluation included."
    return f"{head}\n\n{markdown_table(rows, columns)}"
