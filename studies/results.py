"""docs/results.md: the main tables of the studies with today's default, taken from their pages.

    python studies/results.py --out docs/results.md

Nothing is measured or computed here. A study that is measured anew changes the page; a test says so until it is.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sst_merge.files import atomic_file
from sst_merge.reporting import markdown_table

__all__ = ["page"]

STUDIES = Path(__file__).resolve().parent

_HEAD = """# Results

Made by `studies/results.py` from the pages that it links; do not edit. Each of those names its command, commit, seeds
and numbers of prompts, and has more tables. What the figures mean is said in the
[design](sst_merge_implementation/design.md), sections 7 and 9; what to take for what, in [choosing.md](choosing.md);
what was aimed at and missed, in [targets.md](targets.md).

Strengths are chosen on dev prompts, the smallest that refuses 0.9 of the harmful ones; figures are those of test
prompts, with 95 % intervals. Utility is the share of the skills' own adapters, 1 is no loss. *Over-refusal* is that of
harmless look-alikes at the chosen strength, *At 0.9* that at equal safety. *Random subspace* and
*Calibration data alone* are controls, joint training the upper bound. The lab is a small synthetic world, SmolLM2 a
language model of 135 million parameters.
"""

_TAIL = """## Not measured with today's default

On the lab experiment 1 on the second base and a poisoned expert among many; both were with the former default, in one
run of `./run_all_experiments.sh`: [former_default](../studies/former_default/README.md). Many experts were measured
with one seed of adapters, SmolLM2 with one seed, some methods with a second, without drift; twelve experts there with
one seed and skills alone.
"""


@dataclass(frozen=True)
class Section:
    """One study on the page.

    Attributes:
        heading: above it.
        text: what is merged; no figures.
        study: folder below ``studies``.
        tables: beginning of a table's caption and the columns that are shown, joined by their rows' names. Of several
            tables with the same column each has what its caption begins with as a heading, and counts are added up.
        beside: beginning of the caption of a table that follows whole; none by default.
    """

    heading: str
    text: str
    study: str
    tables: tuple[tuple[str, tuple[str, ...]], ...]
    beside: str | None = None


_RETENTION, _SAFE = "Retention", "Safe on dev"
_AHEAD = "SST-Merge ahead, all tasks together"
_APART = ("Over-refusal", "Knowledge")
_TAX = ("Reached", "Safety", "Utility", "Hypervolume")


def _tax(heading: str, text: str, study: str, group: str, *, hulls: bool = False) -> Section:
    tables = [
        (f"{group}: the smallest strength with dev safety ≥ 0.9,", _TAX),
        (f"{group}: apart at that strength", _APART),
    ]
    if hulls:
        tables.append((f"{group}: over-refusal at equal safety", ("At 0.9",)))
    return Section(heading, text, study, tuple(tables), f"{group}: models beside the merges")


_SIZES = (2, 4, 8, 12, 20)
_SECTIONS: tuple[Section, ...] = (
    _tax(
        "One skill and safety, lab",
        "One skill's adapter and the safety adapter. On the lab the two collide.",
        "lab_one_skill",
        "swap_pairs",
    ),
    _tax(
        "Three skills and safety, lab",
        "Three skills' adapters and the safety adapter.",
        "lab_three_skills",
        "reverse, sort_up, add",
    ),
    Section(
        "Three skills on an aligned base, lab",
        "The base refuses; how much of that is lost when skills are merged into it (drift). No safety adapter.",
        "lab_drift",
        (("Drift, three experts", ("Drift", "Utility")),),
    ),
    Section(
        "4 to 20 experts and safety, lab, today's teachers",
        "What is left of every skill (retention) with the safety adapter on top, 32 prompts of each expert.",
        "lab_many_experts_taught",
        tuple((f"{size} experts, with safety", (_RETENTION, _SAFE)) for size in _SIZES[1:]),
    ),
    Section(
        "2 to 20 experts and safety, lab",
        "The same sets by more methods, with the steps that SST-Merge's teachers took before.",
        "lab_many_experts",
        tuple((f"{size} experts, with safety", (_RETENTION, _SAFE)) for size in _SIZES),
    ),
    Section(
        "Every method on one skill and safety, lab",
        "All registered methods, ordered by their mean rank; one seed of adapters.",
        "lab_methods",
        (("Every method at the strength", ("Mean rank", "Safety", "Over-refusal", "Utility", "Knowledge", "Reached")),),
    ),
    _tax(
        "One skill and safety, SmolLM2",
        "Question types, which cost nothing there: even a plain sum keeps them.",
        "smollm2",
        "one skill",
        hulls=True,
    ),
    _tax(
        "The same with a second seed of adapters, one skill",
        "Both adapters trained anew; three methods alone.",
        "smollm2",
        "one skill, second seed",
        hulls=True,
    ),
    _tax(
        "Another skill and safety, SmolLM2",
        "Slot filling. SST-Merge was measured there before its default ended with passes over all prompts.",
        "smollm2",
        "one extraction skill",
        hulls=True,
    ),
    _tax(
        "Three skills and safety, SmolLM2",
        "Question types, domains and slot filling; of SST-Merge single strengths.",
        "smollm2_three_skills",
        "three skills",
        hulls=True,
    ),
    _tax(
        "The same with a second seed of adapters, three skills",
        "The four adapters trained anew; of SST-Merge single strengths, and its closed form.",
        "smollm2_three_skills",
        "three skills, second seed",
        hulls=True,
    ),
    Section(
        "Twelve experts, SmolLM2",
        "Skills alone, 20 prompts of each expert; right answers over all tasks as a share of the experts' own.",
        "smollm2_many_experts",
        (("12 experts, skills alone", ("All tasks together", _AHEAD)),),
    ),
)


def page(studies: Path = STUDIES) -> str:
    """The page as it should be.

    Args:
        studies: folder of the studies' pages.

    Returns:
        Markdown.

    Raises:
        ValueError: a page has no table with that caption, or the table no such column.
    """
    parts = [_HEAD]
    for section in _SECTIONS:
        text = f"{section.text} More: [{section.study}](../studies/{section.study}/README.md)."
        parts += [f"## {section.heading}\n\n{text}\n", _joined(studies, section)]
        if section.beside is not None:
            columns, rows = _table(studies / section.study / "README.md", section.beside)
            parts.append(markdown_table(rows, columns))
    return "\n".join([*parts, _TAIL])


def _joined(studies: Path, section: Section) -> str:
    """Tables of one study side by side, in the order of the first one's rows."""
    file = studies / section.study / "README.md"
    (named, *_), first = _table(file, section.tables[0][0])
    cells: dict[str, dict[str, list[str]]] = {row[0]: {} for row in first}
    for caption, wanted in section.tables:
        columns, rows = _table(file, caption)
        if missing := [name for name in wanted if name not in columns]:
            raise ValueError(f"{section.study}: the table {caption!r} has no column {missing[0]!r}, but {columns}")
        for name in wanted:
            heading = re.split("[,:]", caption)[0] if name == _RETENTION else name
            for row in rows:
                if row[0] in cells:
                    cells[row[0]].setdefault(heading, []).append(row[columns.index(name)])
    # Counts come last.
    headings = sorted(dict.fromkeys(heading for row in cells.values() for heading in row), key=_SAFE.__eq__)
    lines = [[name, *(_together(row.get(heading, ["–"])) for heading in headings)] for name, row in cells.items()]
    return markdown_table(lines, [named, *headings])


def _together(cells: Sequence[str]) -> str:
    """One cell as it is; counts such as "2 of 3" added up."""
    if len(cells) == 1:
        return cells[0]
    counts = [[int(number) for number in cell.split(" of ")] for cell in cells]
    return " of ".join(str(sum(numbers)) for numbers in zip(*counts, strict=True))


def _table(file: Path, caption: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the first table after a line that begins with some words."""
    lines = file.read_text(encoding="utf-8").splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith(caption)), None)
    if begin is None:
        raise ValueError(f"{file}: no table whose caption begins with {caption!r}; was the study measured otherwise?")
    while not lines[begin].startswith("|"):
        begin += 1
    end = begin
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    columns, _, *rows = (_cells(line) for line in lines[begin:end])
    return columns, rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def main(given: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the page")
    options = parser.parse_args(given)
    with atomic_file(options.out) as aside:
        aside.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
