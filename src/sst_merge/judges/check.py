"""How good is a judge? Its verdicts against labels that it never saw, with intervals over questions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data_loader import normalise_prompt
from ..data_loader.formats import Record, read_file
from ..errors import DataError
from ..measures.figure import Figure
from .contract import Column, Judge
from .registry import make_judges

__all__ = ["JudgeCheck", "LabelledAnswer", "agreement", "check_judge", "read_labelled", "run_judge_check"]

REFUSALS = Path(__file__).with_name("labelled_refusals.jsonl")
GPTFUZZER = "judge_labels/gptfuzz_responses_labeled_train.csv"
_GPTFUZZER_FIELDS = frozenset({"question", "Response", "label"})
_COLUMNS: tuple[Column, ...] = ("refusal", "harm", "incoherent")
Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LabelledAnswer:
    """One answer whose verdict is known.

    Attributes:
        prompt: the question; empty where the source does not give it.
        response: the answer.
        label: 1 for yes, 0 for no.
        question: name of the question; answers to one question are not independent, so intervals are over questions.
        column: what the label says.
    """

    prompt: str
    response: str
    label: int
    question: str
    column: Column


@dataclass(frozen=True, kw_only=True)
class JudgeCheck:
    """A judge against labels.

    Attributes:
        judge: its name and version.
        column: what was judged.
        n: answers.
        questions: distinct questions.
        positives: answers labelled yes.
        accuracy: share of equal verdicts.
        balanced_accuracy: mean of the shares among yes and among no.
        kappa: Cohen's κ, agreement beyond chance.
        recall: share found among those labelled yes.
        specificity: share left alone among those labelled no.
        source: which labels.
    """

    judge: str
    column: Column
    n: int
    questions: int
    positives: int
    accuracy: Figure
    balanced_accuracy: Figure
    kappa: Figure
    recall: float
    specificity: float
    source: str = ""


def read_labelled(path: Path) -> list[LabelledAnswer]:
    """Read labelled answers.

    Two formats: our own, with fields ``prompt``, ``response`` and one of ``refusal``, ``harm``, ``incoherent`` (0/1)
    and optionally ``question``; and GPTFuzzer's columns ``question``, ``Response``, ``label`` (1 = jailbroken, which
    counts as harm).

    Args:
        path: .jsonl, .json or .csv, also compressed.

    Returns:
        The answers, in file order.

    Raises:
        DataError: another format, an empty file, or a label that is neither 0 nor 1.
    """
    records = read_file(path)
    if not records:
        raise DataError(f"{path}: no labelled answers; one record an answer is expected")
    fields = set(records[0])
    if fields >= _GPTFUZZER_FIELDS:
        return [
            _answer(record, number, path, "label", "harm", f"gptfuzzer/{record.get('question')}")
            for number, record in enumerate(records, start=1)
        ]
    column = next((name for name in _COLUMNS if name in fields), None)
    if column is None or not fields >= {"prompt", "response"}:
        raise DataError(
            f"{path}: columns {', '.join(sorted(fields))}; expected prompt, response and one of "
            f"{', '.join(_COLUMNS)}, or GPTFuzzer's question, Response, label"
        )
    return [
        _answer(record, number, path, column, column, str(record.get("question") or ""))
        for number, record in enumerate(records, start=1)
    ]


def _answer(record: Record, number: int, path: Path, field: str, column: Column, question: str) -> LabelledAnswer:
    label = str(record.get(field)).strip()
    response = record.get("response", record.get("Response"))
    if label not in {"0", "1"} or not isinstance(response, str):
        raise DataError(
            f"{path}, record {number}: {field} = {label!r} and an answer of type {type(response).__name__}; expected "
            "0 or 1 and text"
        )
    prompt = str(record.get("prompt") or "")
    name = question or normalise_prompt(prompt)
    return LabelledAnswer(prompt=prompt, response=response, label=int(label), question=name, column=column)


def check_judge(
    judge: Judge, rows: Sequence[LabelledAnswer], *, seed: int = 0, n_resamples: int = 2000, source: str = ""
) -> JudgeCheck:
    """Measure a judge.

    Intervals are 95 % percentile bootstrap intervals over questions: all answers to a question are drawn together.

    Args:
        judge: what is measured.
        rows: labelled answers of the judge's column.
        seed: of the draws.
        n_resamples: how many draws.
        source: named in the result.

    Returns:
        The figures.

    Raises:
        DataError: no rows, another column, or only one label.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, recall_score

    columns = {row.column for row in rows}
    labels = np.array([row.label for row in rows])
    if columns != {judge.column} or len(set(labels.tolist())) != 2:
        raise DataError(
            f"check of {judge.name}: {len(rows)} answers labelled {', '.join(sorted(columns)) or 'nothing'} with "
            f"labels {sorted(set(labels.tolist()))}; expected labels 0 and 1 of {judge.column}"
        )
    scores = judge([row.prompt for row in rows], [row.response for row in rows])
    verdicts = (np.asarray(scores) >= 0.5).astype(int)
    names = [row.question for row in rows]
    intervals = _intervals(labels, verdicts, names, seed=seed, n_resamples=n_resamples)
    return JudgeCheck(
        judge=judge.name,
        column=judge.column,
        n=len(rows),
        questions=len(set(names)),
        positives=int(labels.sum()),
        accuracy=Figure(float(accuracy_score(labels, verdicts)), *intervals["accuracy"], len(rows)),
        balanced_accuracy=Figure(float(balanced_accuracy_score(labels, verdicts)), *intervals["balanced"], len(rows)),
        kappa=Figure(float(cohen_kappa_score(labels, verdicts)), *intervals["kappa"], len(rows)),
        recall=float(recall_score(labels, verdicts)),
        specificity=float(recall_score(labels, verdicts, pos_label=0)),
        source=source,
    )


def agreement(
    first: Judge, second: Judge, rows: Sequence[LabelledAnswer], *, seed: int = 0, n_resamples: int = 2000
) -> Figure | None:
    """Cohen's κ between two judges on the same answers; their labels are not looked at.

    Args:
        first: one judge.
        second: another.
        rows: answers.
        seed: of the bootstrap.
        n_resamples: how many draws.

    Returns:
        κ and its 95 % interval over questions; None where it is not defined, because both judges give every answer the
        same one label.
    """
    from sklearn.metrics import cohen_kappa_score

    pairs = [row.prompt for row in rows], [row.response for row in rows]
    a, b = ((np.asarray(judge(*pairs)) >= 0.5).astype(int) for judge in (first, second))
    low, high = _intervals(a, b, [row.question for row in rows], seed=seed, n_resamples=n_resamples)["kappa"]
    kappa = float(cohen_kappa_score(a, b))
    return Figure(kappa, low, high, len(rows)) if np.isfinite(kappa) else None


def _intervals(
    labels: NDArray[np.int_], verdicts: NDArray[np.int_], names: Sequence[str], *, seed: int, n_resamples: int
) -> Mapping[str, tuple[float, float]]:
    """Bootstrap over questions, through each question's counts of the four outcomes."""
    _, member = np.unique(np.asarray(names), return_inverse=True)
    counts = np.zeros((int(member.max()) + 1, 4))
    np.add.at(counts, (member, 2 * labels + verdicts), 1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=n_resamples) @ counts
    true_no, false_yes, false_no, true_yes = drawn.T
    total = drawn.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # draws with one label only have no such figure
        accuracy = (true_yes + true_no) / total
        balanced = (true_yes / (true_yes + false_no) + true_no / (true_no + false_yes)) / 2
        says_yes, is_yes = (true_yes + false_yes) / total, (true_yes + false_no) / total
        chance = says_yes * is_yes + (1 - says_yes) * (1 - is_yes)
        kappa = (accuracy - chance) / (1 - chance)
    figures = {"accuracy": accuracy, "balanced": balanced, "kappa": kappa}
    return {name: _percentiles(values) for name, values in figures.items()}


def _percentiles(values: Counts) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return -float("inf"), float("inf")
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def run_judge_check(
    name: str, labels: Path | None = None, *, device: str = "cpu", models: Mapping[str, str] | None = None
) -> JudgeCheck:
    """What ``sst-merge evaluate --judge-check NAME [--labels FILE]`` does.

    Without a file, judges of refusal are measured on the held-out half of our hand-labelled answers, and judges of
    harm on GPTFuzzer's labels in the folder that SST_MERGE_DATA names. Answers to questions that a judge was trained
    on are left out.

    Args:
        name: of the judge, as for :func:`.make_judges`.
        labels: a file for :func:`read_labelled`.
        device: for judges that are neural networks.
        models: name → other id or folder of its model.

    Returns:
        The figures.

    Raises:
        DataError: no labels for what the judge decides, or none that it has not seen.
    """
    judges = make_judges([name], device=device, models=models)
    if labels is not None:
        rows, source = read_labelled(labels), labels.name
        judge = next((found for found in judges if found.column == rows[0].column), None)
    else:
        judge = judges[0]
        rows, source = _default_labels(judge.column)
    if judge is None:
        decided = ", ".join(found.column for found in judges)
        raise DataError(f"{labels}: labels of {rows[0].column}, but {name} decides {decided}; give labels of that")
    seen: frozenset[str] = getattr(judge, "trained_on", frozenset())
    unseen = [row for row in rows if row.question not in seen]
    if not unseen:
        raise DataError(f"{source}: {judge.name} was trained on every question of it; give other labels")
    return check_judge(judge, unseen, source=source)


def _default_labels(column: Column) -> tuple[list[LabelledAnswer], str]:
    if column == "refusal":
        held_out: list[Any] = [record for record in read_file(REFUSALS) if record["half"] == "held_out"]
        rows = [_answer(record, i, REFUSALS, "refusal", "refusal", "") for i, record in enumerate(held_out, start=1)]
        return rows, f"{REFUSALS.name}, held-out half"
    folder = os.environ.get("SST_MERGE_DATA")
    if column == "harm" and folder:
        path = Path(folder) / GPTFUZZER
        return read_labelled(path), path.name
    raise DataError(
        f"no labels of {column}; give a file with prompt, response and {column} (--labels FILE)"
        + ("" if column == "incoherent" else f", or set SST_MERGE_DATA to a folder with {GPTFUZZER} (GPTFuzzer, MIT)")
    )
