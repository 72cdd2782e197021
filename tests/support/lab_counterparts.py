"""Suite of real text → the lab's suite that asks the same: the table of docs/evaluation_suites.md."""

import re
from pathlib import Path

__all__ = ["PAGE", "lab_counterparts"]

PAGE = Path(__file__).parents[2] / "docs/evaluation_suites.md"


def lab_counterparts() -> dict[str, str]:
    """Read from the rows of the lab's table, whose third column names the suites that a lab suite stands for."""
    found: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `lab_"):
            lab, _, real, _ = (cell.strip() for cell in line.strip("|").split("|"))
            found.update(dict.fromkeys(re.findall(r"`(\w+)`", real), lab.strip("`")))
    return found
