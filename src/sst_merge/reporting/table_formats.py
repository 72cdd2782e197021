"""The same table for other programs: CSV, JSON and LaTeX, full precision where a machine reads it."""

import csv
import io
import json
import re
from collections.abc import Sequence

from .tables import cell_text, numeric_columns

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
    numeric_columns(rows, columns)  # every row has a cell for every heading
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([repr(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)
    return stream.getvalue()


def json_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """A table as a JSON array of objects, what is absent as null.

    Args:
        rows: cells that JSON knows, one sequence a row.
        columns: headings, the keys.

    Returns:
        Text that ends in a line break.
    """
    numeric_columns(rows, columns)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


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
        caption: below the table, escaped; empty for none.
        label: for ``\ref``, put in as it is.

    Returns:
        A ``table`` environment; columns of numbers are right-aligned.
    """
    numeric = numeric_columns(rows, columns)

    def line(cells: Sequence[object]) -> str:
        texts = [latex_text(cell_text(cell)) for cell in cells]
        if texts and texts[0].startswith(("[", "*")):
            texts[0] = "{}" + texts[0]  # the line break before it would take this for its argument
        return f"{' & '.join(texts)} \\\\\n"

    parts = [
        "\\begin{table}[t]\n\\centering\n",
        f"\\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}\n\\toprule\n",
        line(columns),
        "\\midrule\n",
        *map(line, rows),
        "\\bottomrule\n\\end{tabular}\n",
    ]
    if caption:
        parts.append(f"\\caption{{{latex_text(caption)}}}\n")
    if label is not None:
        parts.append(f"\\label{{{label}}}\n")
    return "".join([*parts, "\\end{table}\n"])
