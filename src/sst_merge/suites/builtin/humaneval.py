"""HumanEval (Chen et al. 2021): Python functions to write, run against their tests in the sandbox."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import DataError
from ...measures.pass_at_k import pass_scores
from ...sandbox import Program, refuse_unless_allowed, run_programs
from ..asking import greedy, means, sampled
from ..contract import Document, Request, Suite, document
from ..sets import HubPart, Part, Row, SetSpec, field
from ._completions import STOP_SEQUENCES, program_from_answer, program_from_continuation

__all__ = ["HUMANEVAL", "humaneval", "humaneval_instruct", "humaneval_samples"]

_REQUEST = "Complete the following Python function so that it does what its docstring says.\n\n```python\n{}```\n"
_BEGINNING = "Here is the completed function:\n\n```python\n"


def _rows(parts: Sequence[Part]) -> list[Row]:
    return [
        {
            "id": field(record, "task_id"),
            **{name: field(record, name) for name in ("prompt", "canonical_solution", "test", "entry_point")},
        }
        for _, records in parts
        for record in records
    ]


HUMANEVAL = SetSpec(
    name="humaneval",
    summary="164 Python functions to complete, with tests",
    files=("humaneval/HumanEval.jsonl.gz",),
    rows=_rows,
    hub="openai/openai_humaneval",
    parts=(HubPart("test", None, "test"),),
    licence="MIT",
    get="https://github.com/openai/human-eval",
)

# What a filter of the harness gets and gives: for each document, its answers.
_Answers = Sequence[Sequence[str]]
_Verdicts = list[list[dict[str, Any]]]


def _run_continuations(responses: _Answers, docs: Sequence[Mapping[str, str]]) -> _Verdicts:
    return _run(responses, docs, lambda doc, text: program_from_continuation(doc["code"], text))


def _run_answers(responses: _Answers, docs: Sequence[Mapping[str, str]]) -> _Verdicts:
    def program(doc: Mapping[str, str], text: str) -> str:
        return program_from_answer(doc["code"], doc["entry_point"], text, open_fence=bool(doc["prefill"]))

    return _run(responses, docs, program)


def _run(
    responses: _Answers, docs: Sequence[Mapping[str, str]], program: Callable[[Mapping[str, str], str], str]
) -> _Verdicts:
    """For each answer, whether its program ``passed``, and the ``reason``."""
    refuse_unless_allowed()
    jobs = [
        Program(source=program(doc, text), tests=doc["test"], entry_point=doc["entry_point"], context=doc["code"])
        for texts, doc in zip(responses, docs, strict=True)
        for text in texts
    ]
    outcomes = iter(run_programs(jobs))
    return [
        [{"passed": outcome.passed, "reason": outcome.reason} for _, outcome in zip(texts, outcomes, strict=False)]
        for texts in responses
    ]


def _score(doc: Mapping[str, str], results: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Scores of one document, from the verdicts of its answers.

    ``correct`` is the share of answers that passed, 0 or 1 where there is one; ``pass_at_10`` and ``pass_at_100`` are
    there where there are as many answers.

    Raises:
        DataError: the answers did not come through the filter that runs their programs.
    """
    verdicts = results[0]
    if not verdicts or not all(isinstance(verdict, Mapping) for verdict in verdicts):
        raise DataError(f"{doc['id']}: not run yet; the task's filter must run their programs")
    return pass_scores(len(verdicts), sum(bool(verdict["passed"]) for verdict in verdicts))


def _filter(run: Callable[[_Answers, Sequence[Mapping[str, str]]], _Verdicts]) -> list[dict[str, Any]]:
    return [{"name": "run", "filter": [{"function": "custom", "filter_fn": run}]}]


# A base model goes on with the function; greedy, one answer: pass@1.
_CONTINUED: Mapping[str, Any] = {
    "unsafe_code": True,
    "output_type": "generate_until",
    "doc_to_text": "prompt",
    "doc_to_target": "",
    "generation_kwargs": greedy(512, until=STOP_SEQUENCES),
    "filter_list": _filter(_run_continuations),
    "process_results": _score,
    "metric_list": means(correct=True),
}


def _continuations(request: Request) -> list[Document]:
    return [_document(row, row["prompt"], "") for row in request.read(HUMANEVAL).rows]


def _document(row: Row, prompt: str, prefill: str) -> Document:
    return document(
        row, prompt=prompt, prefill=prefill, code=row["prompt"], test=row["test"], entry_point=row["entry_point"]
    )


humaneval = Suite(
    name="humaneval",
    measure="utility",
    summary="Python functions to go on with, run against their tests in a sandbox (pass@1)",
    sets=(HUMANEVAL,),
    asking=_CONTINUED,
    judged=False,
    score="correct",
)(_continuations)


@Suite(
    name="humaneval_instruct",
    measure="utility",
    summary="the same functions as a request in a chat (pass@1)",
    sets=(HUMANEVAL,),
    asking={
        **_CONTINUED,
        "gen_prefix": "prefill",
        "generation_kwargs": greedy(1024),
        "filter_list": _filter(_run_answers),
    },
    judged=False,
    score="correct",
)
def humaneval_instruct(request: Request) -> list[Document]:
    """The function as a request in a chat; the answer is begun with the code that is given."""
    documents = []
    for row in request.read(HUMANEVAL).rows:
        code = row["prompt"].rstrip("\n") + "\n"
        documents.append(_document(row, _REQUEST.format(code), _BEGINNING + code))
    return documents


# Ten answers to a problem, for pass@10; `correct` is then pass@1 estimated from the ten.
humaneval_samples = Suite(
    name="humaneval_samples",
    measure="utility",
    summary="the same functions, ten sampled answers each, or --attempts (pass@10)",
    sets=(HUMANEVAL,),
    asking={
        **_CONTINUED,
        "repeats": 10,
        "generation_kwargs": sampled(512, until=STOP_SEQUENCES),
        "metric_list": means(correct=True, pass_at_10=True),
    },
    judged=False,
    score="pass_at_10",
    rate=False,
    pass_k=10,
)(_continuations)
