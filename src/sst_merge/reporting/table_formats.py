"""The same table for other programs: CSV, JSON and LaTeX, full precision where a machine reads it."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .tables import cell_text, numeric_columns

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["csv_table", "json_table", "latex_table", "latex_text"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "κ": r"$\kappa$",
    "Δ": r"$\Delta$",
    "°": r"$^\circ$",
    "∞": r"$\infty$",
}

_MINUS = re.compile(r"(?<![\w.,)-])-(?=\d)")


def csv_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table as CSV (RFC 4180): floats in full precision, what is absent as an empty field.

    Args:
        rows: cells, one sequence a row.
        columns: headings.

    Returns:
        Text with one line break a row.
    """
    return str(_frame(rows, columns).to_csv(index=False, lineterminator="\n"))


def json_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table as a JSON array of objects, what is absent as null.

    Args:
        rows: cells that JSON knows, one sequence a row.
        columns: headings, the keys.

    Returns:
        Text that ends in a line break.
    """
    # DataFrame.to_json cuts floats at 15 digits.
    records = _frame(rows, columns).to_dict(orient="records")
    return json.dumps(records, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is.

    Args:
        text: any, line breaks become spaces.

    Returns:
        Text with special characters escaped, and a minus sign where a number has a hyphen for it.
    """
    signed = _MINUS.sub("−", " ".join(text.split()))
    return "".join(_LATEX.get(character, character) for character in signed)


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
    shown = _frame([cells(row) for row in rows], cells(columns)).style.hide(axis="index")
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
