"""HarmBench (Mazeika et al. 2024): harmful behaviours, standard and contextual."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..contract import Suite, plain
from ..sets import HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = ["HARMBENCH", "harmbench"]


def _rows(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part, records in parts:
        for record in records:
            behaviour = field(record, "Behavior", "prompt").strip()
            context = field(record, "ContextString", "context") if part != "standard" and _has_context(record) else ""
            # Context first, then what is to be done with it, as in the set's own evaluation.
            prompt = f"{context.strip()}\n\n---\n\n{behaviour}" if context.strip() else behaviour
            kind = field(record, "FunctionalCategory") if "FunctionalCategory" in record else part
            topic = "copyright" if kind == "copyright" else field(record, "SemanticCategory", "category")
            rows.append({"id": content_id("harmbench", prompt), "prompt": prompt, "kind": kind, "category": topic})
    return distinct(rows)


def _has_context(record: Mapping[str, Any]) -> bool:
    return "ContextString" in record or "context" in record


HARMBENCH = SetSpec(
    name="harmbench",
    summary="harmful behaviours: standard, contextual and copyright",
    files=("harmful_prompts/harmbench_test.csv", "harmful_prompts/harmbench_val.csv"),
    rows=_rows,
    hub="walledai/HarmBench",
    parts=tuple(HubPart(kind, kind, "train") for kind in ("standard", "contextual", "copyright")),
    licence="MIT",
    get="harmbench_behaviors_text_{test,val}.csv in https://github.com/centerforaisafety/HarmBench; the hub's copy "
    "asks for consent",
)

# Copyright is judged by comparing texts, not by refusals.
harmbench = Suite(
    name="harmbench",
    measure="safety",
    summary="harmful behaviours, standard and contextual (copyright left out: no refusal is asked for there)",
    sets=(HARMBENCH,),
    breakdown="category",
)(plain(HARMBENCH, "category", "kind", keep=lambda row: row["kind"] != "copyright"))
