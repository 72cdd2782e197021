"""Answers of several processes: each keeps its own on disk until the suite is done, the first one keeps all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from .. import processes
from .answers import AnswerStore

__all__ = ["exchange_answers", "open_answers"]


@contextmanager
def open_answers(file: Path, context: Mapping[str, Any]) -> Iterator[AnswerStore]:
    """The store of a suite; of a process that is not the first, a file of its own that is gone at the end.

    What a run of several processes left behind when it was killed is taken over, by however many are started again.

    Args:
        file: of the answers of all.
        context: of :class:`~.answers.AnswerStore`.

    Yields:
        The store.
    """
    own = file if processes.is_first() else file.with_name(f"{file.stem}.{processes.name()}{file.suffix}")
    if processes.is_first():
        _take_over(file, context)
    processes.meet(f"answers {file.name}")
    with closing(AnswerStore(own, context)) as store:
        yield store
    processes.meet(f"answers {file.name} are all there")
    if own != file:
        own.unlink()


def exchange_answers(store: AnswerStore, keys: Sequence[str]) -> None:
    """Let every process know the answers of all; the first one writes down what is new to it.

    Args:
        store: of this process.
        keys: of the requests.
    """
    if processes.count() == 1:
        return
    for found in processes.from_all("answers", store.of(keys)):
        new = {key: answer for key, answer in found.items() if key not in store}
        if new and processes.is_first():
            store.add(new.items())
        else:
            store.hold(new)


def _take_over(file: Path, context: Mapping[str, Any]) -> None:
    left = sorted(file.parent.glob(f"{escape(file.stem)}.*of*{file.suffix}"))
    if not left:
        return
    with closing(AnswerStore(file, context)) as store:
        for other in left:
            with closing(AnswerStore(other, context)) as found:
                new = {key: answer for key, answer in found.items() if key not in store}
            if new:
                store.add(new.items())
            other.unlink()
