"""Tasks as JSONL: TASK.train.jsonl, .calibration, .dev and .test in one folder, kinds and options in tasks.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data_loader.formats import read_file
from ...errors import DataError
from ..outcomes import task_kind
from .config import SPLITS, Part, TextConfig
from .rows import Asked, TextQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TaskKind", "check_first_tokens", "first_tokens_differ", "read_task_kinds", "read_task_rows"]

_KINDS = ("choice", "extract", "answer")


@dataclass(frozen=True)
class TaskKind:
    """What a task's answers look like.

    Attributes:
        name: of the task.
        kind: ``choice``: one of the options; ``extract``: fields and their text; ``answer``: any text.
        options: of a choice.
        folder: of its files.
    """

    name: str
    kind: str
    options: tuple[str, ...]
    folder: Path

    def file(self, part: Part) -> Path:
        """Where the rows of a part lie.

        Args:
            part: of the data.

        Returns:
            The file.
        """
        return self.folder / f"{self.name}.{part}.jsonl"


def read_task_kinds(config: TextConfig) -> dict[str, TaskKind]:
    """The kinds of a world's tasks; their files are looked for.

    Args:
        config: names folder and tasks.

    Returns:
        Name → kind.

    Raises:
        DataError: no tasks.json, a task that it does not have or describes wrongly, or a missing file.
    """
    folder = config.place(config.tasks.folder)
    index = folder / "tasks.json"
    try:
        raw: Any = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{index} does not exist; expected a folder of tasks with tasks.json, below `data` of the world's file or "
            "the folder that SST_MERGE_DATA names"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{index}: not JSON ({error}); expected task → kind and options") from error
    found = {}
    for name in config.tasks.names:
        if name not in raw:
            raise DataError(f"{index}: no task {name!r}; there are {', '.join(sorted(raw))}")
        kind, options = raw[name].get("kind"), tuple(raw[name].get("options") or ())
        if kind not in _KINDS:
            raise DataError(f"{index}: task {name!r} is of kind {kind!r}; expected one of {', '.join(_KINDS)}")
        if kind == "choice" and (len(options) < 2 or len(set(options)) < len(options)):
            raise DataError(f"{index}: task {name!r} has options {list(options)}; expected at least two different ones")
        found[name] = TaskKind(name, kind, options, folder)
    missing = [task.file(part) for task in found.values() for part in SPLITS if not task.file(part).is_file()]
    if missing:
        raise DataError(
            f"{missing[0]} does not exist ({len(missing)} files missing in all); every task needs TASK.train.jsonl, "
            "TASK.calibration.jsonl, TASK.dev.jsonl and TASK.test.jsonl"
        )
    return found


def read_task_rows(task: TaskKind, part: Part) -> list[TextQuestion]:
    """The rows of one part.

    Args:
        task: whose.
        part: which.

    Returns:
        Prompts with right answers.

    Raises:
        DataError: a row without prompt and response, or with an answer that is no option.
    """
    file, found = task.file(part), []
    for number, record in enumerate(read_file(file), start=1):
        prompt, response = record.get("prompt"), record.get("response")
        if not (isinstance(prompt, str) and isinstance(response, str) and prompt.strip() and response.strip()):
            raise DataError(
                f"{file}, row {number}: expected prompt and response, found {', '.join(record) or 'nothing'}"
            )
        if task.options and response not in task.options:
            raise DataError(f"{file}, row {number}: answer {response!r} is no option; {', '.join(task.options)} are")
        asked: Asked = "choice" if task.kind == "choice" else "answer"
        found.append(TextQuestion(task_kind(task.name), prompt, response, asked, task.options, str(file)))
    if not found:
        raise DataError(f"{file}: holds no rows; expected prompt and response in every line")
    return found


def first_tokens_differ(options: Sequence[Sequence[int]]) -> bool:
    """Whether one token tells the options apart.

    Args:
        options: token ids of each.

    Returns:
        True where no two begin alike.
    """
    return len({ids[0] for ids in options}) == len(options)


def check_first_tokens(tasks: Sequence[TaskKind], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse options that one pass cannot tell apart.

    Args:
        tasks: that are to be scored by first tokens.
        tokenizer: of the model.

    Raises:
        DataError: two options of a task begin with the same token.
    """
    for task in tasks:
        seen: dict[int, str] = {}
        for option in task.options:
            first = tokenizer(option, add_special_tokens=False)["input_ids"][0]
            if first in seen:
                raise DataError(
                    f"task {task.name!r} ({task.folder / 'tasks.json'}): options {seen[first]!r} and {option!r} begin "
                    "with the same token, so one pass cannot rank them; write tasks.scoring: auto or whole"
                )
            seen[first] = option
