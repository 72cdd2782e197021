"""Prompts and answers: from files or the hub to rows, from rows to batches with labels on the answer only."""

from .batch import IGNORED, Batch
from .encode import encode_rows
from .load import load_rows
from .rows import Row, RowLike, normalise_prompt, split_rows
from .source import DataSource

__all__ = [
    "IGNORED",
    "Batch",
    "DataSource",
    "Row",
    "RowLike",
    "encode_rows",
    "load_rows",
    "normalise_prompt",
    "split_rows",
]
