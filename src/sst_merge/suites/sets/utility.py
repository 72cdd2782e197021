"""Sets that measure skills, and harmless instructions."""

import json
import re
from collections.abc import Sequence

from ...data_loader import normalise_prompt
from .spec import HubPart, Part, Row, SetSpec, content_id, distinct, field

__all__ = ["UTILITY_SETS", "WIKITEXT_PARAGRAPHS"]

# Length of the folder's piece; the hub's version is cut to it.
WIKITEXT_PARAGRAPHS = 4_385
_HEADING = re.compile(r"=( =)* .* =( =)*")


def _mmlu(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for split, records in parts:
        counters: dict[str, int] = {}
        # Stable: versions differ in the order of subjects, not in the order within one.
        for record in sorted(records, key=lambda record: field(record, "subject")):
            subject = field(record, "subject")
            number = counters.setdefault(subject, 0)
            counters[subject] += 1
            rows.append({
                "id": f"mmlu/{split}/{subject}/{number}",
                "prompt": field(record, "question"),
                "split": split,
                "subject": subject,
                "choices": json.dumps(list(record["choices"]), ensure_ascii=False),
                "answer": "ABCD"[int(field(record, "answer"))],
            })
    return rows


def _humaneval(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": field(record, "task_id"),
            **{name: field(record, name) for name in ("prompt", "canonical_solution", "test", "entry_point")},
        }
        for _, records in parts
        for record in records
    ]


def _gsm8k(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": f"gsm8k/{split}/{number}",
            "prompt": field(record, "question"),
            "answer": field(record, "answer"),
            "split": split,
        }
        for split, records in parts
        for number, record in enumerate(records)
    ]


def _wikitext(parts: Sequence[Part]) -> list[Row]:
    lines = (field(record, "text").strip() for _, records in parts for record in records)
    paragraphs = [line for line in lines if line and not _HEADING.fullmatch(line)][:WIKITEXT_PARAGRAPHS]
    return [{"id": f"wikitext/{number}", "prompt": paragraph} for number, paragraph in enumerate(paragraphs)]


def _alpaca(parts: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for _, records in parts:
        for record in records:
            prompt, extra = field(record, "instruction"), field(record, "input")
            if extra.strip():
                prompt = f"{prompt}\n\n{extra}"
            if normalise_prompt(prompt):
                rows.append({"id": content_id("alpaca", prompt), "prompt": prompt})
    return distinct(rows)


UTILITY_SETS: tuple[SetSpec, ...] = (
    SetSpec(
        name="mmlu",
        summary="multiple-choice questions in 57 subjects, with 5 worked examples a subject",
        files=("mmlu/mmlu.zip",),
        rows=_mmlu,
        hub="cais/mmlu",
        parts=(HubPart("dev", "all", "dev"), HubPart("test", "all", "test")),
        licence="MIT",
        get="https://huggingface.co/datasets/cais/mmlu, or data.tar of https://github.com/hendrycks/test packed as zip",
    ),
    SetSpec(
        name="humaneval",
        summary="164 Python functions to complete, with tests",
        files=("humaneval/HumanEval.jsonl.gz",),
        rows=_humaneval,
        hub="openai/openai_humaneval",
        parts=(HubPart("test", None, "test"),),
        licence="MIT",
        get="https://github.com/openai/human-eval",
    ),
    SetSpec(
        name="gsm8k",
        summary="grade-school word problems with worked answers",
        files=("gsm8k/train.jsonl", "gsm8k/test.jsonl"),
        rows=_gsm8k,
        hub="openai/gsm8k",
        parts=(HubPart("train", "main", "train"), HubPart("test", "main", "test")),
        licence="MIT",
        get="https://github.com/openai/grade-school-math",
    ),
    SetSpec(
        name="wikitext",
        summary="paragraphs of the beginning of WikiText-2's training split, headings left out",
        files=("corpora/wikitext2_train_5k.txt",),
        rows=_wikitext,
        hub="Salesforce/wikitext",
        parts=(HubPart("train", "wikitext-2-raw-v1", "train"),),
        licence="CC-BY-SA-3.0",
        get="https://huggingface.co/datasets/Salesforce/wikitext",
    ),
    SetSpec(
        name="alpaca",
        summary="harmless instructions, one row a distinct instruction with its input",
        files=("instructions/alpaca_1000.json", "instructions/alpaca_long_2000.json"),
        rows=_alpaca,
        hub="tatsu-lab/alpaca",
        parts=(HubPart("train", None, "train"),),
        licence="CC-BY-NC-4.0",
        get="https://huggingface.co/datasets/tatsu-lab/alpaca",
        partial=True,
    ),
)
