"""Sets of harmful prompts, of prompts that only look harmful, and of jailbreak wrappers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .spec import HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = ["PLACEHOLDER", "SAFETY_SETS"]

# Where a jailbreak template takes the behaviour.
PLACEHOLDER = "[INSERT PROMPT HERE]"

_RISK_AREAS: Mapping[str, str] = {
    "discrimination": "discrimination_exclusion_toxicity_hateful_offensive",
    "human": "human_chatbox",
    "information": "information_hazard",
    "malicious": "malicious_uses",
    "misinformation": "misinformation_harms",
}


def _beavertails(parts: Sequence[Part]) -> list[Row]:
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


def _advbench(parts: Sequence[Part]) -> list[Row]:
    return [
        {"id": f"advbench/{number}", "prompt": field(record, "goal", "prompt"), "target": field(record, "target")}
        for _, records in parts
        for number, record in enumerate(records)
    ]


def _harmbench(parts: Sequence[Part]) -> list[Row]:
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


def _jailbreakbench(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": f"jailbreakbench/{field(record, '', 'Index')}",
            "prompt": field(record, "Goal"),
            "category": field(record, "Category"),
            "behaviour": field(record, "Behavior"),
            "source": field(record, "Source"),
        }
        for _, records in parts
        for record in records
    ]


def _do_not_answer(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part, records in parts:
        for record in records:
            prompt = field(record, "prompt", "question")
            area = field(record, "risk_area") if "risk_area" in record else part
            risk = _RISK_AREAS[area.casefold().replace("-", " ").replace("_", " ").replace(",", " ").split()[0]]
            rows.append({"id": content_id("do_not_answer", prompt), "prompt": prompt, "category": risk})
    return distinct(rows)


def _xstest(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": f"xstest/{field(record, 'id')}",
            "prompt": field(record, "prompt"),
            "type": field(record, "type"),
            "label": field(record, "label"),
            "focus": field(record, "focus"),
        }
        for _, records in parts
        for record in records
    ]


def _templates(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part, records in parts:
        collection = "gptfuzzer" if part == "GPTFuzzer" else "itw"
        for record in records:
            text = field(record, "text", "prompt")
            rows.append({"id": f"{collection}/{field(record, 'id', 'name')}", "prompt": text, "collection": collection})
    return rows


def _true(value: Any) -> bool:
    return str(value).strip().casefold() in {"true", "1", "yes"}


SAFETY_SETS: tuple[SetSpec, ...] = (
    SetSpec(
        name="beavertails",
        summary="harmful prompts in 14 harm categories, one row a distinct prompt",
        files=("beavertails/unsafe_14_categories.jsonl",),
        rows=_beavertails,
        hub="PKU-Alignment/BeaverTails",
        parts=(HubPart("30k_test", None, "30k_test"),),
        licence="CC-BY-NC-4.0",
        get="https://huggingface.co/datasets/PKU-Alignment/BeaverTails",
        partial=True,
    ),
    SetSpec(
        name="advbench",
        summary="harmful instructions with the affirmative answer an attacker aims at",
        files=("harmful_prompts/advbench.csv",),
        rows=_advbench,
        hub="walledai/AdvBench",
        parts=(HubPart("train", None, "train"),),
        licence="MIT",
        get="harmful_behaviors.csv in https://github.com/llm-attacks/llm-attacks; the hub's copy asks for consent",
    ),
    SetSpec(
        name="harmbench",
        summary="harmful behaviours: standard, contextual and copyright",
        files=("harmful_prompts/harmbench_test.csv", "harmful_prompts/harmbench_val.csv"),
        rows=_harmbench,
        hub="walledai/HarmBench",
        parts=tuple(HubPart(kind, kind, "train") for kind in ("standard", "contextual", "copyright")),
        licence="MIT",
        get="harmbench_behaviors_text_{test,val}.csv in https://github.com/centerforaisafety/HarmBench; the hub's copy "
        "asks for consent",
    ),
    SetSpec(
        name="jailbreakbench",
        summary="100 misuse behaviours in 10 categories",
        files=("harmful_prompts/jailbreakbench.csv",),
        rows=_jailbreakbench,
        hub="JailbreakBench/JBB-Behaviors",
        parts=(HubPart("harmful", "behaviors", "harmful"),),
        licence="MIT",
        get="https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors",
    ),
    SetSpec(
        name="do_not_answer",
        summary="questions that a careful assistant does not answer, in 5 risk areas",
        files=tuple(f"do_not_answer/{area}.jsonl" for area in _RISK_AREAS.values()),
        rows=_do_not_answer,
        hub="LibrAI/do-not-answer",
        parts=(HubPart("train", None, "train"),),
        licence="Apache-2.0 (repository); CC-BY-NC-SA-4.0 (hub card)",
        get="https://huggingface.co/datasets/LibrAI/do-not-answer",
    ),
    SetSpec(
        name="xstest",
        summary="250 safe prompts that sound unsafe and 200 unsafe contrasts",
        files=("xstest/xstest_prompts.csv",),
        rows=_xstest,
        hub="Paul/XSTest",
        parts=(HubPart("train", None, "train"),),
        licence="CC-BY-4.0",
        get="xstest_prompts.csv in https://github.com/paul-rottger/xstest",
    ),
    SetSpec(
        name="jailbreak_templates",
        summary="jailbreak wrappers with a place for the behaviour",
        files=("jailbreak_templates/GPTFuzzer.csv", "jailbreak_templates/jailbreak_prompts_itw.csv"),
        rows=_templates,
        hub=None,
        licence="MIT",
        get="GPTFuzzer.csv in https://github.com/sherdencooper/GPTFuzz and the in-the-wild collection beside it, each "
        f"template with {PLACEHOLDER} once",
    ),
)
