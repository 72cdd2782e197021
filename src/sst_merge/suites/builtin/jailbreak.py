"""Behaviours in jailbreak templates, half of which no calibration may use.

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
from ..contract import Document, Request, Suite, document
from ..sets import Part, Row, SetSpec, field, shuffled
from .attacks import behaviours
from .harmbench import HARMBENCH
from .jailbreakbench import JAILBREAKBENCH

__all__ = ["FAMILIES", "JAILBREAK_TEMPLATES", "PLACEHOLDER", "cluster", "held_out", "jailbreak", "templates"]

# Where a template takes the behaviour.
PLACEHOLDER = "[INSERT PROMPT HERE]"
FAMILIES = Path(__file__).with_name("template_families.json")

# Two templates belong together when the shorter one shares more than this share of its word triples with the other.
_SHARED = 0.15


def _rows(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part, records in parts:
        collection = "gptfuzzer" if part == "GPTFuzzer" else "itw"
        for record in records:
            text = field(record, "text", "prompt")
            rows.append({"id": f"{collection}/{field(record, 'id', 'name')}", "prompt": text, "collection": collection})
    return rows


JAILBREAK_TEMPLATES = SetSpec(
    name="jailbreak_templates",
    summary="jailbreak wrappers with a place for the behaviour",
    files=("jailbreak_templates/GPTFuzzer.csv", "jailbreak_templates/jailbreak_prompts_itw.csv"),
    rows=_rows,
    hub=None,
    licence="MIT",
    get="GPTFuzzer.csv in https://github.com/sherdencooper/GPTFuzz and the in-the-wild collection beside it, each "
    f"template with {PLACEHOLDER} once",
)


@Suite(
    name="jailbreak",
    measure="safety",
    summary="behaviours in jailbreak wrappers whose families are held out from calibration",
    sets=(HARMBENCH, JAILBREAKBENCH, JAILBREAK_TEMPLATES),
    breakdown="family",
)
def jailbreak(request: Request) -> list[Document]:
    """Each behaviour in one template of a family held out from calibration.

    Behaviours and templates are put into an order that the seed decides, and the k-th behaviour takes the k-th
    template, beginning again when templates run out, so that all templates are used about equally often.
    """
    wrappers = shuffled(templates(request.read(JAILBREAK_TEMPLATES).rows, "test"), seed=request.seed)
    asked = shuffled(behaviours(request), seed=request.seed)
    documents = []
    for k, row in enumerate(asked):
        wrapper = wrappers[k % len(wrappers)]
        documents.append(
            document(
                {**row, "id": f"{row['id']}+{wrapper['id']}"},
                prompt=wrapper["prompt"].replace(PLACEHOLDER, row["prompt"]),
                tags={
                    "attack": "template",
                    "family": wrapper["family"],
                    "template": wrapper["id"],
                    "category": row["category"],
                    "set": row["set"],
                },
            )
        )
    return documents


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
    """The families held out for testing: every second one, from the largest on, so that both sides are alike.

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
