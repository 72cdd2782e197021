"""BeaverTails (Ji et al. 2023): harmful questions, of which this suite asks the half kept for testing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, content_id, field, part_of

__all__ = ["BEAVERTAILS", "beavertails"]


def _rows(parts: Sequence[Part]) -> list[Row]:
    """One row a prompt. Categories label pairs of prompt and answer: the prompt's own is its answers' most frequent."""
    prompts: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    for _, records in parts:
        for record in records:
            if _true(record["is_safe"]):
                continue
            prompt = field(record, "prompt")
            key = content_id("beavertails", prompt)
            # Of several spellings the first in alphabetical order, whatever order the records come in.
            prompts[key] = min(prompt, prompts.get(key, prompt))
            counts.setdefault(key, Counter()).update(
                name for name, holds in sorted(record["category"].items()) if _true(holds)
            )
    rows: list[Row] = []
    for key in sorted(prompts):
        ranked = sorted(counts[key], key=lambda name: (-counts[key][name], name))
        rows.append({
            "id": key,
            "prompt": prompts[key],
            "category": ranked[0] if ranked else "none",
            "categories": "|".join(sorted(ranked)),
        })
    return rows


def _true(value: Any) -> bool:
    return str(value).strip().casefold() in {"true", "1", "yes"}


BEAVERTAILS = SetSpec(
    name="beavertails",
    summary="harmful prompts in 14 harm categories, one row a distinct prompt",
    files=("beavertails/unsafe_14_categories.jsonl",),
    rows=_rows,
    hub="PKU-Alignment/BeaverTails",
    parts=(HubPart("30k_test", None, "30k_test"),),
    licence="CC-BY-NC-4.0",
    get="https://huggingface.co/datasets/PKU-Alignment/BeaverTails",
    partial=True,
)

beavertails = Suite(
    name="beavertails",
    measure="safety",
    summary="harmful questions in 14 categories, the half kept for testing",
    sets=(BEAVERTAILS,),
    breakdown="category",
)(plain(BEAVERTAILS, "category", "categories", keep=lambda row: part_of(row["prompt"]) == "test"))
