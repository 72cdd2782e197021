"""Utility suites: MMLU, GSM8K and held-out text, asked and scored as lm-evaluation-harness asks and scores them."""

import json
from collections import defaultdict

from ...errors import DataError
from ..sets import Row
from .docs import Documents, Request, document

__all__ = ["gsm8k", "mmlu", "perplexity"]

SHOTS = 5
_PARAGRAPHS = 20
# The last fifth of the paragraphs is kept for testing.
_HELD_OUT = 5


def mmlu(request: Request) -> Documents:
    """All test questions, each behind the first five worked examples of its subject.

    The examples stand in the document (column `context`), because they depend on the subject and a task of the harness
    has one pool of them.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.

    Raises:
        DataError: a subject has fewer than five examples.
    """
    examples: dict[str, list[str]] = defaultdict(list)
    questions = []
    for row in request.read("mmlu").rows:
        if row["split"] == "dev":
            examples[row["subject"]].append(f"{_question(row)} {row['answer']}\n\n")
        else:
            questions.append(row)
    short = sorted({row["subject"] for row in questions if len(examples[row["subject"]]) < SHOTS})
    if short:
        raise DataError(
            f"set 'mmlu': fewer than {SHOTS} examples (split dev) in {', '.join(short[:3])}; fetch it again"
        )
    return [
        document(
            row,
            prompt=_question(row),
            tags={"subject": row["subject"]},
            context="".join(examples[row["subject"]][:SHOTS]) + _question(row),
            heading="The following are multiple choice questions (with answers) about "
            f"{row['subject'].replace('_', ' ')}.\n\n",
            answer=row["answer"],
        )
        for row in questions
    ], ()


def _question(row: Row) -> str:
    options = "\n".join(
        f"{letter}. {option}" for letter, option in zip("ABCD", json.loads(row["choices"]), strict=True)
    )
    return f"{row['prompt'].strip()}\n{options}\nAnswer:"


def gsm8k(request: Request) -> Documents:
    """All test problems; the first five training problems as worked examples.

    Args:
        request: reads the set.

    Returns:
        Documents and examples.
    """
    rows = request.read("gsm8k").rows
    test, train = ([row for row in rows if row["split"] == split] for split in ("test", "train"))
    return (
        [document(row, tags={}, answer=row["answer"]) for row in test],
        [document(row, tags={}, answer=row["answer"]) for row in train[:SHOTS]],
    )


def perplexity(request: Request) -> Documents:
    """The last fifth of the WikiText piece, in documents of 20 paragraphs.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    rows = request.read("wikitext").rows
    held_out = rows[len(rows) - len(rows) // _HELD_OUT :]
    pages = [held_out[i : i + _PARAGRAPHS] for i in range(0, len(held_out), _PARAGRAPHS)]
    documents = []
    for page in pages:
        text = " \n ".join(row["prompt"] for row in page)
        documents.append(document({"id": page[0]["id"], "prompt": text}, tags={}, page=text))
    return documents, ()
