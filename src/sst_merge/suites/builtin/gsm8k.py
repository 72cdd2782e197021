"""GSM8K (Cobbe et al. 2021): word problems, asked and scored as lm-evaluation-harness's own task does."""

import re
from collections.abc import Mapping, Sequence

from ..asking import greedy, means
from ..contract import Document, Request, Suite, document
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["GSM8K", "final_number", "gsm8k", "score"]

SHOTS = 5
_BEHIND_MARK = re.compile(r"#### (-?[0-9.,]+)")
_ANYWHERE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def _rows(parts: Sequence[Part]) -> list[Row]:
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


GSM8K = SetSpec(
    name="gsm8k",
    summary="grade-school word problems with worked answers",
    files=("gsm8k/train.jsonl", "gsm8k/test.jsonl"),
    rows=_rows,
    hub="openai/gsm8k",
    parts=(HubPart("train", "main", "train"), HubPart("test", "main", "test")),
    licence="MIT",
    get="https://github.com/openai/grade-school-math",
)


def score(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Word problems by their final number.

    Args:
        doc: the document; `answer` ends with the number behind ``####``.
        results: the one answer.

    Returns:
        ``correct``: the number behind ``####`` is right (strict match). ``correct_flexible``: the last number is.
    """
    gold = final_number(doc["answer"], strict=True)
    return {
        "correct": float(final_number(results[0], strict=True) == gold),
        "correct_flexible": float(final_number(results[0], strict=False) == gold),
    }


def final_number(text: str, *, strict: bool) -> str | None:
    """The number that an answer comes to.

    Args:
        text: the answer.
        strict: only the first number behind ``####`` counts; otherwise the last one anywhere.

    Returns:
        Its digits without commas, dollar signs and final full stop, or None.
    """
    found = _BEHIND_MARK.findall(text) if strict else _ANYWHERE.findall(text)
    if not found:
        return None
    number: str = found[0 if strict else -1]
    return number.strip().replace(",", "").replace("$", "").removesuffix(".")


def _problems(request: Request, split: str) -> list[Document]:
    return [document(row, answer=row["answer"]) for row in request.read(GSM8K).rows if row["split"] == split]


# The examples are always the first five training problems.
@Suite(
    name="gsm8k",
    measure="utility",
    summary="word problems, 5 examples, exact match of the number behind ####",
    sets=(GSM8K,),
    asking={
        "output_type": "generate_until",
        "fewshot_split": "examples",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": SHOTS,
        "doc_to_text": "Question: {{prompt}}\nAnswer:",
        "doc_to_target": "answer",
        "generation_kwargs": greedy(256, until=["Question:", "</s>", "<|im_end|>"]),
        "process_results": score,
        "metric_list": means(correct=True, correct_flexible=True),
    },
    examples=lambda request: _problems(request, "train")[:SHOTS],
    judged=False,
    score="correct",
)
def gsm8k(request: Request) -> list[Document]:
    """All test problems."""
    return _problems(request, "test")
