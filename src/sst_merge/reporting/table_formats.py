"""The same table for other programs: CSV, JSON and LaTeX, full precision where a machine reads it."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..markup import csv_field, latex_text
from .tables import cell_text, numeric_columns

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["csv_table", "json_table", "latex_table", "latex_text"]


def csv_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table as CSV (RFC 4180): floats in full precision, what is absent as an empty field.

    Text that a spreadsheet would take for a formula begins with an apostrophe (:func:`.markup.csv_field`).
    """
    fields = [[csv_field(cell) for cell in row] for row in rows]
    return str(_frame(fields, [str(csv_field(name)) for name in columns]).to_csv(index=False, lineterminator="\n"))


def json_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table as a JSON array of objects: what is absent, and what is infinite, as null, for JSON has no infinity.

    A mean of one value has an interval without ends.
    """
    finite = [[None if isinstance(cell, float) and math.isinf(cell) else cell for cell in row] for row in rows]
    # DataFrame.to_json cuts floats at 15 digits.
    records = _frame(finite, columns).to_dict(orient="records")
    return json.dumps(records, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def latex_table(
    rows: Sequence[Sequence[object]], columns: Sequence[str], *, caption: str = "", label: str | None = None
) -> str:
    r"""A table for a paper; needs the packages ``booktabs`` and, for names that are not English, UTF-8.

    Args:
        rows: cells, one sequence a row.
        columns: headings.
        caption: above the table, escaped; empty for none.
        label: for ``\ref``, put in as it is.

    Returns:
        A ``table`` environment; columns of numbers are right-aligned.
    """

    def cells(row: Sequence[object]) -> list[str]:
        texts = [latex_text(cell_text(cell)) for cell in row]
        # The line break before a row would take a bracket or star for its argument.
        return [f"{{}}{text}" if i == 0 and text.startswith(("[", "*")) else text for i, text in enumerate(texts)]

    aligned = "".join("r" if right else "l" for right in numeric_columns(rows, columns))
    # pandas makes fields of a class of the columns' names, so headings that differ in composition alone would fail.
    numbered = [f"c{place}" for place in range(len(columns))]
    shown = _frame([cells(row) for row in rows], numbered).style.hide(axis="index")
    headings = [text.replace("{", "{{").replace("}", "}}") for text in cells(columns)]  # pandas formats them
    shown = shown.relabel_index(headings, axis="columns")
    return str(
        shown.to_latex(
            hrules=True,
            column_format=aligned,
            position="t",
            position_float="centering",
            caption=latex_text(caption) or None,
            label=label,
        )
    )


def _frame(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> "DataFrame":
    from pandas import DataFrame

    numeric_columns(rows, columns)  # every row has a cell for every heading
    return DataFrame([list(row) for row in rows], columns=list(columns), dtype=object)
