"""A user's own questions: a JSONL file becomes a suite, checked before any work starts."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..data_loader import normalise_prompt
from ..errors import DataError
from ..reading import cause, parse_json, reading
from ..texts import did_you_mean, shown, visible
from .asking import JUDGED, greedy, means
from .contract import Measure, Suite

__all__ = ["custom_suite", "read_questions"]

Kind = Literal["answer", "options", "judged"]

_FILE = re.compile(r"(?P<path>.+\.jsonl)(?::(?P<measure>\w*))?")
_MEASURES: tuple[Measure, ...] = ("safety", "over_refusal", "utility")


def custom_suite(file: str | Path) -> Suite:
    """Make a suite of a user's file.

    One JSON object a line, all of the same kind. A suite of utility (the default) compares answers:

    - ``{"prompt": …, "answer": …}``: the model writes, and its first line must equal the answer (case, white space and
      a final full stop aside). `answer` may be a list of right answers. With ``"match": "contains"`` the answer only
      has to occur anywhere.
    - ``{"prompt": …, "options": [a, b, …], "answer": …}``: the likeliest option counts; `answer` is the right option's
      words or its index from 0.

    In a suite of safety (``FILE.jsonl:safety``: harmful prompts, refusing is right) or of over-refusal
    (``FILE.jsonl:over_refusal``: harmless prompts, refusing is wrong) the judges decide, as in the suites of the table:

    - ``{"prompt": …}``, and ``"prefill"``: words put into the answer's mouth, where there are some.

    Optional everywhere: ``"id"`` (unique) and ``"tags"`` (an object of texts, for breakdowns).

    Args:
        file: the file, alone or followed by a colon and what it measures.

    Returns:
        The suite, named ``custom_`` and the file's name.

    Raises:
        DataError: the file is missing or empty, a line is not such an object, or another measure is asked for; names
            file and line.
    """
    found = _FILE.fullmatch(str(file))
    if found is None:
        raise DataError(f"{file}: expected a file of own questions, FILE.jsonl or FILE.jsonl:safety")
    path = Path(found["path"])
    measure = next((one for one in _MEASURES if one == (found["measure"] or "utility")), None)
    if measure is None or found["measure"] == "":
        raise DataError(
            f"{file}: a file of own questions measures {', '.join(_MEASURES)}, not {found['measure']!r}; write "
            f"{path.name}:{_MEASURES[0]}, or {path.name} alone for {_MEASURES[-1]}"
        )
    with reading(path, DataError, "questions, one JSON object a line in UTF-8", "convert the file"):
        kind, rows = read_questions(path, judged=measure != "utility")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Suite(
        name="custom_" + "".join(letter if letter.isalnum() else "_" for letter in path.name.split(".")[0]),
        measure=measure,
        summary=f"{len(rows)} questions of {visible(path.name)}",
        asking={**_TASKS[kind], "metadata": {"version": 1.0, "sha256": digest}},
        judged=kind == "judged",
        score="refusal" if kind == "judged" else "correct",
        higher_is_better=measure != "over_refusal",
    )(lambda _request: rows)


def read_questions(path: Path, *, judged: bool = False) -> tuple[Kind, list[dict[str, Any]]]:
    """Read and check a file of questions.

    Args:
        path: the file.
        judged: whether judges read the answers, so that the file has none.

    Returns:
        The kind of its questions, and documents with the columns that all tasks share, `right` (a JSON list of right
        answers, or the right option's index), `match`, and `options` where there are some.

    Raises:
        DataError: the file is missing or empty, or a line is wrong; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a file of questions (.jsonl)")
    kinds: set[Kind] = set()
    seen: set[str] = set()
    rows = []
    read = _prompt if judged else _question
    # newline="\n": JSON strings may hold the other characters at which Python would end a line.
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = read(parse_json(line), f"{visible(path.stem)}/{number}")
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error.msg}); one object a line is expected"
                ) from error
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: {cause(error)}") from error
            kinds.add("judged" if judged else "options" if "options" in row else "answer")
            if len(kinds) > 1:
                raise DataError(f"{path}, line {number}: questions with and without `options`; use two files")
            if row["id"] in seen:
                raise DataError(f"{path}, line {number}: the id {row['id']!r} occurs twice")
            seen.add(row["id"])
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no question; expected one JSON object a line")
    return kinds.pop(), rows


def _asked(record: Any, default_id: str, known: Sequence[str], hint: str) -> dict[str, Any]:
    """The columns that all kinds of questions share.

    Raises:
        ValueError: a field is missing, unknown, or of another kind.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}, expected an object with `prompt`")
    prompt, tags = record.get("prompt"), record.get("tags", {})
    unknown = sorted(set(record) - set(known))
    if unknown:
        # What calibration data call an answer.
        close = did_you_mean("answer" if unknown[0] == "response" else unknown[0], known)
        raise ValueError(f"unknown field {', '.join(unknown)}{close}; known: {', '.join(known)}{hint}")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"`prompt` is {shown(prompt)}, expected text")
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ValueError(f"`tags` is {shown(tags)}, expected an object whose values are texts")
    return {
        "id": str(record.get("id", default_id)),
        "asked": prompt,
        "prompt": prompt,
        "tags": json.dumps(tags, ensure_ascii=False, sort_keys=True),
        "prefill": "",
    }


def _prompt(record: Any, default_id: str) -> dict[str, Any]:
    """A line whose answer is judged.

    Raises:
        ValueError: as for :func:`_asked`, or the prefilled words are no text.
    """
    hint = "; judges read what the model says, so there is no right answer to give: leave it out"
    row = _asked(record, default_id, ("id", "prompt", "tags", "prefill"), hint)
    prefill = record.get("prefill", "")
    if not isinstance(prefill, str):
        raise ValueError(f"`prefill` is {shown(prefill)}, expected text")
    return {**row, "prefill": prefill}


def _question(record: Any, default_id: str) -> dict[str, Any]:
    """A line with its right answer.

    Raises:
        ValueError: as for :func:`_asked`, or of the answer.
    """
    row = _asked(record, default_id, ("id", "prompt", "answer", "options", "tags", "match"), "")
    answer, options, match = record.get("answer"), record.get("options"), record.get("match", "exact")
    if match not in ("exact", "contains") or (options is not None and "match" in record):
        raise ValueError(f"`match` is {shown(match)}, expected exact or contains, and only without `options`")
    if options is None:
        return {**row, "right": json.dumps(_answers(answer), ensure_ascii=False), "match": match}
    return {**row, "right": _right_option(options, answer), "options": list(options)}


def _answers(answer: Any) -> list[str]:
    answers = [answer] if isinstance(answer, str) else answer
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and _plain(a) for a in answers):
        raise ValueError(
            f"`answer` is {shown(answer)}, expected text or a list of texts; prompts without answers are suites of "
            "safety (FILE.jsonl:safety) or over-refusal (FILE.jsonl:over_refusal)"
        )
    return answers


def _right_option(options: Any, answer: Any) -> int:
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError(f"`options` is {shown(options)}, expected a list of at least two texts")
    if isinstance(answer, str) and options.count(answer) == 1:
        return options.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    raise ValueError(
        f"`answer` is {shown(answer)}, expected one of the options or its index from 0 to {len(options) - 1}"
    )


def _score_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    right = [_plain(answer) for answer in json.loads(doc["right"])]
    if doc["match"] == "contains":
        return {"correct": float(any(answer in normalise_prompt(results[0]) for answer in right))}
    first = next((line for line in results[0].splitlines() if line.strip()), "")
    return {"correct": float(_plain(first) in right)}


def _score_options(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    likelihoods = [likelihood for likelihood, _ in results]
    return {"correct": float(likelihoods.index(max(likelihoods)) == doc["right"])}


def _plain(text: str) -> str:
    return normalise_prompt(text).removesuffix(".")


_CORRECT = means(correct=True)
_TASKS: Mapping[Kind, Mapping[str, Any]] = {
    "judged": JUDGED,
    "answer": {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "right",
        "generation_kwargs": greedy(128, until=["\n\n"]),
        "process_results": _score_answer,
        "metric_list": _CORRECT,
    },
    "options": {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "right",
        "process_results": _score_options,
        "metric_list": _CORRECT,
    },
}
