"""A user's own questions: a JSONL file becomes a suite, checked before any work starts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data_loader import normalise_prompt
from ..errors import DataError
from .catalogue import Suite
from .tasks.selection import select_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["custom_suite", "read_questions"]

Kind = Literal["answer", "options"]


def custom_suite(path: Path) -> Suite:
    """Make a suite of a task file.

    One JSON object a line, all of the same kind:

    - ``{"prompt": …, "answer": …}``: the model writes, and its first line must equal the answer (case, white space and
      a final full stop aside). `answer` may be a list of right answers. With ``"match": "contains"`` the answer only
      has to occur anywhere.
    - ``{"prompt": …, "options": [a, b, …], "answer": …}``: the likeliest option counts; `answer` is the right option's
      words or its index from 0.

    Optional in both: ``"id"`` (unique) and ``"tags"`` (an object of texts, for breakdowns).

    Args:
        path: the file.

    Returns:
        The suite, named ``custom_`` and the file's name.

    Raises:
        DataError: the file is missing or empty, or a line is not such an object; names file and line.
    """
    kind, rows = read_questions(path)
    name = "custom_" + "".join(letter if letter.isalnum() else "_" for letter in path.name.split(".")[0])
    config: dict[str, Any] = {
        "task": f"sst_{name}",
        "custom_dataset": _docs,
        "dataset_kwargs": {"path": str(path)},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "metric_list": [{"metric": "correct", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    if kind == "options":
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "options",
            "doc_to_target": "right",
            "process_results": _score_options,
        }
    else:
        config |= {
            "output_type": "generate_until",
            "doc_to_target": "right",
            "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 128},
            "process_results": _score_answer,
        }
    return Suite(
        name=name,
        measure="utility",
        summary=f"{len(rows)} questions of {path.name}",
        sets=(),
        judged=False,
        score="correct",
        config=config,
    )


def read_questions(path: Path) -> tuple[Kind, list[dict[str, Any]]]:
    """Read and check a task file.

    Args:
        path: the file.

    Returns:
        The kind of its questions, and documents with the columns that all tasks share, `right` (a JSON list of right
        answers, or the right option's index), `match`, and `options` where there are some.

    Raises:
        DataError: the file is missing or empty, or a line is wrong; names file and line.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a task file (.jsonl)")
    kinds: set[Kind] = set()
    seen: set[str] = set()
    rows = []
    # newline="\n": JSON strings may hold the other characters at which Python would end a line.
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = _question(json.loads(line), f"{path.stem}/{number}")
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error.msg}); one object a line is expected"
                ) from error
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error
            kinds.add("options" if "options" in row else "answer")
            if len(kinds) > 1:
                raise DataError(f"{path}, line {number}: questions with and without `options`; use two files")
            if row["id"] in seen:
                raise DataError(f"{path}, line {number}: the id {row['id']!r} occurs twice")
            seen.add(row["id"])
            rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no question; expected one JSON object a line")
    return kinds.pop(), rows


def _question(record: Any, default_id: str) -> dict[str, Any]:
    """One line as a document.

    Raises:
        ValueError: a field is missing or of another kind.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}, expected an object with `prompt` and `answer`")
    prompt, answer, options = record.get("prompt"), record.get("answer"), record.get("options")
    tags, match = record.get("tags", {}), record.get("match", "exact")
    unknown = sorted(set(record) - {"id", "prompt", "answer", "options", "tags", "match"})
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; known: id, prompt, answer, options, tags, match")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"`prompt` is {prompt!r}, expected text")
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ValueError(f"`tags` is {tags!r}, expected an object whose values are texts")
    if match not in {"exact", "contains"} or (options is not None and "match" in record):
        raise ValueError(f"`match` is {match!r}, expected exact or contains, and only without `options`")
    row: dict[str, Any] = {
        "id": str(record.get("id", default_id)),
        "asked": prompt,
        "prompt": prompt,
        "tags": json.dumps(tags, ensure_ascii=False, sort_keys=True),
        "prefill": "",
    }
    if options is None:
        return {**row, "right": json.dumps(_answers(answer), ensure_ascii=False), "match": match}
    return {**row, "right": _right_option(options, answer), "options": list(options)}


def _answers(answer: Any) -> list[str]:
    answers = [answer] if isinstance(answer, str) else answer
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and _plain(a) for a in answers):
        raise ValueError(f"`answer` is {answer!r}, expected text or a list of texts")
    return answers


def _right_option(options: Any, answer: Any) -> int:
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise ValueError(f"`options` is {options!r}, expected a list of at least two texts")
    if isinstance(answer, str) and options.count(answer) == 1:
        return options.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    raise ValueError(f"`answer` is {answer!r}, expected one of the options or its index from 0 to {len(options) - 1}")


def _docs(
    *, path: str, samples: int | None = None, seed: int = 0, exclude: Sequence[str] = (), **_metadata: Any
) -> "dict[str, Dataset]":
    _, rows = read_questions(Path(path))
    return select_rows(rows, samples, suite=path, seed=seed, exclude=exclude)


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
