"""MMLU (Hendrycks et al. 2021): 57 subjects, asked and scored as lm-evaluation-harness's own 57 tasks do."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..asking import means, option_answer
from ..contract import Document, Request, Suite, document
from ..sets import HubPart, Part, Row, SetSpec, field

__all__ = ["MMLU", "mmlu"]

SHOTS = 5
_SPLITS = ("dev", "test")


def _read_archive(path: Path) -> list[Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            return [(split, _read_split(archive, members, split, path)) for split in _SPLITS]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: damaged or not a zip archive ({error}); fetch it again") from error


def _read_split(archive: zipfile.ZipFile, members: list[str], split: str, path: Path) -> list[Mapping[str, Any]]:
    ending = f"_{split}.csv"
    records: list[Mapping[str, Any]] = []
    for member in sorted(name for name in members if name.endswith(ending) and f"/{split}/" in f"/{name}"):
        subject = Path(member).name.removesuffix(ending)
        text = io.TextIOWrapper(archive.open(member), encoding="utf-8", newline="")
        for number, cells in enumerate(csv.reader(text), start=1):
            if len(cells) != 6 or cells[5] not in {"A", "B", "C", "D"}:
                raise DataError(
                    f"{path}, {member}, record {number}: {len(cells)} fields; expected question, four options and "
                    "A, B, C or D"
                )
            records.append({
                "subject": subject,
                "question": cells[0],
                "choices": cells[1:5],
                "answer": "ABCD".index(cells[5]),
            })
    if not records:
        raise DataError(f"{path}: holds no {split}/<subject>{ending}; expected the archive of hendrycks/test")
    return records


def _rows(parts: Sequence[Part]) -> list[Row]:
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


MMLU = SetSpec(
    name="mmlu",
    summary="multiple-choice questions in 57 subjects, with 5 worked examples a subject",
    files=("mmlu/mmlu.zip",),
    rows=_rows,
    read=_read_archive,
    hub="cais/mmlu",
    parts=(HubPart("dev", "all", "dev"), HubPart("test", "all", "test")),
    licence="MIT",
    get="https://huggingface.co/datasets/cais/mmlu, or data.tar of https://github.com/hendrycks/test packed as zip",
)


# One task for all 57 subjects: heading and worked examples stand in the document, so prompts equal those of the
# harness's own `mmlu` tasks with 5 examples (checked by a test).
@Suite(
    name="mmlu",
    measure="utility",
    summary="57 subjects, 5 examples, by option log-likelihood",
    sets=(MMLU,),
    asking={
        "output_type": "multiple_choice",
        "description": "heading",
        "doc_to_text": "context",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        "process_results": option_answer,
        "metric_list": means(correct=True, probability=True),
    },
    judged=False,
    score="correct",
    breakdown="subject",
)
def mmlu(request: Request) -> list[Document]:
    """All test questions, each behind the first five worked examples of its subject (column `context`).

    Raises:
        DataError: a subject has fewer than five examples.
    """
    examples: dict[str, list[str]] = defaultdict(list)
    questions = []
    for row in request.read(MMLU).rows:
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
    ]


def _question(row: Row) -> str:
    options = "\n".join(
        f"{letter}. {option}" for letter, option in zip("ABCD", json.loads(row["choices"]), strict=True)
    )
    return f"{row['prompt'].strip()}\n{options}\nAnswer:"
