"""What a model has answered already, on disk: one appended line a batch, so that a kill costs one batch at most.

A line is written whole, flushed before the next batch starts, and never changed; so whatever kills the process, the
file ends in complete lines or in one torn line, which is cut off when the file is opened again: a batch is there whole
or not at all. lm-evaluation-harness has a cache of its own (SQLite behind a thread), which loses what the thread has
not written yet and leaves out sampled answers; this one does neither.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import DataError

__all__ = ["AnswerStore", "digest"]

_FORMAT = "sst_merge.answers/1"


def digest(value: Any) -> str:
    """SHA-256 of a value's JSON, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class AnswerStore:
    """Request → answer, kept in one file that is only ever appended to.

    Attributes:
        path: the file.
        added: answers that came in since it was opened.
    """

    def __init__(self, path: Path, context: Mapping[str, Any]) -> None:
        """Open a file, or start it.

        Args:
            path: the file.
            context: everything that decides an answer beside the request itself; written into the first line.

        Raises:
            DataError: the file belongs to another context, or a line before the last is damaged.
        """
        self.path = path
        self.added = 0
        self._answers: dict[str, Any] = {}
        head = {"format": _FORMAT, "context": json.loads(json.dumps(dict(context), default=str))}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(head) if path.exists() else 0
        self._stream: TextIO = path.open("a", encoding="utf-8")
        if path.stat().st_size > whole:
            # The torn end of a line that a kill left behind.
            os.truncate(path, whole)
        if whole == 0:
            self._stream.write(json.dumps(head, ensure_ascii=False) + "\n")
            self._stream.flush()

    def __enter__(self) -> "AnswerStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, answers: Iterable[tuple[str, Any]]) -> None:
        """Keep the answers of a batch; they are with the operating system when this returns."""
        batch = dict(answers)
        self._stream.write(json.dumps(batch, ensure_ascii=False) + "\n")
        self._stream.flush()
        self._answers |= batch
        self.added += len(batch)

    def of(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of some requests that are there."""
        return {key: self._answers[key] for key in keys if key in self._answers}

    def items(self) -> Iterable[tuple[str, Any]]:
        """All of them."""
        return self._answers.items()

    def hold(self, answers: Mapping[str, Any]) -> None:
        """Know answers that another process keeps on disk."""
        self._answers |= answers

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read(self, head: Mapping[str, Any]) -> int:
        """Fill the dictionary; returns the bytes up to the end of the last complete line.

        Raises:
            DataError: a complete line is not an answer, or the first one names another context.
        """
        whole = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    if number > 1:
                        self._answers |= dict(value)
                except (ValueError, TypeError) as error:
                    raise DataError(
                        f"{self.path}, line {number}: no answers ({error}); delete this file, and what it held is "
                        f"generated again"
                    ) from error
                if number == 1 and value != head:
                    raise DataError(
                        f"{self.path}: holds answers given under other settings; delete it, or choose another --cache"
                    )
                whole += len(line)
        return whole
