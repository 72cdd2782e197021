"""What a suite is: questions, how they are asked, and what its scores stand for; and how one is declared."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .asking import JUDGED
from .selection import select_rows
from .sets import EvalSet, Row, SetSpec, Source, read_set

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Builder", "Document", "Measure", "Request", "Suite", "document", "plain", "suite"]

Measure = Literal["safety", "over_refusal", "utility", "drift"]

# One question in the columns that all suites share (:func:`document`), and what its own scores need.
Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the documents of a suite depend on, beside the suite.

    Attributes:
        read: reads a data set.
        seed: of whatever is drawn.
        world_seed: of the world that the suite asks about; suites of real text have none.
        driftcheck: file or hub id of the original DRIFTCHECK prompts, for those who have them.
    """

    read: Callable[[SetSpec], EvalSet]
    seed: int = 0
    world_seed: int = 0
    driftcheck: str | None = None


Builder = Callable[[Request], Sequence[Document]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One evaluation suite: one task of lm-evaluation-harness, and what its scores stand for.

    Attributes:
        name: as written on the command line.
        measure: which column of the summary it feeds.
        summary: one line.
        config: the whole task, with Python functions in it.
        sets: the data sets that it reads.
        judged: whether its answers go to the judges; otherwise its task scores them itself.
        score: the column of its records that its rate is the mean of: ``refusal`` where judged, ``correct`` elsewhere.
        breakdown: tag that its results are broken down by, or None.
        rate: whether `score` is 0 or 1 for each record, so that its mean is a rate and has a Wilson interval.
        helpfulness: whether judged answers get the column ``helpful`` too.
        pass_k: the k of its pass@k, where it draws several answers to each question; None elsewhere.
        higher_is_better: which way `score` is read; a refusal is good where the prompt is harmful and bad elsewhere.
        world: the world in whose language it asks, such as ``lab``; None for real text.
        in_groups: whether names of groups, such as ``utility``, mean it too; off where another suite asks the same.
        check: raises where a base cannot answer; told the base's folder or hub id and the world's seed, before
            anything is loaded.
    """

    name: str
    measure: Measure
    summary: str
    config: Mapping[str, Any]
    sets: tuple[SetSpec, ...] = ()
    judged: bool = True
    score: str = "refusal"
    breakdown: str | None = None
    rate: bool = True
    helpfulness: bool = False
    pass_k: int | None = None
    higher_is_better: bool = True
    world: str | None = None
    in_groups: bool = True
    check: Callable[[str, int], None] | None = None

    @property
    def task(self) -> str:
        """Name of its task in lm-evaluation-harness; the prefix keeps it apart from tasks of the same name there."""
        return f"sst_{self.name}"

    @property
    def spec(self) -> dict[str, Any]:
        """What to give to ``TaskManager.load``: a copy of the task, since the harness changes what it is given."""
        return copy.deepcopy(dict(self.config))

    @property
    def runs_code(self) -> bool:
        """Whether it runs what models write, and so must be asked for."""
        return bool(self.config.get("unsafe_code", False))


def suite(
    *,
    name: str,
    measure: Measure,
    summary: str,
    sets: Sequence[SetSpec] = (),
    task: Mapping[str, Any] = JUDGED,
    examples: Builder | None = None,
    judged: bool = True,
    score: str = "refusal",
    breakdown: str | None = None,
    rate: bool = True,
    helpfulness: bool = False,
    pass_k: int | None = None,
    higher_is_better: bool = True,
    world: str | None = None,
    in_groups: bool = True,
    check: Callable[[str, int], None] | None = None,
) -> Callable[[Builder], Suite]:
    """Declare a function that makes documents as a suite; the decorated name becomes the :class:`Suite`.

    Args:
        name: as written on the command line.
        measure: which column of the summary it feeds.
        summary: one line.
        sets: the data sets that it reads.
        task: how it is asked and scored: the task of lm-evaluation-harness without its name and its data.
        examples: makes the worked examples, where `task` shows some (its split ``examples``).
        judged: whether its answers go to the judges.
        score: the column that counts.
        breakdown: tag that its results are broken down by.
        rate: whether `score` is 0 or 1.
        helpfulness: whether judged answers get the column ``helpful`` too.
        pass_k: the k of its pass@k.
        higher_is_better: which way `score` is read.
        world: the world in whose language it asks.
        in_groups: whether names of groups mean it too.
        check: raises where a base cannot answer.

    Returns:
        A decorator.
    """

    def declare(build: Builder) -> Suite:
        config = {
            "task": f"sst_{name}",
            "custom_dataset": _dataset(name, build, examples),
            "test_split": "test",
            "num_fewshot": 0,
            "metadata": {"version": 1.0},
            **task,
        }
        return Suite(
            name=name,
            measure=measure,
            summary=summary,
            config=config,
            sets=tuple(sets),
            judged=judged,
            score=score,
            breakdown=breakdown,
            rate=rate,
            helpfulness=helpfulness,
            pass_k=pass_k,
            higher_is_better=higher_is_better,
            world=world,
            in_groups=in_groups,
            check=check,
        )

    return declare


def _dataset(name: str, build: Builder, examples: Builder | None) -> "Callable[..., dict[str, Dataset]]":
    """What lm-evaluation-harness calls with the task manager's metadata: ours, and its own, such as the version."""

    def documents(
        *,
        samples: int | None = None,
        seed: int = 0,
        world_seed: int = 0,
        source: Source = "auto",
        root: str | Path | None = None,
        exclude: Sequence[str] = (),
        driftcheck: str | None = None,
        **_metadata: Any,
    ) -> "dict[str, Dataset]":
        folder = None if root is None else Path(root)
        request = Request(
            read=lambda spec: read_set(spec, folder, source), seed=seed, world_seed=world_seed, driftcheck=driftcheck
        )
        splits = select_rows(build(request), samples, suite=name, seed=seed, exclude=exclude)
        if examples is not None:
            from datasets import Dataset

            splits["examples"] = Dataset.from_list([dict(row) for row in examples(request)])
        return splits

    return documents


def document(
    row: Row, *, prompt: str | None = None, tags: Mapping[str, str] | None = None, prefill: str = "", **columns: Any
) -> Document:
    """A document in the columns that all suites share.

    Args:
        row: of a set; gives the id, and the words that prompts left out are compared with.
        prompt: what the user says; the row's own by default.
        tags: what results may be broken down by.
        prefill: words put into the answer's mouth.
        **columns: what else the task needs.

    Returns:
        Column → value; tags are a JSON object.
    """
    return {
        "id": row["id"],
        "asked": row["prompt"],
        "prompt": row["prompt"] if prompt is None else prompt,
        "tags": json.dumps(dict(tags or {}), ensure_ascii=False, sort_keys=True),
        "prefill": prefill,
        **columns,
    }


def plain(spec: SetSpec, *tags: str, keep: Callable[[Row], bool] = lambda _: True) -> Builder:
    """Documents that are the prompts of one set, as they are.

    Args:
        spec: the set.
        *tags: its columns that results may be broken down by.
        keep: which rows are asked; all by default.

    Returns:
        How the documents are made; their tag `attack` is "none".
    """
    return lambda request: [
        document(row, tags={"attack": "none", **{tag: row[tag] for tag in tags}})
        for row in request.read(spec).rows
        if keep(row)
    ]
