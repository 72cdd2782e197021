"""What a suite is: questions, how they are asked, and what its scores stand for; and how one is declared."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .asking import JUDGED
from .selection import select_rows
from .sets import EvalSet, Row, SetSpec, Source, read_set

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Builder", "Document", "Measure", "Request", "Suite", "document", "plain"]

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


def _nothing(_request: Request) -> Sequence[Document]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One evaluation suite: one task of lm-evaluation-harness, and what its scores stand for.

    A suite is also the decorator that declares it: ``@Suite(name=…, …)`` in front of the function that makes its
    documents, whose name then becomes the suite.

    Attributes:
        name: as written on the command line.
        measure: which column of the summary it feeds.
        summary: one line.
        sets: the data sets that it reads.
        asking: how it is asked and scored: the task of lm-evaluation-harness without its name and its data.
        documents: makes what is asked.
        examples: makes worked examples, where `asking` shows some (its split ``examples``).
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
    sets: Sequence[SetSpec] = ()
    asking: Mapping[str, Any] = field(default_factory=lambda: JUDGED)
    documents: Builder = _nothing
    examples: Builder | None = None
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

    def __call__(self, documents: Builder) -> "Suite":
        """Declare a function as what makes the documents.

        Args:
            documents: the function.

        Returns:
            The suite.
        """
        return replace(self, documents=documents)

    @property
    def task(self) -> str:
        """Name of its task in lm-evaluation-harness; the prefix keeps it apart from tasks of the same name there."""
        return f"sst_{self.name}"

    @property
    def runs_code(self) -> bool:
        """Whether it runs what models write, and so must be asked for."""
        return bool(self.asking.get("unsafe_code", False))

    @property
    def config(self) -> dict[str, Any]:
        """The whole task, to give to ``TaskManager.load``; a copy, since the harness changes what it is given."""
        return {
            "task": self.task,
            "custom_dataset": self.dataset,
            "test_split": "test",
            "num_fewshot": 0,
            "metadata": {"version": 1.0},
            **copy.deepcopy(dict(self.asking)),
        }

    def dataset(
        self,
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
        """What is asked; lm-evaluation-harness calls this with the task manager's metadata.

        Args:
            samples: draw at most so many; all of them by default.
            seed: of the draw.
            world_seed: of the world that the suite asks about.
            source: ``folder``, ``hub`` or ``auto``.
            root: data folder in place of the one that SST_MERGE_DATA names.
            exclude: prompts that were calibrated on; documents that ask one of them, wrapped or not, are left out, and
                pairs of which either half does.
            driftcheck: file or hub id of the original DRIFTCHECK prompts in place of the stand-in.
            **_metadata: what else the harness passes along, such as the task's version.

        Returns:
            Split → documents: ``test``, what :func:`.selection.select_rows` left out, and ``examples``.
        """
        folder = None if root is None else Path(root)
        request = Request(
            read=lambda spec: read_set(spec, folder, source), seed=seed, world_seed=world_seed, driftcheck=driftcheck
        )
        splits = select_rows(self.documents(request), samples, suite=self.name, seed=seed, exclude=exclude)
        if self.examples is not None:
            from datasets import Dataset

            splits["examples"] = Dataset.from_list([dict(row) for row in self.examples(request)])
        return splits


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
