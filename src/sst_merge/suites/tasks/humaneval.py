"""HumanEval as lm-evaluation-harness wants it: documents, programs run by a filter, scores a document."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DataError
from ...measures.pass_at_k import pass_scores
from ..completions import program_from_answer, program_from_continuation
from ..human_eval import Problem, refuse_unless_allowed, run_programs
from ..sets.spec import Row
from .docs import Documents, Request, document

__all__ = ["continuations", "requests", "run_answers", "run_continuations", "score"]

_REQUEST = "Complete the following Python function so that it does what its docstring says.\n\n```python\n{}```\n"
_BEGINNING = "Here is the completed function:\n\n```python\n"


def continuations(request: Request) -> Documents:
    """Problems as texts to go on with.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    return [_document(row, row["prompt"], "") for row in request.read("humaneval").rows], ()


def requests(request: Request) -> Documents:
    """Problems as requests in a chat, whose answer is begun with the given code.

    Args:
        request: reads the set.

    Returns:
        Documents, no examples.
    """
    documents = []
    for row in request.read("humaneval").rows:
        code = row["prompt"].rstrip("\n") + "\n"
        documents.append(_document(row, _REQUEST.format(code), _BEGINNING + code))
    return documents, ()


def run_continuations(
    responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]
) -> list[list[dict[str, Any]]]:
    """Run what a model went on with.

    Args:
        responses: samples of each document.
        docs: the documents.

    Returns:
        For each sample ``passed`` and ``reason``.
    """
    programs = [
        [program_from_continuation(doc["code"], text) for text in texts]
        for texts, doc in zip(responses, docs, strict=True)
    ]
    return _run(programs, docs)


def run_answers(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[list[dict[str, Any]]]:
    """Run what a model answered in a chat.

    Args:
        responses: samples of each document.
        docs: the documents.

    Returns:
        For each sample ``passed`` and ``reason``.
    """
    programs = [
        [program_from_answer(doc["code"], doc["entry_point"], text, open_fence=bool(doc["prefill"])) for text in texts]
        for texts, doc in zip(responses, docs, strict=True)
    ]
    return _run(programs, docs)


def score(doc: Mapping[str, str], results: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Scores of one document.

    Args:
        doc: the document.
        results: for its one request, the verdict of each sample.

    Returns:
        ``correct``: the share of samples that passed, 0 or 1 where there is one; and ``pass_at_10``, ``pass_at_100``
        where there are as many samples.

    Raises:
        DataError: the samples did not come through one of the filters above.
    """
    verdicts = results[0]
    if not verdicts or not all(isinstance(verdict, Mapping) for verdict in verdicts):
        raise DataError(f"{doc['id']}: not run yet; the task's filter must be run_continuations or run_answers")
    return pass_scores(len(verdicts), sum(bool(verdict["passed"]) for verdict in verdicts))


def _run(programs: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[list[dict[str, Any]]]:
    refuse_unless_allowed()
    jobs = []
    for candidates, doc in zip(programs, docs, strict=True):
        problem = Problem(id=doc["id"], prompt=doc["code"], test=doc["test"], entry_point=doc["entry_point"])
        jobs += [(problem, program) for program in candidates]
    outcomes = iter(run_programs(jobs))
    return [
        [{"passed": outcome.passed, "reason": outcome.reason} for _, outcome in zip(candidates, outcomes, strict=False)]
        for candidates in programs
    ]


def _document(row: Row, prompt: str, prefill: str) -> dict[str, str]:
    code = {"code": row["prompt"], "test": row["test"], "entry_point": row["entry_point"]}
    return document(row, prompt=prompt, tags={}, prefill=prefill, **code)
