"""Families of jailbreak templates, and which of them no calibration may use.

People copy and adapt templates: two that share many phrases test the same thing twice. A family is a group of
templates linked by shared phrases; half of the families are held out. The assignment is committed
(``template_families.json``: template → family) and :func:`cluster` is how it was made.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...errors import DataError
from .spec import Row

__all__ = ["FAMILIES", "cluster", "held_out", "templates"]

FAMILIES = Path(__file__).with_name("template_families.json")

# Two templates belong together when the shorter one shares more than this share of its word triples with the other.
_SHARED = 0.15


def cluster(rows: Sequence[Row]) -> dict[str, str]:
    """Group templates by shared phrases.

    Args:
        rows: templates.

    Returns:
        Template's id → family, which is named by the id of its first template. Single linkage: families are the
        connected components.
    """
    triples = [_triples(row["prompt"]) for row in rows]
    family = list(range(len(rows)))
    for i in range(len(rows)):
        for j in range(i):
            shared = len(triples[i] & triples[j])
            if family[i] != family[j] and shared > _SHARED * max(1, min(len(triples[i]), len(triples[j]))):
                low, high = sorted((family[i], family[j]))
                family = [low if name == high else name for name in family]
    return {row["id"]: rows[family[i]]["id"] for i, row in enumerate(rows)}


def held_out(families: Mapping[str, str]) -> frozenset[str]:
    """The families kept for testing: every second one, from the largest to the smallest, so that both sides are alike.

    Args:
        families: template → family.

    Returns:
        Names of the families.
    """
    members: dict[str, int] = defaultdict(int)
    for family in families.values():
        members[family] += 1
    ranked = sorted(members, key=lambda name: (-members[name], name))
    return frozenset(ranked[::2])


def templates(rows: Sequence[Row], part: Literal["calibration", "test"]) -> list[Row]:
    """Templates that calibration may use, or those kept for testing.

    Args:
        rows: of the set ``jailbreak_templates``.
        part: which of them; the two share no family.

    Returns:
        Rows with a `family`, in order.

    Raises:
        DataError: a template has no family yet.
    """
    families: dict[str, str] = json.loads(FAMILIES.read_text(encoding="utf-8"))
    unknown = [row["id"] for row in rows if row["id"] not in families]
    if unknown:
        raise DataError(
            f"{len(unknown)} jailbreak templates without a family ({', '.join(unknown[:5])}); expected the templates "
            f"that {FAMILIES.name} was made from"
        )
    test = held_out(families)
    return [{**row, "family": families[row["id"]]} for row in rows if (families[row["id"]] in test) == (part == "test")]


def _triples(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(zip(words, words[1:], words[2:], strict=False))
